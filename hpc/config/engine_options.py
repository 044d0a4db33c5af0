"""Values of ``engine_args``: files are resolved, lists kept, and mappings written as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hpc.config import paths
from hpc.model import FILE_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from hpc.model import EngineValue

SUFFIXES = frozenset({".gguf", ".jinja", ".jinja2", ".json", ".py", ".yaml", ".yml"})
"""Suffixes by which the value of a file's option is a file, even where nothing is there."""
MARKED = ("./", "../", "~", "$")
ADAPTERS = "lora-modules"


def option(key: str) -> str:
    """Return a server's long option for a key of ``engine_args``."""
    return key.strip().lstrip("-").replace("_", "-")


def resolved(
    said: Mapping[str, Any], base: Path, safe: Callable[[Path], Path]
) -> dict[str, EngineValue]:
    """Return engine arguments with absolute paths.

    Args:
        said: values as written; a list may hold mappings.
        base: folder of relative paths.
        safe: refuses a file that was found, rather than named, if others may have written it.
    """
    return {key: _value(option(key), value, base, safe) for key, value in said.items()}


def _value(key: str, value: Any, base: Path, safe: Callable[[Path], Path]) -> EngineValue:
    def place(text: str) -> str:
        return _place(key, text, base, safe)

    if isinstance(value, list):
        return tuple(_item(key, one, place) for one in value)
    if isinstance(value, str) and key == ADAPTERS:
        return tuple(_item(key, one, place) for one in value.split())
    return _item(key, value, place)


def _item(key: str, value: Any, place: Callable[[str], str]) -> str | int | float | bool:
    if isinstance(value, dict):
        return json.dumps(_inside(value, place))
    if not isinstance(value, str):
        plain: int | float | bool = value
        return plain
    name, mark, file = value.partition("=")
    if key == ADAPTERS and mark and "{" not in name:
        return f"{name}={place(file)}"
    return place(value)


def _inside(value: Any, place: Callable[[str], str]) -> Any:
    """Return a value of JSON with the paths in it resolved."""
    if isinstance(value, dict):
        return {key: _inside(one, place) for key, one in value.items()}
    if isinstance(value, list):
        return [_inside(one, place) for one in value]
    return place(value) if isinstance(value, str) else value


def _place(key: str, text: str, base: Path, safe: Callable[[Path], Path]) -> str:
    if "{" in text and not text.startswith("${"):  # a template, or JSON
        return text
    if text.startswith(MARKED):
        full = paths.expanded(text)
        return full if full.startswith("$") else str(base / full)
    if key not in FILE_OPTIONS or not text or text.startswith("/"):
        return text
    path = base / text
    if path.exists():
        # As for a model: anybody could put a file in the way of a name.
        return str(safe(path))
    return str(path) if path.suffix in SUFFIXES else text


def adapters(arguments: Mapping[str, EngineValue]) -> tuple[str, ...]:
    """Return the names of LoRA adapters among engine arguments, as clients request them."""
    found = next((value for key, value in arguments.items() if option(key) == ADAPTERS), ())
    return tuple(_names(found if isinstance(found, tuple) else (found,)))


def _names(modules: tuple[Any, ...]) -> Iterator[str]:
    for module in modules:
        text = str(module)
        if text.startswith(("{", "[")):
            try:
                told = json.loads(text)
            except ValueError:
                continue
            for one in told if isinstance(told, list) else [told]:
                if isinstance(one, dict) and isinstance(one.get("name"), str):
                    yield one["name"]
        elif "=" in text:
            yield text.partition("=")[0]
