"""Code as two users of one machine: by user ids of their own for root, else as ourselves."""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REAL = os.getuid() == 0
"""Whether two users can be played; an ordinary user looks at modes alone."""
VICTIM, NEIGHBOUR, GROUP = (64001, 64002, 64000) if REAL else (os.getuid(),) * 2 + (os.getgid(),)


@contextmanager
def home() -> Iterator[Path]:
    """Yield the victim's home, which the shared primary group can read, as sites have it."""
    with tempfile.TemporaryDirectory(prefix="home-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        made = Path(folder) / "victim"
        made.mkdir()
        os.chown(made, VICTIM, GROUP)
        made.chmod(0o750)
        yield made


def as_user(uid: int, action: Callable[[], Any], *, umask: int = 0o002) -> Any:
    """Return an action's result, or its error's type and text, in a process of a user."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.umask(umask)
            if REAL:
                os.setgroups([])
                os.setgid(GROUP)
                os.setuid(uid)
            try:
                told: Any = action()
            except Exception as error:  # noqa: BLE001 - told to the test
                told = (type(error).__name__, str(error), getattr(error, "hint", None))
            os.write(writing, pickle.dumps(told))
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    assert told, "the process ended without a word"
    return pickle.loads(told)
