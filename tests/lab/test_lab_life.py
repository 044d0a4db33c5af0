"""A lab comes up, installs the project, and goes down, and nothing of it stays."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab.slurmlab import CommandError, Lab, LabError
from tests.lab.slurmlab.host import ProcessId, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def other(lab: Lab) -> Iterator[Lab]:
    """Return a second lab, down, that shares the first one's root file system."""
    second = Lab(f"{lab.name}-second", lab.root, tied=True)
    yield second
    second.down()


def output(*argv: str) -> str:
    """Return what a program of this machine prints."""
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def traces(lab: Lab) -> dict[str, object]:
    """Return what a lab could leave on this machine."""
    commands = output("ps", "-ww", "-eo", "args").splitlines()
    return {
        "links": re.findall(r"^\d+: ([^:@]+)", output("ip", "-o", "link"), re.MULTILINE),
        "mounts": Path("/proc/self/mounts").read_text(),
        "processes": [line for line in commands if f"{lab.folder}/" in line],
    }


def spaces(lab: Lab) -> set[str]:
    """Return the numbers of the namespaces of a lab's nodes."""
    links = [Path(f"/proc/{node.pid()}/ns") for node in lab.nodes.values()]
    kinds = ("net", "mnt", "pid", "ipc", "uts")
    return {re.sub(r"\D", "", str((link / kind).readlink())) for link in links for kind in kinds}


def inhabitants(lab: Lab) -> set[str]:
    """Return the numbers of all processes of this machine to whom a lab's files are mounted.

    Namespaces have numbers too, but the kernel gives a free one to the next that anybody makes.
    """
    found = set()
    for path in Path("/proc").glob("[0-9]*/mountinfo"):
        with contextlib.suppress(OSError):
            if f"{lab.folder}/" in path.read_text():
                found.add(path.parent.name)
    return found


def test_down_leaves_nothing(other: Lab) -> None:
    """After `down` there is no process, mount, link or namespace more than before."""
    before = traces(other)
    other.up()
    during = traces(other)
    inside = spaces(other)
    holders = [ProcessId.read(node.record) for node in other.nodes.values()]
    assert inside <= set(output("lsns", "--noheadings", "--output=NS").split())
    firsts = {str(node.pid()) for node in other.nodes.values()}
    assert firsts < inhabitants(other), "daemons run too"
    other.down()

    assert len(inside) == 20
    assert isinstance(during["processes"], list)
    assert len(during["processes"]) >= 4
    assert traces(other) == before
    assert inhabitants(other) == set()
    assert not any(holder.alive() for holder in holders if holder)
    assert not other.is_up()


def tiny_wheel(folder: Path, version: str) -> Path:
    """Write a wheel with a module and a command, and return its path."""
    info = f"tiny-{version}.dist-info"
    files = {
        "tiny.py": f"def main():\n    print({version!r})\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\ntiny = tiny:main\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    wheel = folder / f"tiny-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, content)
    return wheel


def test_a_wheel_is_installed_for_all_nodes_while_they_run(other: Lab, tmp_path: Path) -> None:
    """Every node sees the command; the same wheel again costs nothing, another one replaces it."""
    first, second = tiny_wheel(tmp_path, "1.0"), tiny_wheel(tmp_path, "2.0")
    shutil.rmtree(other.folder / "opt", ignore_errors=True)
    other.up()

    assert other.install_project(first)
    assert not other.install_project(first)
    assert {other.run(node, ["tiny"]).stdout for node in other.nodes} == {"1.0\n"}
    assert other.install_project(second)
    assert other.run("login", ["srun", "tiny"]).stdout == "2.0\n"
    with pytest.raises(LabError, match="no wheel at"):
        other.install_project(tmp_path / "none.whl")
    with pytest.raises(CommandError, match="No such file or directory"):
        other.install_project(second, packages=["lost @ file:///lost-1-py3-none-any.whl"])
    assert other.run("laptop", ["tiny"]).stdout == "2.0\n"


def test_up_clears_what_a_killed_lab_left(other: Lab) -> None:
    """A lab whose starter was killed half way is cleared away by the next `up`."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    argv = [sys.executable, "-m", "slurmlab", "--name", other.name, "up"]
    starter = subprocess.Popen(argv, env={**environ, "HPC_SERVE_LAB_DIR": str(other.root)})
    try:
        first = other.nodes["c1"]
        wait_until(lambda: first.pid() is not None, "the first nodes run", 120, every=0.01)
    finally:
        starter.kill()
        starter.wait()
    old = ProcessId.read(other.nodes["c1"].record)
    assert old is not None
    assert old.alive()

    other.up()
    assert not old.alive()
    assert other.run("login", ["srun", "hostname"]).stdout in {"c1\n", "c2\n"}


def test_a_tied_lab_ends_with_a_process_that_is_killed(other: Lab) -> None:
    """As the lab of a test run does; a lab of `scripts/lab up` outlives its command."""
    code = "import sys, time; from pathlib import Path; from slurmlab.lab import Lab;"
    code += "Lab(sys.argv[1], Path(sys.argv[2]), tied=True).up(); print('up', flush=True);"
    code += "time.sleep(600)"
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    argv = [sys.executable, "-c", code, other.name, str(other.root)]
    with subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        nodes = [ProcessId.read(node.record) for node in other.nodes.values()]
        listed = subprocess.run(
            [str(ROOT / "scripts/lab"), "list"], capture_output=True, text=True, check=True
        ).stdout
        owner.kill()
    assert f"{other.name} " in listed
    for node in nodes:
        assert node is not None
        wait_until(lambda node=node: not node.alive(), "the node is gone", 120)  # type: ignore[misc]


def test_a_recycled_process_number_is_not_ours(other: Lab) -> None:
    """`down` leaves a process alone that merely has the number of a former node."""
    bystander = subprocess.Popen(["sleep", "60"])
    record = other.nodes["c1"].record
    record.parent.mkdir(parents=True, exist_ok=True)
    mine = ProcessId.of(bystander.pid)
    ProcessId(mine.pid, str(int(mine.started) - 1), mine.boot).write(record)
    other.down()
    time.sleep(0.2)

    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_a_second_user_of_the_lab_is_refused(lab: Lab) -> None:
    """While this session holds the lab, another command that would change it fails at once."""
    argv = [str(ROOT / "scripts/lab"), "--name", lab.name, "down"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert f'lab: the lab "{lab.name}" is in use by another process' in done.stderr
    assert lab.is_up()
