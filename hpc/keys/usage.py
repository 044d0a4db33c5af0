"""The usage records of client keys: a file for each machine's gateway."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from hpc.errors import StateError
from hpc.state import directory, files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

EPOCH = date(1970, 1, 1).toordinal()
DAY_S = 86400


@dataclass(frozen=True, slots=True)
class Use:
    """The usage of a key.

    Attributes:
        day: the last day with usage, in days since 1970-01-01, UTC.
        day_tokens: tokens on that day; requests in flight count by estimate.
        day_requests: requests admitted on that day.
        tokens: tokens in all.
        requests: requests admitted in all.
    """

    day: int = 0
    day_tokens: int = 0
    day_requests: int = 0
    tokens: int = 0
    requests: int = 0

    def today(self, day: int) -> tuple[int, int]:
        """Return tokens and requests of a day."""
        return (self.day_tokens, self.day_requests) if self.day == day else (0, 0)


def path(root: Path, hostname: str) -> Path:
    """Return the usage record of a machine's gateway, its only writer."""
    return directory.gateway_dir(root, hostname) / "use.json"


def save(file: Path, keys: Mapping[str, Use]) -> None:
    """Replace a usage record, readable by its owner only.

    Raises:
        StateError: the record cannot be written.
    """
    plain = {name: _plain(one) for name, one in sorted(keys.items())}
    files.write_text(file, json.dumps({"schema": 1, "keys": plain}, indent=1) + "\n")


def load(file: Path) -> dict[str, Use]:
    """Return a usage record by key id; empty if the file does not exist.

    Raises:
        StateError: the file cannot be read, or its content is not a usage record.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): _read(one) for name, one in data["keys"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StateError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StateError(
            f"{file} is not a record of what keys have used",
            hint="move it away to count from zero",
        ) from error


def load_all(root: Path, *, but: str | None = None) -> dict[str, Use]:
    """Return the sums over all machines; an unreadable record counts as empty.

    Args:
        root: the state directory.
        but: a machine to leave out.
    """
    try:
        names = [folder.name for folder in directory.gateway_dir(root, "").iterdir()]
    except OSError:
        return {}
    found: dict[str, list[Use]] = {}
    for name in names:
        if name == but:
            continue
        for key, one in _readable(path(root, name)).items():
            found.setdefault(key, []).append(one)
    return {key: total(several) for key, several in found.items()}


def total(several: Iterable[Use]) -> Use:
    """Return the sum of a key's usage on several machines."""
    known = tuple(several)
    day = max((one.day for one in known), default=0)
    # Machines whose last usage was on an earlier day add nothing to the latest day.
    of_day = [one.today(day) for one in known]
    return Use(
        day=day,
        day_tokens=sum(tokens for tokens, _ in of_day),
        day_requests=sum(requests for _, requests in of_day),
        tokens=sum(one.tokens for one in known),
        requests=sum(one.requests for one in known),
    )


def _readable(file: Path) -> dict[str, Use]:
    try:
        return load(file)
    except StateError:
        return {}


def _plain(one: Use) -> dict[str, object]:
    return {
        "day": date.fromordinal(EPOCH + one.day).isoformat(),
        "day_tokens": one.day_tokens,
        "day_requests": one.day_requests,
        "tokens": one.tokens,
        "requests": one.requests,
    }


def _read(data: Mapping[str, Any]) -> Use:
    return Use(
        day=date.fromisoformat(data["day"]).toordinal() - EPOCH,
        day_tokens=int(data["day_tokens"]),
        day_requests=int(data["day_requests"]),
        tokens=int(data["tokens"]),
        requests=int(data["requests"]),
    )
