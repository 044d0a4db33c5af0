"""Known host keys in OpenSSH's form: paramiko's own reader passes over markers silently.

Source: the section SSH_KNOWN_HOSTS FILE FORMAT of sshd(8).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hpc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Verdict = Literal["known", "changed", "revoked", "authority", "unknown"]
SSH_PORT = 22
REVOKED, AUTHORITY = "@revoked", "@cert-authority"
_BINARY = b"SSHKRL\n\0"
"""First bytes of a list of revoked keys in OpenSSH's binary form."""


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A line about a host.

    Attributes:
        marker: "", "@revoked" or "@cert-authority".
        kind: the key's type, such as "ssh-ed25519".
        blob: the key itself.
        at_port: whether the line names the port too; ssh accepts the key of a line without.
    """

    marker: str
    kind: str
    blob: bytes
    at_port: bool = True


def host_name(host: str, port: int) -> str:
    """Return a host's name in the files: with any port other than SSH's own."""
    return host if port == SSH_PORT else f"[{host}]:{port}"


def lines_about(paths: Sequence[Path], host: str, port: int) -> list[KnownKey]:
    """Return the lines of all files about a host, lines without the port included.

    A damaged line says nothing, as to ssh, unless it is about a revoked key.

    Raises:
        ConfigError: a file cannot be read.
    """
    name = host_name(host, port)
    found: list[KnownKey] = []
    for path in paths:
        for line in _read(path).splitlines():
            words = line.split()
            marker = words.pop(0) if words and words[0].startswith("@") else ""
            if len(words) < 3 or words[0].startswith("#") or words[1].isdigit():
                continue  # numbers are keys of SSH 1
            at_port = matches(words[0], name)
            if at_port or matches(words[0], host):
                blob = _blob_or_none(path, words[2], strict=marker == REVOKED)
                if blob is not None:
                    found.append(KnownKey(marker, words[1], blob, at_port))
    return found


def revoked_keys(path: Path) -> list[KnownKey]:
    """Return the keys of a file of the option ``RevokedHostKeys``.

    Raises:
        ConfigError: the file cannot be read, or is in the binary form.
    """
    if not path.is_file() or path.read_bytes().startswith(_BINARY):
        raise ConfigError(
            f"cannot read the revoked host keys in {path}: it is not a list of public keys",
            hint="use --transport openssh, which reads binary lists too",
        )
    lines = [line.split() for line in _read(path).splitlines()]
    listed = [words for words in lines if len(words) > 1 and not words[0].startswith("#")]
    return [KnownKey(REVOKED, words[0], _blob(path, words[1])) for words in listed]


def judge(lines: Sequence[KnownKey], kind: str, blob: bytes) -> Verdict:
    """Return the verdict on the key of a host.

    Args:
        lines: all lines about the host.
        kind: the key's type.
        blob: the key itself.

    Returns:
        "revoked" before all else. "changed" where other keys of the host are known, "authority"
        where only a certificate authority vouches for the host.
    """
    if any(line.marker == REVOKED and line.blob == blob for line in lines):
        return "revoked"
    plain = [line for line in lines if not line.marker]
    if any((line.kind, line.blob) == (kind, blob) for line in plain):
        return "known"
    if any(line.at_port for line in plain):
        return "changed"
    return "authority" if any(line.marker == AUTHORITY for line in lines) else "unknown"


def matches(patterns: str, name: str) -> bool:
    """Return whether the first field of a line is about a host.

    Args:
        patterns: patterns with ``*`` and ``?``, or negated by ``!``, separated by commas; or one
            hashed name.
        name: the host's name, in brackets with its port where needed.
    """
    if patterns.startswith("|"):
        return _hashed(patterns, name)
    return matches_any(patterns, name)


def matches_any(patterns: str, name: str) -> bool:
    """Return whether a list of patterns, separated by commas, is about a name, as of ssh_config(5).

    Args:
        patterns: patterns with ``*`` and ``?``; a negated one (``!``) decides alone.
        name: the name, in any case.
    """
    found = False
    for pattern in patterns.split(","):
        if glob(pattern.removeprefix("!"), name):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def glob(pattern: str, name: str, *, exact: bool = False) -> bool:
    """Return whether a pattern with ``*`` and ``?`` matches a name.

    Args:
        pattern: the pattern.
        name: the name.
        exact: whether upper and lower case differ.
    """
    if "*" not in pattern and "?" not in pattern:
        # No expression for plain names: a site's file may have 15,000, at 50 us each.
        return pattern == name if exact else pattern.lower() == name.lower()
    text = re.escape(re.sub(r"\*+", "*", pattern)).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(text, name, re.DOTALL | (0 if exact else re.IGNORECASE)) is not None


def _hashed(field: str, name: str) -> bool:
    try:
        _, version, salt, digest = field.split("|")
        key, expected = base64.b64decode(salt), base64.b64decode(digest)
    except (ValueError, binascii.Error):
        return False
    found = hmac.new(key, name.lower().encode(), hashlib.sha1).digest()
    return version == "1" and hmac.compare_digest(found, expected)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError as error:
        raise ConfigError(f"cannot read the known hosts in {path}: {error.strerror}") from error


def _blob_or_none(path: Path, text: str, *, strict: bool) -> bytes | None:
    try:
        return _blob(path, text)
    except ConfigError:
        if strict:
            raise
        return None


def _blob(path: Path, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ConfigError(
            f"cannot read the known hosts in {path}: {text[:20]!r} is no key"
        ) from error
