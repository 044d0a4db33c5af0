"""The access log: a JSON line per request, written by a separate thread.

A hanging file system delays no request.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import queue
import sys
import threading
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from io import TextIOWrapper
    from pathlib import Path

log = logging.getLogger(__name__)

ENCODER = msgspec.json.Encoder()
FILE_BYTES = 16 * 1024 * 1024
OLD_FILES = 4
FLUSH_S = 0.2
"""Seconds that a line may wait for further lines, so that one wake of the thread writes many."""
LINES_HELD = 10_000
"""Lines kept while the file hangs; further lines are dropped and counted."""
PATIENCE_S = 2.0


class AccessLog:
    """The access log of a process, used from a single event loop.

    Args:
        path: path of the file; rotated files get ``.1`` and so on.
    """

    def __init__(self, path: Path) -> None:
        self._lines: list[object] = []
        self._due: asyncio.TimerHandle | None = None
        self._queue: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        self._file = _PrivateFile(path)
        self._handler = QueueHandler(self._queue)
        self._listener = QueueListener(self._queue, self._file)
        self._listener.start()
        self._refused = 0

    @property
    def lost(self) -> int:
        """Number of lines dropped because too many waited, or refused by the file."""
        return self._refused + self._file.lost

    def write(self, line: object) -> None:
        """Add one line, which must not change afterwards; costs no system call."""
        if len(self._lines) >= LINES_HELD:
            self._refused += 1
            return
        self._lines.append(line)
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    def close(self) -> None:
        """Write the remaining lines; give up if the file system hangs."""
        if self._due is not None:
            self._due.cancel()
        self._hand_over()
        ending = threading.Thread(target=self._end, daemon=True)
        ending.start()
        ending.join(PATIENCE_S)
        if ending.is_alive():
            # At exit logging.shutdown would wait for the lock that the hanging thread holds.
            atexit.unregister(logging.shutdown)

    def _end(self) -> None:
        """Wait for the last line and close the file; may never return."""
        self._listener.stop()
        self._file.close()

    def _flush(self) -> None:
        """Hand the lines to the thread, unless earlier lines still wait there."""
        self._due = None
        # While the file hangs, lines stay in ``_lines``, where LINES_HELD bounds them; the queue
        # has no bound.
        if self._queue.empty():
            self._hand_over()
        else:
            self._due = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    def _hand_over(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            text = ENCODER.encode_lines(lines).decode().removesuffix("\n")
            self._handler.enqueue(logging.makeLogRecord({"msg": text}))


class _PrivateFile(RotatingFileHandler):
    """A log file readable only by its owner, opened at the first line."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            path, maxBytes=FILE_BYTES, backupCount=OLD_FILES, encoding="utf-8", delay=True
        )
        self._complaint = ""
        self.lost = 0

    def _open(self) -> TextIOWrapper:
        return open(  # type: ignore[return-value]
            self.baseFilename, self.mode, encoding=self.encoding, opener=_private
        )

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802 - the base's name
        """Leave alone what is no regular file: Python 3.13 asks a pipe for its length and fails."""
        if os.path.exists(self.baseFilename) and not os.path.isfile(self.baseFilename):  # noqa: PTH110, PTH113 - no object for each line
            return False
        return bool(super().shouldRollover(record))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base's name
        """Log a write error once, and count the lost lines."""
        self.lost += record.getMessage().count("\n") + 1
        text = f"cannot write {self.baseFilename}: {sys.exc_info()[1]}"
        if text != self._complaint:
            log.warning("%s", text)
        self._complaint = text


def _private(path: str, flags: int) -> int:
    handle = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    # A file of an earlier run may have another mode; the mode of ``open`` is for new files only.
    os.fchmod(handle, 0o600)
    return handle
