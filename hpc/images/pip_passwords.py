"""Pip's file of passwords for builds, with the passwords of pip's addresses.

Pip gives the addresses of indexes and of folders, with their passwords, as arguments to the
processes that build a package, and any user of the machine can read arguments. Addresses without
a password and a file of passwords have the same effect.
"""

from __future__ import annotations

import netrc
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from hpc.images.carried import surely

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpc.images.carried import Packing

ADDRESS = re.compile(r"(?P<scheme>https?)://(?P<login>[^/?#]*)@(?P<host>[^/?#@]*)", re.IGNORECASE)
NAME = re.compile(r"[^:\[\]]+")
"""A host without its port; libraries disagree on IPv6 addresses in files of passwords."""
PLAIN = re.compile(r"[!#-\[\]-~][!-\[\]-~]*")
"""A word that every reader of such files takes as it stands: no quotation mark first, no escape."""


class Passwords:
    """The passwords of one pass over pip's settings."""

    def __init__(self, packing: Packing) -> None:
        """Begin without any.

        Args:
            packing: the files so far, and notes.
        """
        self._packing = packing
        self._logins: dict[str, tuple[str, str]] = {}

    def bare(self, setting: str, address: str) -> str:
        """Take the name and password out of an address; return the address without.

        A host has one login in a file of passwords. Further logins stay in their addresses, with
        a note.

        Args:
            setting: its program and name.
            address: of any scheme; only those of HTTP have a file of passwords.
        """
        match = ADDRESS.match(address)
        if match is None or not match["login"]:
            return address
        user, _, password = (unquote(part) for part in match["login"].partition(":"))
        host = NAME.match(match["host"].lower())
        fits = user and (user + password).isprintable()
        if (
            not host
            or not fits
            or self._logins.setdefault(host[0], (user, password))
            != (
                user,
                password,
            )
        ):
            told = "of a host stays in an address, which other users see as pip builds a package"
            self._packing.leave_out(f"a password in {setting}", told)
            return address
        return f"{match['scheme']}://{match['host'].lower()}{address[match.end() :]}"

    def pack(self, environ: Mapping[str, str], home: Path) -> None:
        """Pack the file of passwords, if there are any.

        Args:
            environ: variables, of which ``NETRC`` may name pip's own file.
            home: the folder of ``~``.
        """
        parts = [self._own(environ, home)]
        # Last: of two entries for a host the last one counts.
        parts += [
            f"machine {host} login {_word(user)} password {_word(password)}\n".encode()
            for host, (user, password) in self._logins.items()
        ]
        # An empty line ends a macro, which would swallow what follows.
        content = b"\n".join(part for part in parts if part)
        if content:
            self._packing.put("netrc", content)

    def _own(self, environ: Mapping[str, str], home: Path) -> bytes | None:
        named = environ.get("NETRC")
        paths = [_expanded(named, home)] if named else [home / ".netrc", home / "_netrc"]
        path = next((path for path in paths if surely(path.exists)), None)
        if path is None:
            return None
        content = self._packing.contents("pip's file of passwords", path)
        if content is not None and self._logins and not _is_read(path):
            # Pip passes over the whole of such a file, and so over what would be added to it.
            self._packing.leave_out(f"pip's file of passwords {path}", "pip cannot read its form")
            return None
        return content


def _expanded(named: str, home: Path) -> Path:
    return home / named[2:] if named.startswith("~/") else Path(named)


def _is_read(path: Path) -> bool:
    try:
        netrc.netrc(str(path))
    except (netrc.NetrcParseError, OSError, ValueError):
        return False
    return True


def _word(text: str) -> str:
    """Return a word for a file of passwords."""
    if PLAIN.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
