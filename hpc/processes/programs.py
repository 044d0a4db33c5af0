"""The only module that runs other programs: run, spawn, detach and stop."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess  # noqa: TID251 - this module is the gate that others are sent to
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hpc.errors import CommandError, CommandTimeout
from hpc.state.files import make_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Process = subprocess.Popen
STDERR_SHOWN = 2000
LEASH = Path(__file__).with_name("leash.py")
"""Program that ends another when their parent dies; ``preexec_fn`` is unsafe with threads."""


@dataclass(frozen=True, slots=True)
class Result:
    """The exit status and output of a finished program."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str],
    *,
    timeout_s: float | None = 60.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    check: bool = True,
    exact: bool = False,
    umask: int = -1,
) -> Result:
    """Run a program to its end, in its own process group.

    Args:
        argv: the program and its arguments; no shell is involved.
        timeout_s: seconds until the whole group is killed; None waits for ever.
        env: the complete environment; None passes ours on.
        cwd: working folder of the program.
        stdin: text for the standard input; None closes the standard input.
        check: raise for an exit status other than 0.
        exact: keep every byte of input and output: line ends, and invalid UTF-8 as surrogates.
        umask: the program's umask; -1 passes ours on.

    Raises:
        CommandError: the program is not installed, or exited with a status other than 0.
        CommandTimeout: the program did not end in time.
    """
    pipe = subprocess.PIPE if stdin is not None else None
    process = _popen(argv, env=env, cwd=cwd, stdin=pipe, text=not exact, umask=umask)
    given = stdin.encode("utf-8", "surrogateescape") if exact and stdin is not None else stdin
    try:
        out, err = process.communicate(given, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise CommandTimeout(f"{argv[0]} did not answer within {timeout_s:g} s") from error
    finally:
        # After a timeout, and after Ctrl-C too; communicate() then reaps the program.
        if process.poll() is None:
            _signal_group(process.pid, signal.SIGKILL)
            process.communicate()
    if exact:
        out, err = out.decode("utf-8", "surrogateescape"), err.decode("utf-8", "replace")
    result = Result(tuple(argv), process.returncode, out, err)
    if check and result.returncode != 0:
        raise _failed(result)
    return result


def run_attached(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, umask: int = -1
) -> int:
    """Run a program on our terminal, such as a program with questions to the user.

    Args:
        argv: the program and its arguments; no shell is involved.
        env: the complete environment; None passes ours on.
        umask: the program's umask; -1 passes ours on.

    Returns:
        The program's exit status.

    Raises:
        CommandError: the program is not installed.
    """
    try:
        return subprocess.run(
            list(argv), env=_environment(env), check=False, umask=umask
        ).returncode
    except OSError as error:
        raise _not_run(argv[0], error) from error


def first_line(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None
) -> tuple[str, int | None]:
    """Start a program on our terminal and return its first line of output.

    The program goes on afterwards, to detach itself; a program without output has ended.

    Args:
        argv: the program and its arguments; no shell is involved.
        env: the complete environment; None passes ours on.

    Returns:
        The line and None, or "" and the exit status.

    Raises:
        CommandError: the program is not installed.
    """
    try:
        process = subprocess.Popen(
            list(argv), stdout=subprocess.PIPE, text=True, env=_environment(env)
        )
    except OSError as error:
        raise _not_run(argv[0], error) from error
    assert process.stdout is not None  # noqa: S101 - as it was started
    with process.stdout:
        line = process.stdout.readline()
    if not line:
        return "", process.wait()
    process.returncode = 0  # the program outlives us; without a status Popen would warn
    return line, None


def detach(log: Path) -> None:
    """Leave the terminal and the shell's job; all output goes to a file from now on.

    Raises:
        CommandError: the log cannot be opened.
    """
    with contextlib.suppress(PermissionError):  # already a session leader
        os.setsid()
    sys.stdout.flush()
    with _open_log(log) as file, Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def spawn(
    argv: Sequence[str],
    *,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    leashed: bool = False,
    umask: int = -1,
) -> Process[str]:
    """Start a program in its own session; end the program with ``stop``.

    Args:
        argv: the program and its arguments; no shell is involved.
        log: file for both outputs, appended to; None discards them.
        env: the complete environment; None passes ours on.
        cwd: working folder of the program.
        stdin: text for the standard input, which is then closed; the place for secrets.
        leashed: end the program and all its descendants when the calling thread ends, even by
            SIGKILL.
        umask: the program's umask; -1 passes ours on.

    Raises:
        CommandError: the program is not installed, or the log cannot be opened.
    """
    if leashed:
        argv = _on_leash(argv, os.environ if env is None else env)
    with contextlib.ExitStack() as stack:
        target: IO[str] | int = subprocess.DEVNULL
        if log is not None:
            target = stack.enter_context(_open_log(log))
        pipe = subprocess.PIPE if stdin is not None else subprocess.DEVNULL
        process = _popen(
            argv, env=env, cwd=cwd, stdin=pipe, stdout=target, stderr=target, umask=umask
        )
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe_end:
            pipe_end.write(stdin or "")
    return process


def converse(argv: Sequence[str]) -> Process[bytes]:
    """Start a program with pipes as standard input and output; its errors are discarded.

    Raises:
        CommandError: the program is not installed.
    """
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
    except OSError as error:
        raise _not_run(argv[0], error) from error


def stop(process: Process[Any], *, grace_s: float = 10.0) -> int:
    """End a spawned program and all of its group: SIGTERM, then SIGKILL.

    Args:
        process: return value of ``spawn``.
        grace_s: seconds between the two signals.

    Returns:
        The exit status, negative for a signal.
    """
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    # Also after a good end: members of the group may have outlived their leader.
    _signal_group(process.pid, signal.SIGKILL)
    return process.wait()


def find_program(name: str, *, hint: str | None = None) -> str:
    """Return a program's full path.

    Raises:
        CommandError: the program is not on PATH.
    """
    for folder in os.get_exec_path():
        path = Path(folder) / name
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    raise CommandError(f"{name} is not installed on this machine, or not on PATH", hint=hint)


def _popen(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    stdin: int | None,
    stdout: IO[str] | int = subprocess.PIPE,
    stderr: IO[str] | int = subprocess.PIPE,
    text: bool = True,
    umask: int = -1,
) -> Process[Any]:
    try:
        return subprocess.Popen(
            list(argv),
            env=_environment(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=stdout,
            stderr=stderr,
            text=text,
            errors="replace" if text else None,
            start_new_session=True,
            umask=umask,
        )
    except OSError as error:
        raise _not_run(argv[0], error) from error


def _on_leash(argv: Sequence[str], env: Mapping[str, str]) -> list[str]:
    program = shutil.which(argv[0], path=env.get("PATH"))
    if program is None:
        raise _not_run(argv[0], FileNotFoundError())
    # -I -S: no module from foreign folders or the environment, and a fast start.
    return [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), program, *argv]


def _environment(env: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if env is None else dict(env)


def _open_log(path: Path) -> IO[str]:
    try:
        make_folder(path.parent)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise CommandError(f"cannot open the log {path}: {error.strerror}") from error
    return os.fdopen(handle, "a")


def _signal_group(pid: int, number: int) -> None:
    """Signal a session that we started; its id is that of its first process."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _not_run(program: str, error: OSError) -> CommandError:
    if isinstance(error, FileNotFoundError):
        return CommandError(f"{program} is not installed on this machine, or not on PATH")
    return CommandError(f"cannot run {program}: {error.strerror}")


def _failed(result: Result) -> CommandError:
    told = result.stderr.strip() or result.stdout.strip() or "no message"
    name = shlex.join(result.argv[:2])
    return CommandError(
        f"{name} failed with exit status {result.returncode}: {told[-STDERR_SHOWN:]}",
        returncode=result.returncode,
        stderr=result.stderr[-STDERR_SHOWN:],
    )
