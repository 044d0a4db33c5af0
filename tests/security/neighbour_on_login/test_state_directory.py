"""A member of one's own group never gets a foot into the state directory, whose pickles run."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from submitit.core.utils import cloudpickle_dump

from hpc.errors import StateError
from hpc.jobs import run_task
from hpc.processes import own_python
from hpc.state import directory
from tests.security.neighbour_on_login.two_users import (
    GROUP,
    NEIGHBOUR,
    REAL,
    VICTIM,
    as_user,
    home,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PROJECT = Path(__file__).parents[3]
PATIENCE_S = 240.0
MAIN = "import sys; sys.path.pop(0); from hpc.__main__ import main; main()"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HPC_SERVE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)


def in_home(folder: Path, action: Callable[[], Any]) -> Callable[[], Any]:
    """Return an action with a home of one's own."""

    def act() -> Any:
        os.environ["HOME"] = str(folder)
        return action()

    return act


def modes(*paths: Path) -> list[int]:
    return [stat.S_IMODE(path.stat().st_mode) for path in paths]


def test_folders_above_are_made_for_the_owner_alone_and_are_not_swapped() -> None:
    """The attack: ~/.local is group-writable by umask 002, so the leaf is renamed and replaced."""
    with home() as folder:
        root = folder / ".local/state/hpc-serve"
        assert as_user(VICTIM, in_home(folder, directory.home)) == root
        assert modes(folder / ".local", folder / ".local/state", root) == [0o700] * 3

        def swap() -> None:
            root.rename(root.with_name("gone"))

        if REAL:
            assert as_user(NEIGHBOUR, swap)[0] == "PermissionError"


@pytest.mark.parametrize("above", [".local", ".local/state", "."])
def test_a_home_in_folders_that_the_group_writes_to_is_refused(above: str) -> None:
    with home() as folder:

        def prepare() -> None:
            (folder / ".local/state").mkdir(parents=True)
            for each in (folder / ".local", folder / ".local/state"):
                each.chmod(0o755)
            (folder / above).chmod(0o770)

        assert as_user(VICTIM, prepare) is None
        kind, text, hint = as_user(VICTIM, in_home(folder, directory.home))
        assert kind == "StateError"
        weak = folder / above
        assert f"is not safe from other users: {weak} can be written to by its group" in text
        assert hint.startswith(f"chmod g-w {weak}, or ")
        assert not (folder / ".local/state/hpc-serve").exists()
        assert as_user(VICTIM, lambda: os.system(hint.partition(",")[0])) == 0
        assert isinstance(as_user(VICTIM, in_home(folder, directory.home)), Path)


def test_a_project_folder_chosen_on_purpose_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "project"
    shared.mkdir()
    shared.chmod(0o2775)
    for chosen in (shared, shared / "me" / "hpc-serve"):
        with pytest.raises(StateError, match="can be written to by its group"):
            directory.home(str(chosen))
    assert modes(shared) == [0o2775]
    assert not list(shared.iterdir())


def test_a_sticky_folder_above_is_as_good_as_tmp_but_no_state_directory(tmp_path: Path) -> None:
    shared = tmp_path / "scratch"
    shared.mkdir()
    shared.chmod(0o1777)
    assert directory.home(str(shared / "me")) == shared / "me"


def test_a_link_of_somebody_else_on_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "mine")
    assert directory.home(str(link)) == link
    if not REAL:
        return
    os.chown(link, NEIGHBOUR, GROUP, follow_symlinks=False)
    with pytest.raises(StateError, match=f"{link} belongs to uid {NEIGHBOUR}"):
        directory.home(str(link / "below"))


def test_what_a_root_of_somebody_else_holds_is_never_used() -> None:
    if not REAL:
        return
    with home() as folder:
        folder.chmod(0o770)

        def plant() -> None:
            (folder / ".local/state/hpc-serve").mkdir(parents=True, mode=0o777)

        assert as_user(NEIGHBOUR, plant) is None
        folder.chmod(0o700)  # repaired since, but what was planted stays
        kind, text, hint = as_user(VICTIM, in_home(folder, directory.home))
        assert kind == "StateError"
        assert f"{folder}/.local belongs to uid {NEIGHBOUR}, not to you" in text
        assert hint == "choose another folder by HPC_SERVE_HOME"


class Plant:
    """Whatever unpickles this has run code of the one who pickled it."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __reduce__(self) -> Any:
        return (os.system, (f"id -u >>{self.log}",))


def test_a_job_does_not_unpickle_what_a_neighbour_put_in_place_of_the_state() -> None:
    with home() as folder:
        jobs = folder / ".local/state/hpc-serve/services/m/jobs"

        def submit() -> None:
            os.environ["HOME"] = str(folder)
            (folder / ".local").mkdir(mode=0o775)  # as another program made it, under umask 002
            (folder / ".local").chmod(0o775)
            for each in ("state", "state/hpc-serve", "state/hpc-serve/services"):
                (folder / ".local" / each).mkdir(mode=0o700)
            jobs.mkdir(parents=True, mode=0o700)
            (jobs / "1_submitted.pkl").write_bytes(b"")

        def swap() -> None:
            (folder / ".local/state").rename(folder / ".local/gone")
            jobs.mkdir(parents=True)
            cloudpickle_dump(Plant(folder / "log"), jobs / "1_submitted.pkl")

        assert as_user(VICTIM, submit) is None
        assert as_user(NEIGHBOUR, swap) is None
        kind, text, _ = as_user(VICTIM, lambda: run_task.check(jobs / "1_submitted.pkl"))
        assert kind == "StateError"
        assert "the job's task is not run" in text


def test_the_program_of_a_job_looks_before_it_unpickles(tmp_path: Path) -> None:
    jobs = tmp_path / "state/jobs"
    jobs.mkdir(parents=True, mode=0o700)
    cloudpickle_dump(Plant(tmp_path / "log"), jobs / "1_submitted.pkl")
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "SUBMITIT_EXECUTOR": "slurm"}
    env |= {f"SLURM_{name}": "1" for name in ("JOB_ID", "JOB_NUM_NODES", "NTASKS")}
    env |= {f"SLURM_{name}": "0" for name in ("NODEID", "PROCID", "LOCALID")}
    argv = own_python.argv("hpc.jobs.run_task", str(jobs))

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)

    jobs.parent.chmod(0o770)
    done = run()
    assert done.returncode != 0
    assert done.stderr.endswith(
        f"hpc-serve: the job's task is not run: {jobs.parent} can be written to by its group\n"
        f"  chmod g-w {jobs.parent}\n"
    )
    assert not (tmp_path / "log").exists()
    jobs.parent.chmod(0o700)
    run()
    assert (tmp_path / "log").exists()  # the pickle would have run


def command(home_folder: Path, *words: str, umask: int) -> subprocess.CompletedProcess[str]:
    hidden = ("HPC_SERVE_", "SLURM_", "SUBMITIT_", "XDG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    own = {"HOME": str(home_folder), "HPC_SERVE_CLUSTER": "local", "PYTHONPATH": str(PROJECT)}
    return subprocess.run(
        [sys.executable, "-c", MAIN, *words],
        env={**kept, **own},
        cwd=home_folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        umask=umask,
    )


def test_all_that_use_leaves_is_closed_under_any_umask_but_not_what_was_asked_for(
    tmp_path: Path,
) -> None:
    owner = tmp_path / "owner"
    owner.mkdir()
    owner.chmod(0o755)
    (owner / "in.jsonl").write_text('{"prompt": "hi"}\n')
    model = PROJECT / "examples/demo-model/demo-f16.gguf"
    engine = ("--engine=llamacpp", "--container=none", f"--model={model}", "--cpus=1")
    done = command(owner, "batch", "submit", "in.jsonl", "-oout.jsonl", *engine, umask=0o002)
    assert done.returncode == 0, done.stderr
    batch = done.stdout.split()[1].rstrip(":")
    for words in (("gateway", "start", "--port", "0"), ("gateway", "stop")):
        assert command(owner, *words, umask=0).returncode == 0

    def state_word() -> str:
        told = json.loads(command(owner, "batch", "status", batch, "--json", umask=0o002).stdout)
        return str(told["state"])

    deadline = time.monotonic() + PATIENCE_S
    while (word := state_word()) in {"QUEUED", "RUNNING"} and time.monotonic() < deadline:
        time.sleep(0.2)
    state = owner / ".local/state/hpc-serve"
    open_ = [
        (oct(stat.S_IMODE(path.lstat().st_mode)), path)
        for path in (owner / ".local", *(owner / ".local").rglob("*"))
        if not path.is_symlink() and path.lstat().st_mode & 0o077
    ]
    assert not open_
    assert list(state.glob("jobs/*/*_log.out")), "jobs have left their logs"
    if word == "DONE":  # llama-cpp-python is installed
        assert modes(owner / "out.jsonl") == [0o664]


@pytest.mark.parametrize("name", ["owner.key", "batch.key", "gateways/n1/gateway.json"])
def test_state_with_a_secret_that_others_can_open_is_refused(tmp_path: Path, name: str) -> None:
    root = directory.home(str(tmp_path / "state"))
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    path.chmod(0o600)
    assert directory.home(str(root)) == root
    path.chmod(0o620)
    with pytest.raises(StateError, match=r"is open to others \(mode 620\)") as caught:
        directory.home(str(root))
    assert caught.value.hint == f"chmod 600 {path}"
    path.chmod(0o600)
    if REAL:
        os.chown(path, NEIGHBOUR, GROUP)
        with pytest.raises(StateError, match=f"belongs to uid {NEIGHBOUR}, not to you"):
            directory.home(str(root))


def test_a_replicas_secret_that_others_can_open_is_refused_and_not_used(tmp_path: Path) -> None:
    root = directory.home(str(tmp_path / "state"))
    secret = directory.new_secret(root, "m", 0)
    assert directory.load_secret(root, "m", 0) == secret
    path = directory.secret_path(root, "m", 0)
    path.chmod(0o644)
    assert directory.load_secret(root, "m", 0) is None
    with pytest.raises(StateError, match="is open to others"):
        directory.home(str(root))
