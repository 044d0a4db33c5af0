"""Claims of chunks: file names in one of three folders, moved by rename.

    todo/CHUNK.ATTEMPT           free
    doing/CHUNK.ATTEMPT.WORKER   claimed by WORKER
    done/CHUNK.ATTEMPT           all answers are durable

When several workers try the same rename, exactly one succeeds, on NFS too, so a chunk has one name
at any time. The attempt grows whenever a chunk changes hands: ``answers/CHUNK.ATTEMPT`` has one
writer for ever, and all answers of a chunk are found by name, without a listing. Claims only avoid
double work; the merge alone makes sure that the output has one answer for each row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc.batch.folder import DOING, DONE, TODO

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from pathlib import Path

    from hpc.batch.ledger.filesystem import FileSystem


@dataclass(frozen=True, slots=True)
class Claim:
    """A chunk with its current holder.

    Attributes:
        chunk: number of the chunk.
        attempt: number of earlier claims.
        worker: name of the holder; "" for a free or finished chunk.
    """

    chunk: int
    attempt: int
    worker: str = ""

    @property
    def name(self) -> str:
        """Return the claim's file name."""
        tail = f".{self.worker}" if self.worker else ""
        # Zero-padded, so that sorted names are chunks in order.
        return f"{self.chunk:07d}.{self.attempt}{tail}"


def parse(name: str) -> Claim | None:
    """Return the claim in a file name; None for a foreign file."""
    chunk, _, rest = name.partition(".")
    attempt, _, worker = rest.partition(".")
    if not (chunk.isdecimal() and attempt.isdecimal()):
        return None
    return Claim(int(chunk), int(attempt), worker)


def listed(files: FileSystem, folder: Path, state: str) -> Iterator[Claim]:
    """Yield the chunks in one state, in order, as far as the listing is fresh."""
    for name in files.names(folder / state):
        claim = parse(name)
        if claim is not None:
            yield claim


def take(files: FileSystem, folder: Path, worker: str, gone: Container[str] = ()) -> Claim | None:
    """Claim a free chunk, or a chunk whose worker is gone; None when no chunk is available.

    Args:
        files: the file system.
        folder: the batch.
        worker: name of the claiming worker, never used by another process.
        gone: workers that will not come back.
    """
    for free in listed(files, folder, TODO):
        mine = Claim(free.chunk, free.attempt, worker)
        if _move(files, folder, (TODO, free), (DOING, mine)):
            return mine
    for held in listed(files, folder, DOING):
        if held.worker in gone:
            # A new attempt means a new answer file: the old holder may still write to its own.
            mine = Claim(held.chunk, held.attempt + 1, worker)
            if _move(files, folder, (DOING, held), (DOING, mine)):
                return mine
    return None


def release(files: FileSystem, folder: Path, mine: Claim) -> bool:
    """Release a chunk; False if another worker has taken the chunk over."""
    return _move(files, folder, (DOING, mine), (TODO, Claim(mine.chunk, mine.attempt + 1)))


def finish(files: FileSystem, folder: Path, mine: Claim) -> bool:
    """Mark a chunk as done, all answers being durable; False if another worker took over."""
    return _move(files, folder, (DOING, mine), (DONE, Claim(mine.chunk, mine.attempt)))


def reopen(files: FileSystem, folder: Path, done: Claim) -> bool:
    """Return a done chunk to the workers, for missing answers or for a retry of errors."""
    return _move(files, folder, (DONE, done), (TODO, Claim(done.chunk, done.attempt + 1)))


def finished(files: FileSystem, folder: Path, chunks: int) -> bool:
    """Return whether every chunk is done."""
    # A stale listing of a network file system shows too few: the worker then asks again.
    return sum(1 for _ in listed(files, folder, DONE)) >= chunks


def _move(files: FileSystem, folder: Path, old: tuple[str, Claim], new: tuple[str, Claim]) -> bool:
    return files.move(folder / old[0] / old[1].name, folder / new[0] / new[1].name)
