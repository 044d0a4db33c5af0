"""Messages and questions on the user's terminal, or in a notebook, while connecting."""

from __future__ import annotations

import contextlib
import getpass
import sys
import threading
from typing import TYPE_CHECKING, Any

from hpc import terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from typing_extensions import Self


def say(text: str) -> None:
    """Print a message without terminal control characters."""
    # The text may come from a hostile server: escape sequences could rewrite the screen.
    lines = "".join(c if c.isprintable() or c == "\n" else "?" for c in text).strip()
    if lines:
        sys.stderr.write(lines + "\n")
        sys.stderr.flush()


def ask(prompt: str, *, echo: bool) -> str:
    """Ask a question; getpass uses the terminal, or the page of a notebook."""
    shown = "".join(c if c.isprintable() else "?" for c in prompt)
    if not echo:
        return getpass.getpass(shown)
    sys.stderr.write(shown)
    sys.stderr.flush()
    return input()


def can_ask() -> bool:
    """Return whether a user can answer, on a terminal or the page of a notebook."""
    return (sys.stdin is not None and sys.stdin.isatty()) or in_notebook()


def in_notebook() -> bool:
    """Return whether the process is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell is not None else None
    return found is not None and hasattr(found, "kernel")


@contextlib.contextmanager
def shown(log: Path, *, interactive: bool) -> Iterator[None]:
    """Show ssh's log on the terminal while ssh asks the user questions."""
    if not interactive:
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_copy, args=(log, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _copy(log: Path, done: threading.Event) -> None:
    shown = 0
    while True:
        last = done.wait(0.1)
        with contextlib.suppress(OSError):
            text = log.read_text(errors="replace")
            sys.stderr.write(terminal.plain(text[shown:]))
            sys.stderr.flush()
            shown = len(text)
        if last:
            return


class CopyProgress:
    """A spinner while connecting, shown once all questions for passwords are answered."""

    def __init__(self, wanted: bool | None, tell: Callable[[Any, str], None]) -> None:
        if wanted is None:
            wanted = in_notebook() or (sys.stderr is not None and sys.stderr.isatty())
        self._wanted = wanted
        self._tell = tell
        self._stack = contextlib.ExitStack()

    def tell(self, event: Any, text: str) -> None:
        """Show a connecting event as a spinner, and pass every event on."""
        if self._wanted and event == "connecting":
            from rich.console import Console  # noqa: PLC0415 - slow to import

            console = Console(stderr=not in_notebook(), highlight=False, markup=False)
            self._stack.enter_context(console.status(text))
        self._tell(event, text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._wanted = False
        self._stack.close()
