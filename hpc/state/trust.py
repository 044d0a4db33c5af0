"""Files and folders that foreign users of a machine could have made, changed or replaced.

The rule is that of OpenSSH's ``safe_path``: a file counts as ours if it and the folders above
belong to us or to root and nobody else can write to them. No group is taken for the user's own: who
else runs with it, a directory service need not tell. A sticky folder such as /tmp may be written by
all, since its entries are renamed by their owners only. POSIX ACLs show in the mode, as its group
bits then are the mask of all entries; NFSv4 ACLs do not show and are not checked.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = 0
MAX_LINKS = 40
"""Symbolic links on the way to a file; Linux's own limit."""
WRITERS = stat.S_IWGRP | stat.S_IWOTH
OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Weakness:
    """The power of another user over a file.

    Attributes:
        text: the file or folder, and the reason.
        repair: the command that ends the power, or None if no command of ours can.
    """

    text: str
    repair: str | None


def weak_folder(folder: Path) -> Weakness | None:
    """Return the first weakness on the way to a folder, the folder included; None if safe.

    Parts of the path that do not exist yet are no weakness.

    Args:
        folder: an absolute path.

    Raises:
        OSError: a part of the path cannot be looked at.
    """
    return next(filter(None, (weak_entry(path, found) for path, found in _way(folder))), None)


def weak_file(path: Path) -> Weakness | None:
    """Return the weakness of a file that a search found; None if safe.

    Checked are the file, the folder with it, and the links that lead to it. Folders further above
    are not: a file put in place by others would belong to others.

    Args:
        path: an absolute path of an existing file.

    Raises:
        OSError: a part of the path cannot be looked at.
    """
    links = [(link, found) for link, found in _way(path) if stat.S_ISLNK(found.st_mode)]
    real = path.resolve()
    parts = [*links, *((each, each.stat()) for each in (path.parent, real.parent, real))]
    return next(filter(None, (weak_entry(each, found) for each, found in parts)), None)


def weak_secret(path: Path, found: os.stat_result) -> Weakness | None:
    """Return the weakness of a file that its owner alone may read; None if safe.

    Args:
        path: the file, for the text.
        found: status of the open file, or of the path without following links.
    """
    if not _posix():
        return None
    if found.st_uid != os.getuid():
        return Weakness(f"{path} belongs to uid {found.st_uid}, not to you", None)
    if not stat.S_ISREG(found.st_mode):
        return Weakness(f"{path} is not a regular file", None)
    if found.st_mode & OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        return Weakness(
            f"{path} is open to others (mode {mode:o})", f"chmod 600 {shlex.quote(str(path))}"
        )
    return None


def weak_entry(path: Path, found: os.stat_result) -> Weakness | None:
    """Return the weakness of a file, folder or link by itself; None if safe.

    Args:
        path: the file, for the text.
        found: its status, without following links.
    """
    if not _posix():
        return None
    if found.st_uid not in {os.getuid(), *_roots()}:
        return Weakness(f"{path} belongs to uid {found.st_uid}, not to you or root", None)
    if stat.S_ISLNK(found.st_mode):  # a link's mode is always 0777 and means nothing
        return None
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    writers = found.st_mode & WRITERS
    if not writers or sticky:
        return None
    who, letters = ("its group", "g") if not writers & stat.S_IWOTH else ("every user", "o")
    letters = "go" if writers == WRITERS else letters
    return Weakness(
        f"{path} can be written to by {who}", f"chmod {letters}-w {shlex.quote(str(path))}"
    )


def _way(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every folder and link from / to a path, links followed, up to the first missing part.

    ``Path.resolve`` would hide the links, whose owners can turn them elsewhere.
    """
    here, links = Path(path.anchor), 0
    waiting = list(reversed(path.parts[1:]))
    yield here, here.lstat()
    while waiting:
        part = waiting.pop()
        step = here.parent if part == ".." else here / part
        try:
            found = step.lstat()
        except FileNotFoundError:
            return
        yield step, found
        if not stat.S_ISLNK(found.st_mode):
            here = step
            continue
        links += 1
        if links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = step.readlink()
        here = Path(target.anchor) if target.is_absolute() else here
        waiting.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))


@lru_cache(maxsize=1)
def _roots() -> frozenset[int]:
    """Return the user ids that stand for root: 0, and in a user namespace the overflow id.

    In the user namespace of a container the machine's root has no number of its own, and its files
    show the id of nobody, as do those of other users: the two cannot be told apart there.
    """
    try:
        numbers = Path("/proc/self/uid_map").read_text(encoding="utf-8").split()
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return frozenset({ROOT})
    whole = numbers[:2] == ["0", "0"] and int(numbers[2]) >= 1 << 31
    return frozenset({ROOT} if whole else {ROOT, overflow})


def _posix() -> bool:
    """Return whether files have owners and modes; Windows has none."""
    return hasattr(os, "getuid")
