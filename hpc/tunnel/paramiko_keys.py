"""Keys for a login by paramiko, in ssh's order: the agent's keys, then keys in files.

paramiko reads some of the forms of a key; cryptography reads the others: PKCS8, with a passphrase
or without, too.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from paramiko.agent import AgentSSH

from hpc.tunnel import prompts

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from hpc.tunnel.ssh_settings import SshSettings

FILE_MAX = 1 << 20
"""Bytes of the largest file that can be a key."""
PUBLIC = (b"ssh-", b"ecdsa-", b"sk-")
PASSPHRASE_TRIES = 3
_PUTTY = b"PuTTY-User-Key-File"
_OPENSSH = b"BEGIN OPENSSH PRIVATE KEY"


class UnusableKeyError(Exception):
    """A file without a usable key; the text continues ``the key FILE``."""


class LockedKeyError(UnusableKeyError):
    """A key with an unknown passphrase."""


@dataclass(slots=True)
class KeyOffer:
    """The keys for a login.

    Attributes:
        found: the settings of the login.
        interactive: whether passphrases may be asked for.
        problems: a clause for each file whose key could not be used, so far.
    """

    found: SshSettings
    interactive: bool
    problems: list[str] = field(default_factory=list)

    def keys(self) -> Generator[paramiko.PKey]:
        """Yield the keys in order, with questions for passphrases as late as possible."""
        listed = {blob for path in self.found.identities for blob in _public_blobs(path)}
        with _agent(self.found.agent) as held:
            yield from self._all(listed, held)

    def _all(self, listed: set[bytes], held: list[paramiko.AgentKey]) -> Iterator[paramiko.PKey]:
        first = [key for key in held if key.asbytes() in listed]
        later = [] if self.found.identities_only else [key for key in held if key not in first]
        offered = set()
        for key in (*first, *later):
            offered.add(key.asbytes())
            yield from self._with_certificates(key, None)
        for path in self.found.identities:
            if not offered.issuperset(_public_blobs(path) or [b"unknown"]):
                yield from self._from_file(path)

    def _from_file(self, path: Path) -> Iterator[paramiko.PKey]:
        try:
            key = self._unlocked(path)
        except FileNotFoundError:
            return
        except UnusableKeyError as error:
            self.problems.append(f"the key {path} {error}")
        except OSError as error:
            self.problems.append(f"the key {path} cannot be read: {error.strerror}")
        else:
            yield from self._with_certificates(key, path)

    def _unlocked(self, path: Path) -> paramiko.PKey:
        data = _content(path)
        with contextlib.suppress(LockedKeyError):
            return private_key(data, None)
        for _ in range(PASSPHRASE_TRIES if self.interactive else 0):
            word = prompts.ask(f"Passphrase for key '{path}' (empty: skip): ", echo=False)
            if not word:
                break
            with contextlib.suppress(LockedKeyError):
                return private_key(data, word.encode())
        raise LockedKeyError("has a passphrase, and no agent holds it: add it with ssh-add")

    def _with_certificates(self, key: paramiko.PKey, path: Path | None) -> Iterator[paramiko.PKey]:
        """Yield a key with all certificates, then alone."""
        files = list(self.found.certificates)
        if path is not None:
            files.append(path.with_name(f"{path.name}-cert.pub"))
        for file in files:
            if _certified(file, key):
                key.load_certificate(str(file))
                yield key
                key.public_blob = None
        yield key


def private_key(data: bytes, passphrase: bytes | None) -> paramiko.PKey:
    """Return the private key of a file's content.

    Raises:
        LockedKeyError: a passphrase is needed, or is another.
        UnusableKeyError: the content is none of the known forms.
    """
    if data.startswith(_PUTTY):
        raise UnusableKeyError(
            "is in PuTTY's form: export it in PuTTYgen by Conversions, Export OpenSSH key"
        )
    if data.startswith(PUBLIC):
        raise UnusableKeyError("is a public key, whose private key no agent holds")
    pem = _OPENSSH not in data
    load = serialization.load_pem_private_key if pem else serialization.load_ssh_private_key
    try:
        return _for_paramiko(load(data, passphrase))
    except TypeError as error:  # a passphrase is missing
        raise LockedKeyError(str(error)) from error
    except UnsupportedAlgorithm as error:
        raise UnusableKeyError(f"is of a kind that only the ssh program uses: {error}") from error
    except ValueError as error:
        if passphrase is not None:
            raise LockedKeyError(str(error)) from error
        raise UnusableKeyError("is in no known form (OpenSSH, PEM, PKCS8)") from error


def _for_paramiko(key: object) -> paramiko.PKey:
    if isinstance(key, rsa.RSAPrivateKey):
        return paramiko.RSAKey(key=key)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return paramiko.ECDSAKey(vals=(key, key.public_key()))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        text = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        return paramiko.Ed25519Key.from_private_key(io.StringIO(text.decode()))
    raise UnsupportedAlgorithm(type(key).__name__)


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(FILE_MAX + 1)
    if len(data) > FILE_MAX:
        raise UnusableKeyError("is too large for a key")
    return data


def _public_blobs(path: Path) -> list[bytes]:
    """Return the public key of an identity, from the key file or the ``.pub`` file, if readable."""
    for each in (path, path.with_name(f"{path.name}.pub")):
        with contextlib.suppress(OSError, ValueError, UnusableKeyError):
            data = _content(each)
            if data.startswith(PUBLIC):
                return [paramiko.pkey.PublicBlob.from_string(data.decode()).key_blob]
    with contextlib.suppress(OSError, UnusableKeyError):
        return [private_key(_content(path), None).asbytes()]
    return []


def _certified(file: Path, key: paramiko.PKey) -> bool:
    """Return whether a file holds a certificate of a key."""
    try:
        blob = paramiko.pkey.PublicBlob.from_string(_content(file).decode())
    except (OSError, ValueError, UnusableKeyError, paramiko.SSHException):
        return False
    # The fields of the public key follow the nonce in a certificate, so that they stand within.
    _, _, fields = _split(key.asbytes())
    return blob.key_type.startswith(key.get_name()) and fields in blob.key_blob


def _split(blob: bytes) -> tuple[int, bytes, bytes]:
    size = int.from_bytes(blob[:4], "big")
    return size, blob[4 : 4 + size], blob[4 + size :]


class _AgentAt(AgentSSH):
    """An agent at a socket of the configuration."""

    def __init__(self, path: str) -> None:
        super().__init__()
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            raise
        self._connect(connection)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Close the connection to the agent."""
        self._close()  # type: ignore[attr-defined]


@contextlib.contextmanager
def _agent(path: str | None) -> Iterator[list[paramiko.AgentKey]]:
    """Connect to an agent and yield the keys there; without an agent, no keys."""
    agent: paramiko.Agent | _AgentAt | None = None
    with contextlib.suppress(OSError, paramiko.SSHException):
        if path != "":
            agent = paramiko.Agent() if path is None or os.name == "nt" else _AgentAt(path)
    try:
        yield list(agent.get_keys()) if agent is not None else []
    finally:
        if agent is not None:
            agent.close()
