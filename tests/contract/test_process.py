"""Real programs, started and ended: nobody of a group survives, nobody else is hurt."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpc.errors import CommandError, CommandTimeout
from hpc.processes import by_pid, programs
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STUBBORN = "trap '' TERM; echo $$ > {0}/parent; (trap '' TERM; echo $BASHPID > {0}/child; sleep 60"
STUBBORN += "; true) & wait; wait"


def runs(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def until(holds: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read(path: Path) -> str:
    """Return a file's text once a line of it is whole."""
    until(lambda: path.exists() and path.read_text().endswith("\n"))
    return path.read_text().strip()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A program that somebody else started, which SIGTERM ends."""
    child = subprocess.Popen(["sleep", "61.25"], start_new_session=True)
    yield child
    child.kill()
    child.wait()


def test_a_program_that_ends_leaves_its_words() -> None:
    result = programs.run(["bash", "-c", "echo out; echo err >&2; exit 3"], check=False)
    assert (result.returncode, result.stdout, result.stderr) == (3, "out\n", "err\n")


def test_a_failure_says_who_and_what() -> None:
    with pytest.raises(CommandError, match=r"^ls --no-such failed with exit status 2: ") as caught:
        programs.run(["ls", "--no-such", "secret-argument"])
    assert caught.value.returncode == 2
    assert "secret-argument" not in str(caught.value)


def test_bytes_that_are_no_text_are_survived() -> None:
    assert "\N{REPLACEMENT CHARACTER}" in programs.run(["printf", "\\377"]).stdout


@pytest.mark.parametrize("name", ["no-such-program", "/no/such/program"])
def test_a_program_that_is_missing_is_named(name: str) -> None:
    said = f"^{name} is not installed on this machine, or not on PATH$"
    for start in (programs.run, programs.spawn, programs.run_attached):
        with pytest.raises(CommandError, match=said):
            start([name, "argument"])


def test_a_file_that_is_no_program_is_named(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("text")
    with pytest.raises(CommandError, match=f"cannot run {path}: Permission denied"):
        programs.run([str(path)])


def test_programs_are_found_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tool").touch(mode=0o755)
    (tmp_path / "text").touch(mode=0o644)
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert programs.find_program("tool") == str(tmp_path / "tool")
    for name in ("text", "folder", "nothing"):
        with pytest.raises(CommandError, match=f"{name} is not installed") as caught:
            programs.find_program(name, hint="load a module")
        assert caught.value.hint == "load a module"


def test_nothing_of_our_environment_is_handed_on_unless_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OURS", "1")
    assert "OURS=1" in programs.run(["/usr/bin/env"]).stdout
    assert programs.run(["/usr/bin/env"], env={"A": "b"}).stdout == "A=b\n"


def test_a_program_gets_no_standard_input_of_ours() -> None:
    assert programs.run(["cat"]).stdout == ""


def test_a_timeout_kills_the_whole_group(tmp_path: Path) -> None:
    # The first limit within which it has a child; alone on a machine half a second will do.
    limit = (limit for limit in (0.5, 4, 32))
    while not (tmp_path / "child").exists():
        limit_s = next(limit)
        with pytest.raises(CommandTimeout, match=rf"^bash did not answer within {limit_s:g} s$"):
            programs.run(["bash", "-c", STUBBORN.format(tmp_path)], timeout_s=limit_s)
    pids = [int(read(tmp_path / name)) for name in ("parent", "child")]
    until(lambda: not any(runs(pid) for pid in pids))


def test_an_interrupted_run_leaves_no_program(tmp_path: Path) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def press() -> None:
        read(tmp_path / "child")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    presser = threading.Thread(target=press)
    presser.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            programs.run(["bash", "-c", STUBBORN.format(tmp_path)])
    finally:
        presser.join()
        signal.signal(signal.SIGUSR1, before)
    pids = [int(read(tmp_path / name)) for name in ("parent", "child")]
    until(lambda: not any(runs(pid) for pid in pids))


def test_secrets_go_by_standard_input_and_are_in_no_command_line(tmp_path: Path) -> None:
    assert programs.run(["cat"], stdin="xyzzy").stdout == "xyzzy"
    log = tmp_path / "log"
    child = programs.spawn(["bash", "-c", "cat; sleep 60"], stdin="xyzzy\n", log=log)
    try:
        assert read(log) == "xyzzy"
        assert "xyzzy" not in Path(f"/proc/{child.pid}/cmdline").read_text()
        assert "xyzzy" not in Path(f"/proc/{child.pid}/environ").read_text()
    finally:
        programs.stop(child, grace_s=0)


def test_a_program_that_reads_nothing_may_be_given_something() -> None:
    child = programs.spawn(["true"], stdin="x" * 1_000_000)
    assert child.wait(PATIENCE_S) == 0


def test_a_log_is_private_and_appended_to(tmp_path: Path) -> None:
    log = tmp_path / "made" / "engine.log"
    before = os.umask(0)
    try:
        for word in ("one", "two"):
            programs.spawn(["bash", "-c", f"echo {word}; echo {word} >&2"], log=log).wait(
                PATIENCE_S
            )
    finally:
        os.umask(before)
    assert log.read_text() == "one\none\ntwo\ntwo\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700


def test_a_log_that_cannot_be_opened_starts_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with pytest.raises(CommandError, match=f"cannot open the log {tmp_path}: Is a directory"):
        programs.spawn(["touch", str(mark)], log=tmp_path)
    assert not mark.exists()


def test_a_spawned_program_has_a_session_of_its_own() -> None:
    child = programs.spawn(["sleep", "60"])
    try:
        assert os.getsid(child.pid) == child.pid != os.getsid(0)
    finally:
        assert programs.stop(child) == -signal.SIGTERM


PARENT = """
import sys, time
from pathlib import Path
from hpc.processes import programs as process
argv = ["bash", "-c", "echo $$; exec sleep 60"]
child = process.spawn(argv, log=Path(sys.argv[1]), leashed=True)
time.sleep(60)
"""


def test_a_leashed_program_ends_with_its_parent(tmp_path: Path) -> None:
    log = tmp_path / "log"
    project = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(log)], cwd=project)
    try:
        child = int(read(log))
        assert runs(child)
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not runs(child))


STRAY = """
trap '' TERM
setsid bash -c 'trap "" TERM; echo $$ >> "$0"; exec sleep 60' "$0" &
echo $$ >> "$0"
wait
"""
DEAF_PARENT = PARENT.replace("argv = ", "argv = ['bash', '-c', sys.argv[2], sys.argv[1]] or ")


def test_a_leash_ends_what_does_not_listen_and_what_has_moved_away(tmp_path: Path) -> None:
    log = tmp_path / "pids"
    project = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", DEAF_PARENT, str(log), STRAY], cwd=project)
    try:
        until(lambda: log.exists() and len(log.read_text().split()) == 2)
        pids = [int(pid) for pid in log.read_text().split()]
        assert all(runs(pid) for pid in pids)
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not any(runs(pid) for pid in pids))


def test_a_leash_ends_with_the_program_and_kills_what_it_left(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "setsid sleep 60 & echo $!; exit 5"
    child = programs.spawn(["bash", "-c", code], log=log, leashed=True)
    assert child.wait(PATIENCE_S) == 5
    assert not runs(int(read(log)))
    child = programs.spawn(["bash", "-c", "kill -SEGV $$"], leashed=True)
    assert child.wait(PATIENCE_S) == -signal.SIGSEGV


def test_a_leash_changes_nothing_else(tmp_path: Path) -> None:
    """Words, variables, ids and signals are those of a program that was started without one."""
    # Of grep itself, which inherits them: bash blocks some for a moment as it starts a program.
    code = "printf '%s\n' \"$0\" \"$@\"; grep -E '^Sig(Ign|Blk)' /proc/self/status; env | sort"
    said = []
    for leashed in (False, True):
        log = tmp_path / f"log-{leashed}"
        argv = ["bash", "-c", code, "a b", "*", ""]
        child = programs.spawn(argv, log=log, env={"A": "b", "LC_ALL": "C.UTF-8"}, leashed=leashed)
        assert child.wait(PATIENCE_S) == 0
        said.append(log.read_text())
    assert said[0].splitlines()[:3] == ["a b", "*", ""]
    assert said[0] == said[1]


@pytest.mark.parametrize("name", ["no-such-program", "/no/such/program"])
def test_a_leashed_program_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(CommandError, match=f"^{name} is not installed on this machine"):
        programs.spawn([name], leashed=True)


def test_stopping_asks_first() -> None:
    child = programs.spawn(["bash", "-c", "trap 'exit 7' TERM; echo; sleep 60 & wait"])
    until(lambda: Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text())
    assert programs.stop(child) == 7


def test_stopping_kills_what_does_not_listen(tmp_path: Path) -> None:
    child = programs.spawn(["bash", "-c", STUBBORN.format(tmp_path)])
    pids = [int(read(tmp_path / name)) for name in ("parent", "child")]
    started = time.monotonic()
    assert programs.stop(child, grace_s=0.3) == -signal.SIGKILL
    assert time.monotonic() - started >= 0.3
    until(lambda: not any(runs(pid) for pid in pids))


def test_stopping_ends_the_children_of_one_that_ended_before(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = programs.spawn(["bash", "-c", "sleep 60 & echo $!; exit 4"], log=log)
    orphan = int(read(log))
    until(lambda: child.poll() is not None)
    assert runs(orphan)
    assert programs.stop(child) == 4
    until(lambda: not runs(orphan))
    assert programs.stop(child) == 4


def test_a_process_is_ended_by_its_identity_only(sleeper: subprocess.Popen[bytes]) -> None:
    ours = by_pid.identity(sleeper.pid)
    assert ours is not None
    pid, boot, started = ours.split()
    earlier = f"{pid} {boot} {int(started) - 1}"
    for another in (earlier, f"{pid} other-boot {started}", pid, f"{pid} ", "", "0", "-1 x y"):
        assert not by_pid.alive(another)
        assert not by_pid.send(another, signal.SIGKILL)
        assert by_pid.stop(another)
    time.sleep(0.1)  # in which a signal would have ended it on most machines
    assert sleeper.poll() is None
    assert by_pid.alive(ours)
    assert by_pid.stop(ours)
    assert sleeper.wait(PATIENCE_S) == -signal.SIGTERM


def test_a_process_of_another_user_has_no_identity_here(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may become another user")
    child = subprocess.Popen(["sleep", "61.5"], user=65534)
    try:
        assert by_pid.identity(child.pid) is None
    finally:
        child.kill()
        child.wait()


def test_a_process_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    child = programs.spawn(["bash", "-c", STUBBORN.format(tmp_path)])
    try:
        read(tmp_path / "child")
        assert by_pid.stop(by_pid.identity(child.pid) or "", grace_s=0.2)
        assert child.wait(PATIENCE_S) == -signal.SIGKILL
    finally:
        programs.stop(child, grace_s=0)


def test_a_process_that_is_gone_is_gone() -> None:
    child = subprocess.Popen(["sleep", "61.75"])
    found = by_pid.identity(child.pid)
    assert found is not None
    child.kill()
    child.wait()
    assert by_pid.stop(found)
    assert not by_pid.alive(found)


def test_an_identity_stays_and_is_nobody_elses(sleeper: subprocess.Popen[bytes]) -> None:
    ours = by_pid.identity(os.getpid())
    assert ours is not None
    assert ours == by_pid.identity(os.getpid())
    assert ours.split()[0] == str(os.getpid())
    assert by_pid.identity(sleeper.pid) != ours


def test_an_id_that_is_used_again_has_another_identity() -> None:
    """Two processes with one id, one after the other: each is first in a namespace of its own."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); from hpc.processes import by_pid as pids; "
    code += "print(pids.identity(1))"
    project = str(Path(__file__).parents[2])
    argv = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    argv += [sys.executable, "-c", code, project]
    found = []
    for _ in range(2):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        if done.returncode != 0:
            pytest.skip(f"no process namespaces here: {done.stderr.strip()}")
        found.append(done.stdout.split())
        time.sleep(0.05)
    first, second = found
    assert first[:2] == second[:2]
    assert first[2] != second[2]


def test_who_has_ended_has_no_identity() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{child.pid}").exists()
    assert by_pid.identity(child.pid) is None
    child.wait()
    assert by_pid.identity(child.pid) is None


def test_a_name_with_brackets_and_spaces_does_not_confuse(tmp_path: Path) -> None:
    link = tmp_path / "a) Z 1 ("
    link.symlink_to("/bin/sleep")
    child = programs.spawn([str(link), "60"])
    try:
        found = by_pid.identity(child.pid)
        assert found is not None
        assert found.split()[2].isdecimal()
    finally:
        programs.stop(child)


def test_exact_keeps_every_byte() -> None:
    data = b"caf\xe9\r\n\r \xe2\x82\xac\n".decode("utf-8", "surrogateescape")
    assert programs.run(["cat"], stdin=data, exact=True).stdout == data
    assert programs.run(["cat"], stdin="a\r\nb").stdout == "a\nb"
