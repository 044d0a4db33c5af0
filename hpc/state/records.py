"""Conversion of records to JSON and back; keys of newer writers are skipped."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

from hpc import model
from hpc.state.files import read_text, write_text

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping
    from pathlib import Path

T = TypeVar("T")


def decode(kind: type[T], data: Mapping[str, Any]) -> T:
    """Build a dataclass of ``hpc.model`` from parsed JSON, skipping unknown keys."""
    hints = _hints(cast("Hashable", kind))
    known = {f.name: hints[f.name] for f in fields(kind) if f.name in data}  # type: ignore[arg-type]
    return kind(**{name: _decode_value(hint, data[name]) for name, hint in known.items()})


@lru_cache
def _hints(kind: Hashable) -> dict[str, Any]:
    """Return the types of a record's fields, cached: resolving costs more than a read."""
    return get_type_hints(kind, vars(model) | {"Mapping": dict})


def encode(record: object) -> dict[str, Any]:
    """Return a dataclass of ``hpc.model`` as JSON-compatible values."""
    if not is_dataclass(record) or isinstance(record, type):
        raise TypeError(f"not a record: {record!r}")
    plain: dict[str, Any] = json.loads(json.dumps(asdict(record), default=_encode))
    return plain


def _encode(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"cannot be written as JSON: {value!r}")


def _decode_value(hint: object, value: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if isinstance(hint, type) and is_dataclass(hint):
        return decode(hint, value)
    return tuple(value) if isinstance(value, list) else value


def write_record(path: Path, record: object) -> None:
    """Write a dataclass of ``hpc.model`` as JSON."""
    write_text(path, json.dumps(encode(record), indent=1) + "\n")


def read_record(path: Path, kind: type[T]) -> T | None:
    """Return a dataclass of ``hpc.model`` from a file; None if no usable record exists.

    Args:
        path: the JSON file.
        kind: the dataclass; unknown keys are skipped, as a newer writer may add some.
    """
    text = read_text(path)
    if text is None:
        return None
    try:
        return decode(kind, json.loads(text))
    except (ValueError, TypeError, KeyError):
        return None
