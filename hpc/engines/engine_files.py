"""The files and folders that engine arguments name: for checks at submission, and for binds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc.engines import preflight
from hpc.engines.hf_cache import below, outside
from hpc.errors import EngineError
from hpc.model import FILE_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpc.model import ServiceSpec

WRITTEN = frozenset({"download-dir", "slot-save-path", "log-file", "log-prompts-dir"})
"""Options whose file or folder an engine writes to."""
OF_SYSTEM = ("/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr")
"""Folders of which an image has its own."""
ADAPTER = "adapter_config.json"


def named(spec: ServiceSpec) -> Iterator[tuple[str, str]]:
    """Yield the absolute paths in engine arguments, each after the option's long name."""
    for key, value in spec.engine_args.items():
        option = key.strip().lstrip("-").replace("_", "-")
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, str):
                yield from ((option, path) for path in _paths(one))


def _paths(text: str) -> Iterator[str]:
    if text.startswith(("{", "[")):
        try:
            yield from _inside(json.loads(text))
        except ValueError:
            return
    for word in text.split(","):
        path = word if word.startswith("/") else word.partition("=")[2]
        if path.startswith("/") and path != "/":
            yield path.partition(":")[0] if not Path(path).exists() else path


def _inside(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for one in value.values():
            yield from _inside(one)
    elif isinstance(value, list):
        for one in value:
            yield from _inside(one)
    elif isinstance(value, str) and value.startswith("/"):
        yield value


def bound(spec: ServiceSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what a container is to see, read-only and to write: what is on this machine.

    Args:
        spec: the service; the image's own folders, such as /usr, are not covered.
    """
    readable: list[str] = []
    written: list[str] = []
    for option, path in named(spec):
        target = str(Path(path).parent) if option == "log-file" else path
        if not Path(target).exists() or _of_image(target):
            continue
        found = (target, *outside([Path(target), *below(Path(target))], [target]))
        (written if option in WRITTEN else readable).extend(found)
    return tuple(dict.fromkeys(readable)), tuple(dict.fromkeys(written))


def _of_image(path: str) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in OF_SYSTEM)


def check(spec: ServiceSpec) -> None:
    """Check the files of engine arguments.

    Raises:
        EngineError: a file is missing, or holds no adapter.
    """
    for option, path in named(spec):
        if Path(path).exists():
            _check_adapter(spec, option, Path(path))
        elif _is_file(option, path) and not _may_be_elsewhere(spec, Path(path)):
            raise EngineError(
                f"engine_args of {spec.name!r}: the {option} {path} is not there",
                hint="a relative path starts from the folder of models.yaml",
            )


def notes(spec: ServiceSpec) -> Iterator[str]:
    """Yield sentences on files that only the image may hold."""
    for option, path in named(spec):
        missing = _is_file(option, path) and not Path(path).exists()
        if missing and _may_be_elsewhere(spec, Path(path)):
            yield f"{option}: {path} is not on this machine; taken as a path of the image"


def _is_file(option: str, path: str) -> bool:
    """Return whether an option's value must be a file, unlike the path of an address."""
    made = option == "log-file" and Path(path).parent.is_dir()
    return option in FILE_OPTIONS | WRITTEN and not made


def _may_be_elsewhere(spec: ServiceSpec, path: Path) -> bool:
    """Return whether only the node or the container may have a path: in the image, by a bind."""
    if not preflight.seen(spec, str(path)):
        return True
    if spec.container != "apptainer":
        return False
    destinations = [bind.split(":")[1] for bind in spec.binds if bind.count(":")]
    covered = any(path.is_relative_to(one) for one in destinations)
    return covered or _of_image(str(path)) or not path.parent.is_dir()


def _check_adapter(spec: ServiceSpec, option: str, path: Path) -> None:
    if option == "lora-modules" and path.is_dir() and not (path / ADAPTER).is_file():
        raise EngineError(f"the adapter {path} of {spec.name!r} has no {ADAPTER}")
