"""A worker of a batch: claims chunks, keeps an engine busy, makes answers durable."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hpc.batch import throughput
from hpc.batch.folder import BatchFolder
from hpc.batch.input import intake
from hpc.batch.ledger import answers, claims, heartbeats, merge
from hpc.batch.worker.concurrency import ConcurrencyLimit
from hpc.batch.worker.http_client import Sender, open_clients
from hpc.batch.worker.missing_models import MissingModels
from hpc.errors import BatchError, StateError
from hpc.state import directory, records

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hpc.batch.ledger.answers import RowAnswer
    from hpc.batch.ledger.filesystem import FileSystem
    from hpc.batch.model import BatchSpec, BatchTarget, BatchWorker

log = logging.getLogger(__name__)

FLUSH_S = 0.1
IDLE_S = 1.0
BACKLOG = 4096
"""Answers waiting for the disk above which no further request is sent."""


@dataclass(slots=True)
class ClaimedChunk:
    """A claimed chunk in progress.

    Attributes:
        lines: requests by row.
        todo: rows not yet sent.
        open: rows without a durable answer.
        fresh: answers that are not yet durable.
    """

    claim: claims.Claim
    lines: dict[int, bytes]
    todo: deque[int]
    open: set[int]
    fresh: list[RowAnswer] = field(default_factory=list)


class Worker:
    """A worker of a batch, until the batch is done or the worker is stopped.

    Args:
        files: the file system.
        folder: the batch.
        spec: the batch's specification.
        record: the first heartbeat.
        slots: requests that the engine serves at once, or None.
        stale_s: seconds without a heartbeat until another worker counts as dead.
        ended: returns whether a job is known to have ended.

    Attributes:
        away: models that the gateway lacks at present.
    """

    def __init__(
        self,
        files: FileSystem,
        folder: Path,
        spec: BatchSpec,
        record: BatchWorker,
        *,
        slots: int | None = None,
        stale_s: float = directory.STALE_S,
        ended: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._files, self._folder, self._spec = files, folder, spec
        self.record = record
        self.away = MissingModels()
        self._watch = heartbeats.Monitor(folder, record.name, record.job_id, stale_s, ended)
        self._pace = ConcurrencyLimit(2 * slots if slots else 16, spec.in_flight, time.monotonic())
        self._held: list[ClaimedChunk] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._stopping = False
        self._looked_at = 0.0

    def stop(self) -> None:
        """Claim no further chunk; must be called in the loop's thread."""
        self._stopping = True
        self._wake.set()

    async def run(self, target: BatchTarget, *, drain_s: float = 10.0) -> bool:
        """Work, and return whether the whole batch is answered.

        Args:
            target: the server of the requests.
            drain_s: seconds for requests in flight after a stop.

        Raises:
            BatchError: the requests cannot be read.
        """
        async with open_clients(target) as clients:
            sender = Sender(
                clients,
                self._pace,
                timeout_s=self._spec.timeout_s,
                retries=self._spec.retries,
                away=self.away,
            )
            self._beat(sender)
            keeper = asyncio.create_task(self._keep(sender))
            try:
                return await self._feed(sender)
            finally:
                await self._leave(drain_s, keeper)
                self._beat(sender, last=True)

    async def _feed(self, sender: Sender) -> bool:
        while not self._stopping:
            # Cleared before the work: an answer that lands during the loop wakes the next wait.
            self._wake.clear()
            while self._may_send(sender):
                held = await self._next()
                if held is None:
                    break
                row = held.todo.popleft()
                task = asyncio.create_task(self._one(sender, held, row))
                self._sending.add(task)
                task.add_done_callback(self._landed)
            if not self._held and await asyncio.to_thread(self._all_done):
                return True
            await _wait(self._wake, IDLE_S / 4 if self._held else IDLE_S)
        return False

    def _may_send(self, sender: Sender) -> bool:
        """Return whether another request may be sent; sleeping retries take little room."""
        backlog = sum(len(held.fresh) for held in self._held)
        # Requests asleep before a retry do not count, so that a few refusals do not idle the
        # engine; but at most in_flight of them, or a dead engine would be handed the whole batch.
        asleep = min(sender.waiting, self._spec.in_flight)
        room = len(self._sending) - asleep < self._pace.limit and backlog < BACKLOG
        return room and not self._stopping

    async def _next(self) -> ClaimedChunk | None:
        """Return a chunk with an unsent row, after a new claim if necessary."""
        for held in self._held:
            if held.todo:
                return held
        # Once no chunk was free, the folders are listed once a second at most: on NFS it costs.
        if time.monotonic() - self._looked_at < IDLE_S:
            return None
        for held in await asyncio.to_thread(self._claim):
            self._held.append(held)
            return held if held.todo else None
        self._looked_at = time.monotonic()
        return None

    def _claim(self) -> list[ClaimedChunk]:
        """Claim a chunk, and return the chunk as a list of one or no element."""
        gone = self._watch.gone(self._files)
        try:
            mine = claims.take(self._files, self._folder, self.record.name, gone)
            if mine is None:
                return []
            have = answers.collect(self._files, self._folder, mine.chunk, mine.attempt)
            lines = intake.requests(self._folder, mine.chunk)
        except OSError as error:
            log.warning("cannot claim: %s", error)
            return []
        rows = merge.rows_of(self._spec, mine.chunk)
        if len(lines) != len(rows):
            raise BatchError(f"chunk {mine.chunk} of batch {self._spec.id} is not whole")
        by_row = dict(zip(rows, lines, strict=True))
        left = [row for row in rows if row not in have or not have[row].good]
        # Sorted by body: requests with a common beginning then hit the engine's prefix cache.
        left.sort(key=lambda row: by_row[row].partition(b'"body":')[2])
        return [ClaimedChunk(mine, by_row, deque(left), set(left))]

    async def _one(self, sender: Sender, held: ClaimedChunk, row: int) -> None:
        answer = await sender.send(row, held.lines[row])
        held.fresh.append(answer)  # read anew: a flush may have replaced the list meanwhile

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._wake.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("a request failed unexpectedly", exc_info=task.exception())
            self._stopping = True

    def _all_done(self) -> bool:
        return claims.finished(self._files, self._folder, self._spec.chunks)

    async def _keep(self, sender: Sender) -> None:
        while not self._closing.is_set():
            await _wait(self._closing, FLUSH_S)
            await self._flush()
            if self._beat_is_due():
                await asyncio.to_thread(self._beat, sender)

    async def _flush(self) -> None:
        for held in list(self._held):
            # Without open rows (all answered by earlier claims) the chunk only needs finishing.
            if held.open and not held.fresh:
                continue
            group, held.fresh = held.fresh, []
            if not await asyncio.to_thread(self._store, held, group):
                held.fresh = group + held.fresh
            elif not held.open:
                self._held.remove(held)
                self._wake.set()

    def _store(self, held: ClaimedChunk, group: list[RowAnswer]) -> bool:
        """Make answers durable, and finish the chunk after its last; False asks for a retry."""
        path = BatchFolder(self._folder).answers(held.claim.chunk, held.claim.attempt)
        try:
            if group:
                answers.append(self._files, path, group)
            # Only after the append is durable may the chunk count as done: never the reverse.
            left = held.open - {answer.row for answer in group}
            if not left:
                claims.finish(self._files, self._folder, held.claim)
        except OSError as error:
            log.warning("cannot write answers, will try again: %s", error)
            return False
        held.open = left
        return True

    async def _leave(self, drain_s: float, keeper: asyncio.Task[None]) -> None:
        """Let requests in flight end, make all answers durable and release unfinished chunks."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=drain_s)
        for task in list(self._sending):
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        # The keeper ends before the last flush: two flushes at once could write answers twice.
        self._closing.set()
        await asyncio.gather(keeper, return_exceptions=True)
        await self._flush()
        for held in self._held:
            try:
                claims.release(self._files, self._folder, held.claim)
            except OSError as error:
                log.warning("cannot give chunk %s back: %s", held.claim.chunk, error)

    def _cause(self) -> str | None:
        """Return the reason of a wait and the time left, or None."""
        found = self.away.longest()
        if found is None:
            return None
        model, away_s = found
        left = max(0, round((self._spec.model_patience_s - away_s) / 60))
        return f"the model {model!r} is gone: waits for it, and pauses in {left} min"

    def _beat_is_due(self) -> bool:
        return time.time() - self.record.beat_at >= directory.BEAT_S

    def _beat(self, sender: Sender, *, last: bool = False) -> None:
        now, counts = time.time(), sender.counts
        self.record = replace(
            self.record,
            beat_at=now,
            phase="ENDED" if last else "WORKING",
            good=counts.good,
            failed=counts.failed,
            retried=counts.retried,
            tokens=counts.tokens,
            in_flight=len(self._sending),
            limit=self._pace.limit,
            ended=last,
            cause=None if last else self._cause(),
            history=throughput.extended(
                self.record.history, (now, counts.good + counts.failed, counts.tokens)
            ),
        )
        try:
            records.write_record(BatchFolder(self._folder).heartbeat(self.record.name), self.record)
        except StateError as error:
            log.warning("%s", error)


async def _wait(event: asyncio.Event, patience_s: float) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), patience_s)
