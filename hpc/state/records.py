"""Conversion of records to JSON and back; keys of newer writers are skipped."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from itertools import repeat
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from hpc import model
from hpc.state.files import read_text, write_text

if TYPE_CHECKING:
    from collections.abc import Hashable
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
    """Return a field's value; a value of another type raises TypeError, as a missing one does."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _first_fit(arguments, value)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        kinds = repeat(arguments[0]) if arguments[-1] is Ellipsis else arguments
        return tuple(_decode_value(kind, each) for kind, each in zip(kinds, value))  # noqa: B905
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {key: _decode_value(arguments[1], each) for key, each in value.items()}
    return _decode_plain(hint, value)


def _first_fit(kinds: tuple[Any, ...], value: Any) -> Any:
    for kind in kinds:
        with contextlib.suppress(TypeError, ValueError, KeyError):
            return _decode_value(kind, value)
    raise TypeError(f"not one of {kinds}: {value!r}")


def _decode_plain(hint: object, value: Any) -> Any:
    if hint is Any:
        return value
    if isinstance(hint, type):
        if issubclass(hint, Enum):
            return hint(value)
        if is_dataclass(hint):
            return decode(hint, value)
        # JSON has one kind of number, and Python counts booleans among the integers.
        kinds = (int, float) if hint is float else hint
        if isinstance(value, kinds) and isinstance(value, bool) is (hint is bool):
            return value
    raise TypeError(f"not of type {hint}: {value!r}")


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
