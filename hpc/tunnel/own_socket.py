"""Unix sockets of the user alone: neither the path nor the listener can be another user's.

The mode of a socket's own file does not decide: a user who may write to a folder on the way to it
can put another socket in its place. So the folders are looked at, and the kernel is asked for the
listener's user.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_CREDENTIALS = struct.Struct("3i")
"""Process, user and group of a peer: ``struct ucred`` of Linux, unix(7)."""
_XUCRED = struct.Struct("=2I68x")
"""Version and user of a peer: ``struct xucred`` of macOS and FreeBSD, unix(4)."""
_SOL_LOCAL, _LOCAL_PEERCRED = 0, 1
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def connect(path: Path | str, timeout_s: float | None = None) -> socket.socket:
    """Connect to a Unix socket, whose listener must run as the user.

    Args:
        path: path of the socket.
        timeout_s: time limit in seconds of this and all later operations; None waits for ever.

    Raises:
        OSError: nothing listens there, or another user does.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout_s)
        sock.connect(str(path))
        if peer_uid(sock) != os.getuid():
            raise PermissionError(f"another user listens at {path}")
    except BaseException:
        sock.close()
        raise
    return sock


def peer_uid(sock: socket.socket) -> int:
    """Return the user id of the process that listens at the other end of a Unix socket."""
    if hasattr(socket, "SO_PEERCRED"):
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(found)[1])
    return int(_XUCRED.unpack(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size))[1])


def own_path(path: Path) -> Path | None:
    """Return a socket's path without symbolic links if only the user can listen there, else None.

    Args:
        path: path of a Unix socket, from a configuration.
    """
    try:
        found = path.parent.resolve(strict=True) / path.name
        seen = found.lstat()
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        return None
    ours = stat.S_ISSOCK(seen.st_mode) and seen.st_uid == os.getuid()
    if not ours or seen.st_mode & _OTHERS_WRITE or not closed(found.parent):
        return None
    return found


def closed(folder: Path) -> bool:
    """Return whether no other user can replace what the user makes in a folder.

    Each folder on the way belongs to this user or root, and others cannot write to it, or it is
    sticky as ``/tmp`` is.
    """
    try:
        here = folder.resolve(strict=True)
        return all(_kept(each.stat()) for each in (here, *here.parents))
    except (OSError, RuntimeError):
        return False


def _kept(seen: os.stat_result) -> bool:
    ours = seen.st_uid in (0, os.getuid())
    return ours and (not seen.st_mode & _OTHERS_WRITE or bool(seen.st_mode & stat.S_ISVTX))
