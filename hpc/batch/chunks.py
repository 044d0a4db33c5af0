"""Who works on which chunk: a name in one of three folders, moved by rename.

    todo/CHUNK.ATTEMPT           nobody has it
    doing/CHUNK.ATTEMPT.WORKER   that worker has it
    done/CHUNK.ATTEMPT           its answers are durable

A rename succeeds for one of several who try, on NFS too, so a chunk has one name at any time. The
attempt grows whenever a chunk changes hands: ``answers/CHUNK.ATTEMPT`` has one writer for ever, and
all answers of a chunk are found by name, without a listing. A claim saves work twice done; that
each row is answered once in the output is the merge's business and rests on no claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from pathlib import Path

    from hpc.batch.files import Files

TODO, DOING, DONE = "todo", "doing", "done"


@dataclass(frozen=True, slots=True)
class Claim:
    """A chunk in some worker's hands, or in none's.

    Attributes:
        chunk: its number.
        attempt: how often it has changed hands.
        worker: who has it; "" is nobody.
    """

    chunk: int
    attempt: int
    worker: str = ""

    @property
    def name(self) -> str:
        """Return its file name."""
        tail = f".{self.worker}" if self.worker else ""
        return f"{self.chunk:07d}.{self.attempt}{tail}"


def parse(name: str) -> Claim | None:
    """Return what a file name says; None for one that is not ours."""
    chunk, _, rest = name.partition(".")
    attempt, _, worker = rest.partition(".")
    if not (chunk.isdecimal() and attempt.isdecimal()):
        return None
    return Claim(int(chunk), int(attempt), worker)


def listed(files: Files, folder: Path, state: str) -> Iterator[Claim]:
    """Yield the chunks in one state, in order, as far as the listing is fresh."""
    for name in files.names(folder / state):
        claim = parse(name)
        if claim is not None:
            yield claim


def take(files: Files, folder: Path, worker: str, gone: Container[str] = ()) -> Claim | None:
    """Claim a chunk that nobody has, or that somebody has who is gone; None where there is none.

    Args:
        files: the file system.
        folder: the batch.
        worker: our name; no other process ever has it.
        gone: workers that will not come back.
    """
    for free in listed(files, folder, TODO):
        mine = Claim(free.chunk, free.attempt, worker)
        if _move(files, folder, (TODO, free), (DOING, mine)):
            return mine
    for held in listed(files, folder, DOING):
        if held.worker in gone:
            mine = Claim(held.chunk, held.attempt + 1, worker)
            if _move(files, folder, (DOING, held), (DOING, mine)):
                return mine
    return None


def release(files: Files, folder: Path, mine: Claim) -> bool:
    """Give a chunk back; False where it was taken from us."""
    return _move(files, folder, (DOING, mine), (TODO, Claim(mine.chunk, mine.attempt + 1)))


def finish(files: Files, folder: Path, mine: Claim) -> bool:
    """Say that all answers of a chunk are durable; False where it was taken from us."""
    return _move(files, folder, (DOING, mine), (DONE, Claim(mine.chunk, mine.attempt)))


def reopen(files: Files, folder: Path, done: Claim) -> bool:
    """Have a chunk worked on again, since answers of it are missing or errors are retried."""
    return _move(files, folder, (DONE, done), (TODO, Claim(done.chunk, done.attempt + 1)))


def finished(files: Files, folder: Path, chunks: int) -> bool:
    """Tell whether every chunk is done."""
    return sum(1 for _ in listed(files, folder, DONE)) >= chunks


def _move(files: Files, folder: Path, old: tuple[str, Claim], new: tuple[str, Claim]) -> bool:
    return files.move(folder / old[0] / old[1].name, folder / new[0] / new[1].name)
