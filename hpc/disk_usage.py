"""The disk space of a state directory: batches that are over, unused images, and old logs."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hpc.batch import control
from hpc.batch.folder import BatchFolder
from hpc.errors import HpcServeError
from hpc.model import ServiceSpec
from hpc.state import directory
from hpc.state.records import read_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Kind = Literal["batch", "image", "log"]
LOG_AGE_S = 30 * 86400.0
"""Age of a log below which its job may still wait or run."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A thing on disk that nothing needs any more.

    Attributes:
        kind: "batch", "image" or "log".
        path: the file or folder.
        size: bytes.
        age_s: seconds since the last change.
        note: fate of the batch, or an empty text.
    """

    kind: Kind
    path: Path
    size: int
    age_s: float
    note: str = ""


def leftovers(root: Path, *, kept: Iterable[str] = ()) -> list[Leftover]:
    """Return all that can be removed, the largest first within each kind.

    Args:
        root: the state directory.
        kept: paths of images that a configuration names.
    """
    found = [*_batches(root), *_images(root, kept), *_logs(root)]
    return sorted(found, key=lambda one: (one.kind, -one.size))


def remove(root: Path, one: Leftover) -> None:
    """Remove a leftover.

    Raises:
        HpcServeError: a batch is needed again, as somebody resumed the batch meanwhile.
        OSError: the file or folder cannot be removed.
    """
    if one.kind == "batch":
        control.remove(root, one.path.name)
    elif one.path.is_dir() and not one.path.is_symlink():
        shutil.rmtree(one.path)
    else:
        one.path.unlink(missing_ok=True)


def _batches(root: Path) -> Iterator[Leftover]:
    for batch in control.ids(root):
        with suppress(HpcServeError):
            seen = control.look(root, batch)
            if seen.over:
                has = "its output is there" if Path(seen.spec.output).exists() else "no output"
                path = BatchFolder.of(root, batch).path
                yield _leftover("batch", path, f"{seen.state}, {has}")


def _images(root: Path, kept: Iterable[str]) -> Iterator[Leftover]:
    """Yield the built images that no service, batch or configuration names."""
    specs = [directory.load_spec(root, name) for name in directory.services(root)]
    engines = [BatchFolder.of(root, batch).engine for batch in control.ids(root)]
    specs += [read_record(path, ServiceSpec) for path in engines]
    used = {Path(spec.image).name for spec in specs if spec is not None and spec.image}
    used |= {Path(path).name for path in kept}
    for path in _listed(directory.images_dir(root)):
        if path.suffix == ".sif" and path.name not in used:
            yield _leftover("image", path, "")


def _logs(root: Path) -> Iterator[Leftover]:
    """Yield the logs of programs that ended: builds in jobs, and tunnels in the background."""
    folders = [path for path in _listed(directory.plain_job_dir(root, "")) if path.is_dir()]
    logs = [p for p in _listed(directory.connections_dir(root)) if p.suffix == ".log"]
    for path in (*folders, *logs):
        one = _leftover("log", path, "")
        if one.age_s > LOG_AGE_S:
            yield one


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _leftover(kind: Kind, path: Path, note: str) -> Leftover:
    files = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
    size, changed = 0, 0.0
    for file in files:
        # A file may go while it is counted.
        with suppress(OSError):
            seen = file.lstat()
            size, changed = size + seen.st_blocks * 512, max(changed, seen.st_mtime)
    return Leftover(kind, path, size, time.time() - changed, note)
