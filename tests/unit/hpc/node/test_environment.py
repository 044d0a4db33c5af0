"""What a job finds out about its node, and the private folders that it makes there."""

from __future__ import annotations

import os
import socket
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpc.errors import EngineError
from hpc.model import Resources, ServiceSpec
from hpc.node import environment as node_environment
from hpc.processes import by_pid

if TYPE_CHECKING:
    from collections.abc import Mapping

GONE = 2**22 + 1
"""A process id beyond the largest that Linux gives."""


def spec(*, minutes: int | None = None, **given: str | None) -> ServiceSpec:
    own: dict[str, str | None] = {"hf_home": "/cache", "python": None} | given
    return ServiceSpec(
        name="tiny",
        engine="llamacpp",
        server="llama-cpp-python",
        model="/models/tiny.gguf",
        container="none",
        resources=Resources(time_min=minutes),
        hf_home=own["hf_home"],
        python=own["python"],
    )


def folder_of(base: Path, owner: str | None, name: str = "x") -> Path:
    """Make a private folder as a job with that identity would have left it."""
    made = base / f"{node_environment.PREFIX}{name}"
    made.mkdir(mode=0o700)
    (made / "engine.sock").touch()
    if owner is not None:
        (made / node_environment.OWNER).write_text(owner)
    return made


def test_an_element_of_an_array_is_known_by_its_index() -> None:
    env = {"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "0"}
    assert node_environment.job_id(env) == "17_0"
    assert node_environment.job_id({"SLURM_JOB_ID": "19"}) == "19"
    assert node_environment.job_id({"SUBMITIT_LOCAL_JOB_ID": "4711"}) == "4711"
    assert node_environment.job_id({}) == ""


def test_a_job_knows_how_often_it_was_requeued() -> None:
    assert node_environment.restarts({"SLURM_JOB_ID": "19"}) == 0
    assert node_environment.restarts({"SLURM_JOB_ID": "19", "SLURM_RESTART_COUNT": "3"}) == 3
    assert node_environment.restarts({"SUBMITIT_LOCAL_JOB_ID": "4711"}) is None


def test_a_private_folder_is_ours_alone_and_goes(tmp_path: Path) -> None:
    with node_environment.private_folder(tmp_path) as folder:
        assert folder.parent == tmp_path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert (folder / node_environment.OWNER).read_text() == by_pid.identity(os.getpid())
        (folder / "deep").mkdir()
        (folder / "deep" / "file").touch()
    assert list(tmp_path.iterdir()) == []


def test_a_private_folder_goes_when_its_job_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), node_environment.private_folder(tmp_path):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_socket_in_it_is_short_enough_for_linux() -> None:
    with node_environment.private_folder() as folder:
        assert len(str(folder / node_environment.SOCKET)) < 107


def test_the_next_job_removes_what_a_dead_one_left(tmp_path: Path) -> None:
    alive = by_pid.identity(os.getpid())
    assert alive is not None
    dead = folder_of(tmp_path, alive.replace(str(os.getpid()), str(GONE), 1), "dead")
    reused = folder_of(tmp_path, alive.rpartition(" ")[0] + " 1", "reused")
    rebooted = folder_of(tmp_path, f"{os.getpid()} another-boot {alive.split()[2]}", "rebooted")
    with node_environment.private_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert not any(path.exists() for path in (dead, reused, rebooted))


def test_a_job_that_cannot_be_seen_from_here_keeps_its_folder(tmp_path: Path) -> None:
    """Where /tmp is shared by containers, another one's process ids mean nothing."""
    with node_environment.private_folder(tmp_path) as folder:
        (folder / node_environment.OWNER).write_text(f"{GONE} boot 1")
        node_environment.sweep(tmp_path)
        assert folder.exists()


def test_what_belongs_to_a_living_job_or_says_nothing_stays(tmp_path: Path) -> None:
    kept = [
        folder_of(tmp_path, by_pid.identity(os.getpid()), "alive"),
        folder_of(tmp_path, None, "young"),
        folder_of(tmp_path, "", "younger"),
        folder_of(tmp_path, "no process id", "odd"),
    ]
    binary = folder_of(tmp_path, None, "binary")
    (binary / node_environment.OWNER).write_bytes(b"\xff\xfe")
    other = tmp_path / "somebody-elses"
    other.mkdir()
    (other / node_environment.OWNER).write_text(f"{GONE} boot 1")
    node_environment.sweep(tmp_path)
    assert all(path.exists() for path in (*kept, binary, other))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / f"{node_environment.PREFIX}link").symlink_to(folder_of(tmp_path, f"{GONE} boot 1"))
    (base / f"{node_environment.PREFIX}file").touch()
    node_environment.sweep(base)
    assert (tmp_path / f"{node_environment.PREFIX}x" / node_environment.OWNER).exists()
    assert (base / f"{node_environment.PREFIX}link").is_symlink()


@pytest.mark.skipif(os.getuid() != 0, reason="gives a folder away, as root only can")
def test_a_strangers_folder_is_neither_removed_nor_opened(tmp_path: Path) -> None:
    """Somebody on the node could lay out a pipe that holds up whoever reads it."""
    dead = folder_of(tmp_path, f"{GONE} boot 1", "theirs")
    trap = folder_of(tmp_path, None, "trap")
    os.mkfifo(trap / node_environment.OWNER)
    for path in (dead, trap):
        os.chown(path, 65534, 65534)
    node_environment.sweep(tmp_path)
    assert dead.exists()
    assert trap.exists()


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({}, ()),
        ({"CUDA_VISIBLE_DEVICES": ""}, ()),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, ("0", "1")),
        ({"CUDA_VISIBLE_DEVICES": "MIG-a,GPU-b"}, ("MIG-a", "GPU-b")),
        ({"ROCR_VISIBLE_DEVICES": "2"}, ("2",)),
        ({"CUDA_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": "2,"}, ("2",)),
    ],
)
def test_devices_are_those_that_slurm_names(env: Mapping[str, str], found: tuple[str, ...]) -> None:
    assert node_environment.devices(env) == found


def test_the_node_is_called_as_slurm_calls_it() -> None:
    assert node_environment.node_name({"SLURMD_NODENAME": "gpu017"}) == "gpu017"
    assert node_environment.node_name({}) == socket.gethostname().split(".")[0]


def test_slurm_says_when_the_walltime_ends() -> None:
    env = {"SLURM_JOB_END_TIME": "1900000000"}
    assert node_environment.walltime_end(spec(minutes=5), env) == 1_900_000_000


@pytest.mark.parametrize("said", [{}, {"SLURM_JOB_END_TIME": ""}, {"SLURM_JOB_END_TIME": "N/A"}])
def test_an_older_slurm_leaves_it_to_the_request(said: Mapping[str, str]) -> None:
    before = time.time()
    ends = node_environment.walltime_end(spec(minutes=5), said)
    assert ends is not None
    assert before <= ends - 300 <= time.time()


@pytest.mark.parametrize("minutes", [None, 0])
def test_a_job_without_a_limit_has_no_end(minutes: int | None) -> None:
    assert node_environment.walltime_end(spec(minutes=minutes), {}) is None


def test_an_engine_is_told_where_it_is_and_no_more(tmp_path: Path) -> None:
    env = {"HF_TOKEN": "t", "HTTPS_PROXY": "", "PATH": "/bin", "CUDA_VISIBLE_DEVICES": "3"}
    found = node_environment.find_place(spec(python="/opt/python"), tmp_path, "the key", env)
    assert (found.socket, found.port) == (str(tmp_path / "engine.sock"), None)
    assert (found.secret, found.devices, found.hf_home) == ("the key", ("3",), "/cache")
    assert (found.run_dir, found.python) == (str(tmp_path), "/opt/python")
    assert found.inherited == {"HF_TOKEN": "t"}
    assert Path(found.gguf_server).is_file()


def test_the_site_chooses_the_folder_of_private_files(tmp_path: Path) -> None:
    named = replace(spec(), tmp="$SCRATCH/${WHO}/deep")
    found = node_environment.base_folder(named, {"SCRATCH": str(tmp_path), "WHO": "ada"})
    assert found == tmp_path / "ada" / "deep"
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    assert node_environment.base_folder(spec(), {}) == node_environment.BASE
    with node_environment.private_folder(found) as folder:
        assert folder.parent == found


@pytest.mark.parametrize("tmp", ["$NOT_SET/x", "/scratch/$NOT_SET", "$RELATIVE"])
def test_a_folder_that_is_not_named_in_full_is_refused(tmp: str) -> None:
    with pytest.raises(EngineError, match=r"tmp of tiny: .* on the node: no whole path"):
        node_environment.base_folder(replace(spec(), tmp=tmp), {"RELATIVE": "tmp"})


def test_a_parent_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(EngineError, match=r"tmp of tiny: .*can be written to by every user"):
        node_environment.base_folder(replace(spec(), tmp=str(shared)), {})


def test_a_folder_that_cannot_be_made_names_the_setting(tmp_path: Path) -> None:
    with (
        pytest.raises(EngineError, match=f"cannot make a folder in {tmp_path}/gone") as caught,
        node_environment.private_folder(tmp_path / "gone"),
    ):
        pass
    assert "tmp" in str(caught.value.hint)


def test_an_engine_finds_the_users_cache_token_and_files(tmp_path: Path) -> None:
    """hub elsewhere with blobs elsewhere, the token of a login, and the file of an option."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "hub/models--org--x").mkdir(parents=True)
    (tmp_path / "hub/models--org--x/blobs").symlink_to(tmp_path / "blobs")
    (tmp_path / "token").write_text("hf_login")
    (tmp_path / "t.jinja").touch()
    files = {"chat-template": str(tmp_path / "t.jinja"), "download-dir": str(tmp_path / "blobs")}
    made = ServiceSpec("m", "vllm", "vllm", "org/x", engine_args=files)
    env = {
        "HOME": "/home/nobody",
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_OFFLINE": "1",
    }

    place = node_environment.find_place(made, tmp_path, "key", env)

    assert (place.hf_home, place.hub) == ("/home/nobody/.cache/huggingface", str(tmp_path / "hub"))
    assert place.reached == (str(tmp_path / "blobs"),)
    assert dict(place.inherited) == {"HF_HUB_OFFLINE": "1", "HF_TOKEN": "hf_login"}
    assert (place.readable, place.written) == (
        (str(tmp_path / "t.jinja"),),
        (str(tmp_path / "blobs"),),
    )
    assert node_environment.find_place(made, tmp_path, "key", {"HOME": "/h"}).hub == ""
