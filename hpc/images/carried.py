"""The form in which the machine's settings reach a build or a node."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

COPIED_BYTES = 4 << 20
"""The most that is copied of a file; Debian's bundle of certificates has 220 kB."""
SYSTEM = ("bin", "boot", "dev", "etc", "lib", "lib64", "proc", "run", "sbin", "sys", "usr")
"""Folders of every image: a bind at or below one, but below /usr/local, would hide its files."""
SHARED = frozenset(
    Path(path)
    for path in (
        *("/", "/home", "/opt", "/root", "/tmp", "/var", "/var/cache", "/var/lib", "/var/lock"),  # noqa: S108
        *("/var/log", "/var/run", "/var/tmp", "/usr/local"),  # noqa: S108
        *(f"/usr/local/{name}" for name in ("bin", "etc", "include", "lib", "sbin", "share")),
    )
)
"""Folders that builds write to, where one below would do no harm."""
ADDRESS = re.compile(r"\b(?!file:)([a-z][a-z0-9+.-]*:)/+\S*", re.IGNORECASE)
"""An address of another machine; passwords may be in any part of it."""
PASSWORD = re.compile(r"\S*@")
"""A name and password, or the rest of one with a space in it, in a place that is shown."""


@dataclass(frozen=True, slots=True)
class Carried:
    """The settings of a program as a build or node sees them.

    Attributes:
        files: contents by name, for one folder that only its owner may look into.
        folders: folders of this machine to show under their own paths; none lies in another.
        left_out: one sentence for each setting that is not carried; without secrets.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


class Packing:
    """A collection of files and folders; ``done`` gives the result."""

    def __init__(self, seen_as: str, *, home: Path | None = None) -> None:
        """Begin an empty collection.

        Args:
            seen_as: path under which the folder of files will be seen.
            home: the user's folder, which no link of another may show.
        """
        self.seen_as = seen_as
        self._home = home
        self.files: dict[str, bytes] = {}
        self._folders: dict[Path, None] = {}
        self._left_out: dict[str, None] = {}

    def leave_out(self, setting: str, reason: str) -> None:
        """Note a setting as left out, with the reason.

        Args:
            setting: its program and name, and a path where it names one.
            reason: the part after the colon.
        """
        line = " ".join(f"{setting} is left out: {reason}".split())
        shown = "".join(char if char.isprintable() else "?" for char in line)
        self._left_out[PASSWORD.sub("***@", ADDRESS.sub(r"\1//***", shown))] = None

    def contents(self, setting: str, path: Path) -> bytes | None:
        """Return the contents of a file, or None after a note on the file."""
        try:
            content = content_of(path)
        except IsADirectoryError:
            self.leave_out(f"{setting} {path}", "it is a folder, where a file is meant")
            return None
        except (OSError, ValueError) as error:
            self.leave_out(f"{setting} {path}", _why(error))
            return None
        if len(content) > COPIED_BYTES:
            self.leave_out(f"{setting} {path}", f"it has more than {COPIED_BYTES >> 20} MiB")
            return None
        return content

    def copy(self, setting: str, path: Path, name: str) -> str | None:
        """Copy a file under a new name; return its path in the build, or None if left out."""
        content = self.contents(setting, path)
        return None if content is None else self.put(name, content)

    def put(self, name: str, content: bytes) -> str:
        """Add a file; return its path in the build."""
        self.files[name] = content
        return f"{self.seen_as}/{name}"

    def show(self, setting: str, folder: Path, *, named: bool = True) -> bool:
        """Bind a folder under its own path; return whether the folder can be bound.

        Args:
            setting: its program and name.
            folder: absolute.
            named: the settings name it; else a link leads there, which another user may have made.
        """
        reason = _hindrance(folder) or (None if named else self._private(folder))
        if reason:
            self.leave_out(f"{setting} {str(folder)!r}", reason)
            return False
        self._folders[folder] = None
        return True

    def _private(self, folder: Path) -> str | None:
        """Return the reason a link may not show a folder, or None."""
        home = self._home
        if home is None or home == Path("/"):
            return None
        places = {(home, folder), (home.resolve(), folder.resolve())}
        for own, shown in places:
            hidden = shown.is_relative_to(own) and any(
                part.startswith(".") for part in shown.relative_to(own).parts
            )
            if hidden or own.is_relative_to(shown):
                return "a link leads to your own files; name the folder itself to show it"
        return None

    def done(self) -> Carried:
        """Return the collection as the settings of a program."""
        tops = [p for p in self._folders if not any(up in self._folders for up in p.parents)]
        return Carried(dict(self.files), tuple(sorted(map(str, tops))), tuple(self._left_out))


def content_of(path: Path) -> bytes:
    """Return the first ``COPIED_BYTES`` of a file, and one more of a longer one.

    Args:
        path: a file or a device such as ``/dev/null``. A pipe is none: its read may never end.

    Raises:
        IsADirectoryError: it is a folder.
        OSError: it cannot be read.
    """
    # Without waiting for the writer of a pipe, and looked at only when open: it may be replaced.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode) and not stat.S_ISCHR(mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(COPIED_BYTES + 1)
    finally:
        os.close(handle)


def surely(look: Callable[[], bool]) -> bool:
    """Return the result of a test of a path, or False for an unreadable path.

    Args:
        look: such as ``path.exists``, which raises PermissionError before Python 3.14.
    """
    with contextlib.suppress(OSError, ValueError):
        return look()
    return False


def write(folder: Path, *parts: Carried) -> None:
    """Write the files of settings into a new folder, mode 0700, each with mode 0600.

    Args:
        folder: where; it must not exist.
        parts: settings whose files have different names.
    """
    folder.mkdir(mode=0o700)
    for name, content in (item for part in parts for item in part.files.items()):
        handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)


def _hindrance(folder: Path) -> str | None:
    """Return the reason a folder cannot be bound under its own path, or None."""
    text = str(folder)
    if any(not char.isprintable() or char in ",:\\" for char in text):
        return "Apptainer cannot bind a path with a comma, a colon or such a character"
    if folder in SHARED or _is_system(folder):
        return "it would hide files of the image; show a copy elsewhere (--wheel-dir)"
    with contextlib.suppress(OSError):
        if not folder.is_dir():
            return "there is no such folder"
    return None if os.access(folder, os.R_OK | os.X_OK) else "it cannot be read"


def _is_system(folder: Path) -> bool:
    if folder.is_relative_to("/usr/local"):
        return False
    return any(folder.is_relative_to(f"/{name}") for name in SYSTEM)


def _why(error: OSError | ValueError) -> str:
    """Return the reason of a failed read, without the error's path."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return "it cannot be read"
