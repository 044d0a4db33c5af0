"""YAML files with line numbers in errors, and without the traps of YAML 1.1."""

from __future__ import annotations

import re
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from hpc.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

M = TypeVar("M", bound=BaseModel)
OF_KEY = "[key]"
"""The part that pydantic appends to a location when a mapping's key is not allowed."""


class _Loader(yaml.SafeLoader):
    """A SafeLoader that refuses duplicate keys and base-60 numbers.

    Without YAML 1.1's base-60 numbers an unquoted ``12:00:00`` stays text.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    problem="a key is a list or a mapping; allowed: text",
                    problem_mark=key.start_mark,
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
            # Keys are text as spelled: an alias "on" or a variable "1" is no truth and no number.
            if not key.tag.endswith(":merge"):
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 12:00:00 as 43200 and 1:30 as 90: its rules for numbers are replaced by rules
# without base 60. No key wants a date: 2026-13-45 is the text of a tag, and no error.
_REPLACED = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag not in _REPLACED]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(0x[0-9a-fA-F]+|[1-9][0-9]*|0)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def read(path: Path, kind: type[M]) -> M:
    """Read and validate one YAML file.

    Args:
        path: the file.
        kind: the pydantic model of the file.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or does not fit the model; the message
            names file, line and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from error
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        data = loader.construct_document(node) if node is not None else {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_line_of(error)}: {_problem(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: lists and mappings are nested too deeply") from error
    except ValueError as error:  # such as a number of 5,000 digits
        raise ConfigError(f"{path}: {error}") from error
    try:
        return _validate(kind, data, node)
    except ValidationError as error:
        first = placed(error.errors()[0])
        raise ConfigError(
            f"{path}:{_locate(node, first['loc'])}: {explain(first, kind)}"
        ) from error


def _validate(kind: type[M], data: Any, node: yaml.Node | None) -> M:
    """Validate parsed YAML, with scalars as spelled in the file wherever text is wanted.

    ``gpu_type: 3090``, ``partition: on`` and ``revision: 1e10`` are text to their authors, while
    YAML reads a number, a truth and 10000000000.0.
    """
    while True:
        try:
            return kind.model_validate(data)
        except ValidationError as error:
            wanted = [each["loc"] for each in error.errors() if each["type"] == "string_type"]
            respelled = [_respell(data, node, loc) for loc in wanted]
            if not any(respelled):
                raise


def _respell(data: Any, node: yaml.Node | None, loc: Sequence[str | int]) -> bool:
    """Replace the value at a location by its spelling; return whether one was replaced."""
    for part in loc[:-1]:
        node, data = _child(node, part), _item(data, part)
    scalar = _child(node, loc[-1]) if loc else None
    if not isinstance(scalar, yaml.ScalarNode) or not isinstance(data, (dict, list)):
        return False
    if isinstance(_item(data, loc[-1]), (str, NoneType)):
        return False
    data[loc[-1]] = scalar.value  # type: ignore[index]
    return True


def _child(node: yaml.Node | None, part: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
        found: yaml.Node = node.value[part]
        return found
    return None


def _item(data: Any, part: str | int) -> Any:
    if isinstance(data, list) and isinstance(part, int):
        return data[part]
    return data.get(part) if isinstance(data, dict) else None


def placed(error: Any) -> dict[str, Any]:
    """Return an error with its full location; a check over several keys knows the rest of it.

    Args:
        error: an item of ``ValidationError.errors()``.
    """
    at = getattr(error.get("ctx", {}).get("error"), "at", ())
    return {**error, "loc": (*error["loc"], *at)}


def explain(error: Any, kind: type[BaseModel]) -> str:
    """Return one sentence that names the key, pydantic's finding and the allowed values.

    Args:
        error: an item of ``ValidationError.errors()``.
        kind: the model that was validated.
    """
    # Indices are left out: the line number in front of the message already tells the entry.
    where = [part for part in error["loc"] if not isinstance(part, int) and part != OF_KEY]
    key = ".".join(str(part) for part in where) or "the file"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        names = sorted(_allowed(kind, error["loc"][:-1]))
        meant = did_you_mean(str(error["loc"][-1]), names)
        return f"unknown key {key!r}{meant}; allowed: {', '.join(names)}"
    if error["type"] == "missing":
        return f"the key {key!r} is missing"
    return f"{key}: {message[:1].lower()}{message[1:]}"


def _allowed(kind: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """Follow a location down the models and return the allowed keys."""
    for part in loc:
        if isinstance(part, int):
            continue
        field = kind.model_fields.get(part)
        found = _models_in(field.annotation) if field is not None else []
        if not found:
            return []
        kind = found[0]
    return list(kind.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    inner = getattr(annotation, "__args__", ())
    return [model for argument in inner for model in _models_in(argument)]


def _locate(node: yaml.Node | None, loc: Sequence[str | int]) -> int:
    """Return the line, from 1, of the deepest part of a location found in the file."""
    line = 1 if node is None else node.start_mark.line + 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pair = next((p for p in node.value if p[0].value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _line_of(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f":{mark.line + 1}"


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error)
