"""The API keys of the gateway's users: only SHA-256 hashes, in a file closed to others."""

from __future__ import annotations

import os
import secrets
import stat
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, Literal

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from hpc.errors import ConfigError, StateError
from hpc.keys.limits import KeyLimits
from hpc.state import files, lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

PREFIX = "hs-"
KEY_BYTES = 32
OWNER = "owner"
ANONYMOUS_ID = "00000000"
"""Id in place of a key's for requests without a key."""
ALL: Literal["all"] = "all"
NEVER = float("inf")
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$"


class ClientKey(BaseModel):
    """An entry of keys.yaml.

    Attributes:
        id: short name that never changes.
        name: the key's user; unique among the valid keys.
        sha256: hash of the key, in hexadecimal.
        models: allowed model names, or "all".
        limits: limits of the key, or None.
        metrics: whether the key reads the metrics of all keys and models.
        created: time of creation.
        expires: time of expiry, or None.
        revoked: time of revocation, or None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    name: str = Field(pattern=_NAME)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    models: tuple[str, ...] | Literal["all"] = ALL
    limits: KeyLimits | None = None
    metrics: bool = False
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None

    def in_force(self, now: datetime) -> bool:
        """Return whether the key is valid at a time."""
        return self.revoked is None and (self.expires is None or now < self.expires)

    def allows(self, model: str) -> bool:
        """Return whether the key may use a model."""
        return self.models == ALL or model in self.models

    def sees_all(self) -> bool:
        """Return whether the key sees all usage: named as the owner's, and good for all models."""
        return self.name == OWNER and self.models == ALL


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    keys: tuple[ClientKey, ...] = ()


@dataclass(frozen=True, slots=True)
class Stamp:
    """Attributes that change with the file, from an open file, since NFS revalidates on open."""

    inode: int
    mtime_ns: int
    size: int
    mode: int


class Keyring:
    """The keys of one reading of the file, indexed for lookup.

    Args:
        keys: the file's entries.
    """

    def __init__(self, keys: Iterable[ClientKey] = ()) -> None:
        self.keys = tuple(keys)
        self._by_prefix: dict[bytes, list[tuple[bytes, float, ClientKey]]] = {}
        for key in self.keys:
            if key.revoked is None:
                digest = bytes.fromhex(key.sha256)
                ends = NEVER if key.expires is None else key.expires.timestamp()
                self._by_prefix.setdefault(digest[:2], []).append((digest, ends, key))

    def find(self, presented: bytes, now: datetime | None = None) -> ClientKey | None:
        """Return the valid entry of a presented key, or None.

        Args:
            presented: the key that the client sent.
            now: current time; None is the present.
        """
        # Indexed by two bytes of the hash; the rest is compared in constant time, so that the time
        # of an answer tells a guesser nothing about stored hashes.
        digest = sha256(presented).digest()
        found = None
        for known, ends, key in self._by_prefix.get(digest[:2], ()):
            if compare_digest(known, digest):
                at = time.time() if now is None else now.timestamp()
                found = key if at < ends else None
        return found


def stamp(path: Path) -> Stamp | None:
    """Return the stamp of the file's current version; None if the file does not exist.

    Raises:
        StateError: the file system gives no clear answer.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
    except OSError as error:
        if isinstance(error, FileNotFoundError) and path.parent.is_dir():
            return None
        raise StateError(f"cannot read {path}: {error.strerror}") from error
    return Stamp(found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode)


def load(path: Path) -> tuple[ClientKey, ...]:
    """Return all keys, in order of creation; empty if the file does not exist.

    Args:
        path: keys.yaml.

    Raises:
        ConfigError: others can read the file, or its content is not valid; names file and key.
        StateError: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8") as file:
            # The open file is checked, not the path, which could change before the reading.
            _check_private(path, os.fstat(file.fileno()))
            data = yaml.load(file, Loader=_Loader)  # noqa: S506 # nosec B506 - a SafeLoader in C
        return _File.model_validate(data or {}).keys
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StateError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from error
    # ValueError: no UTF-8, the 13th month of a timestamp, a number of 5,000 digits.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {_one_line(error)}") from error


def add(
    path: Path,
    name: str,
    *,
    models: tuple[str, ...] = (),
    limits: KeyLimits | None = None,
    metrics: bool = False,
    expires: datetime | None = None,
) -> tuple[str, ClientKey]:
    """Make a key, and store its hash.

    Args:
        path: keys.yaml, made if missing.
        name: the key's user.
        models: allowed model names; empty means all, or none for a key that reads metrics.
        limits: limits of the key.
        metrics: whether the key reads the metrics of all keys and models.
        expires: time of expiry.

    Returns:
        The key, which is stored nowhere, and its entry.

    Raises:
        ConfigError: the name is not allowed, or a valid key has the name; or the file is unusable.
        StateError: the file cannot be read or written.
    """
    # keys.yaml has several writers, unlike other state: two 'keys add' at once lost a key.
    with lock.exclusive(path):
        known = load(path)
        now = datetime.now(timezone.utc).replace(microsecond=0)
        if any(key.name == name and key.in_force(now) for key in known):
            raise ConfigError(
                f"there is a key named {name!r} already", hint=f"hpc-serve keys revoke {name}"
            )
        secret = PREFIX + secrets.token_urlsafe(KEY_BYTES)
        try:
            entry = ClientKey(
                id=_new_id(known),
                name=name,
                sha256=sha256(secret.encode()).hexdigest(),
                # A scraper's key lies in another program's configuration: it opens no engine.
                models=models or (() if metrics else ALL),
                limits=limits and limits.or_none(),
                metrics=metrics,
                created=now,
                expires=expires,
            )
        except ValidationError as error:
            raise ConfigError(
                f"{name!r} is not a name for a key; allowed: up to 63 letters, digits, and . _ @ -"
            ) from error
        _save(path, (*known, entry))
    return secret, entry


def revoke(path: Path, which: str) -> ClientKey:
    """Revoke a key.

    Args:
        path: keys.yaml.
        which: the key's name or id.

    Raises:
        ConfigError: no valid key has this name or id; or the file is unusable.
        StateError: the file cannot be read or written.
    """
    now = datetime.now(timezone.utc).replace(microsecond=0)
    return _edit(path, which, "revoke", lambda _: {"revoked": now})


def change(path: Path, which: str, limits: Mapping[str, int | None]) -> ClientKey:
    """Change limits of a key; the key itself stays the same.

    Args:
        path: keys.yaml.
        which: the key's name or id.
        limits: new values by the names of KeyLimits; None removes a limit.

    Raises:
        ConfigError: no valid key has this name or id; or the file is unusable.
        StateError: the file cannot be read or written.
    """

    def edit(key: ClientKey) -> dict[str, object]:
        known = {} if key.limits is None else key.limits.given()
        return {"limits": KeyLimits.model_validate({**known, **limits}).or_none()}

    return _edit(path, which, "change", edit)


def _edit(
    path: Path, which: str, verb: str, edit: Callable[[ClientKey], dict[str, object]]
) -> ClientKey:
    with lock.exclusive(path):
        known = load(path)
        for index, key in enumerate(known):
            if which in (key.id, key.name) and key.revoked is None:
                edited = key.model_copy(update=edit(key))
                _save(path, (*known[:index], edited, *known[index + 1 :]))
                return edited
    names = ", ".join(sorted({key.name for key in known if key.revoked is None})) or "none"
    raise ConfigError(f"there is no key {which!r} to {verb}; there are: {names}")


_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _check_private(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.getuid():
        raise ConfigError(f"{path} belongs to uid {found.st_uid}, not to you")
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigError(
            f"{path} is open to others (mode {mode:o}) and is not used",
            hint=f"chmod 600 {path}",
        )


def _save(path: Path, known: tuple[ClientKey, ...]) -> None:
    plain = _File(keys=known).model_dump()
    for entry in plain["keys"]:
        entry["models"] = entry["models"] if entry["models"] == ALL else list(entry["models"])
        limits = {name: value for name, value in (entry.pop("limits") or {}).items() if value}
        if limits:
            entry["limits"] = limits
        if not entry["metrics"]:
            del entry["metrics"]
    data = {"version": plain["version"], "keys": list(plain["keys"])}
    files.write_text(path, yaml.safe_dump(data, sort_keys=False))


def _new_id(known: tuple[ClientKey, ...]) -> str:
    taken = {key.id for key in known}
    while (made := secrets.token_hex(4)) in taken:
        pass
    return made


def _explain(error: ValidationError) -> str:
    """Return the first error without the value, which may be a misplaced key."""
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the file"
    message = first["msg"]
    return f"{place}: {message[:1].lower()}{message[1:]}"


def _one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, " if mark is not None else ""
    return place + str(getattr(error, "problem", None) or "bad text")
