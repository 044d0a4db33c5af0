"""The batch processor: a process beside the gateway that processes OpenAI batches.

The gateway starts the processor when an open batch exists. The processor ends when no batch is
left, and some time after the gateway has gone, with the workers' answers flushed. All state needed
to continue is on disk.
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from hpc.batch import cleanup
from hpc.batch import control as batch_control
from hpc.errors import HpcServeError, StateError
from hpc.jobs import api as jobs
from hpc.openai_batches import one_batch, processor_heartbeat
from hpc.openai_batches import records as batch_records
from hpc.state import directory, lock, private

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from hpc.openai_batches.records import BatchRecord

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Batches in progress at the same time; further batches wait."""
TICK_S = 0.5
IDLE_S = 30.0
"""Seconds without a batch until the processor ends."""
ALONE_S = 30.0
"""Seconds without a gateway until the processor ends: long enough for a gateway restart."""
AGAIN_S = 10.0
"""Seconds until a failed step is tried again."""


class BatchProcessor:
    """The processor of all batches of a machine's gateway.

    Args:
        root: the state directory.
        hostname: name of this machine.
    """

    def __init__(self, root: Path, hostname: str) -> None:
        self._root, self._hostname = root, hostname
        self._office = one_batch.ProcessorContext(root, hostname)
        self._threads: dict[str, Thread] = {}
        self._again: dict[str, float] = {}
        self._known: dict[tuple[str, str], BatchRecord] = {}
        self._busy_at = self._served_at = time.monotonic()
        self._beat_at = 0.0

    def stop(self, number: int, frame: FrameType | None) -> None:
        """End, and leave everything in place for the next processor."""
        del number, frame
        self._office.closing.set()

    def run(self) -> None:
        """Process batches until none is left, or the gateway has gone."""
        cleanup.sweep(self._root)
        while not self._office.closing.is_set():
            self._look()
            now = time.monotonic()
            if now - self._busy_at > IDLE_S:
                break
            if now - self._served_at > ALONE_S:
                log.info("the gateway has gone: batches wait for the next one")
                self._office.closing.set()
                self._join()
                self._send_home()
                break
            self._office.closing.wait(TICK_S)
        self._office.closing.set()
        self._join()
        processor_heartbeat.rest(self._root, self._hostname)

    def _look(self) -> None:
        now = time.monotonic()
        if self._office.serves():
            self._served_at = now
        if now - self._beat_at > processor_heartbeat.BEAT_S:
            self._beat_at = now
            try:
                processor_heartbeat.beat(self._root, self._hostname)
            except StateError as error:
                log.warning("%s", error)
        self._threads = {name: one for name, one in self._threads.items() if one.is_alive()}
        for order in self._waiting(now):
            self._take(order)
        if self._threads:
            self._busy_at = now

    def _waiting(self, now: float) -> list[BatchRecord]:
        """Return idle batches: keys with the fewest batches in progress first, then the oldest."""
        # Batch records never change, so each is read once; progress is left to the threads.
        names = dict.fromkeys(batch_records.open_batches(self._root))
        found = {
            name: self._known.get(name) or batch_records.load_batch(self._root, *name)
            for name in names
        }
        self._known = {name: one for name, one in found.items() if one is not None}
        known = self._known.values()
        at_work = Counter(one.key for one in known if one.id in self._threads)
        due = [o for o in known if o.id not in self._threads and now >= self._again.get(o.id, 0.0)]
        return sorted(due, key=lambda one: (at_work[one.key], one.created_at, one.id))

    def _take(self, order: BatchRecord) -> None:
        if processor_heartbeat.elsewhere(self._root, order, self._hostname):
            return
        self._busy_at = time.monotonic()
        # Cancelled and expired batches pass the limit: ending a batch costs no engine time.
        over = batch_records.cancelled_at(self._root, order) or time.time() >= order.expires_at
        if len(self._threads) < AT_ONCE or over:
            self._again[order.id] = time.monotonic() + AGAIN_S
            thread = Thread(target=self._attend, args=(order,), name=order.id, daemon=True)
            self._threads[order.id] = thread
            thread.start()

    def _attend(self, order: BatchRecord) -> None:
        try:
            one_batch.BatchRun(self._office, order).run()
        except HpcServeError as error:
            log.warning("batch %s, will be tried again: %s", order.id, error)
        except Exception:
            log.exception("batch %s, will be tried again", order.id)

    def _join(self) -> None:
        for thread in self._threads.values():
            thread.join(60.0)

    def _send_home(self) -> None:
        """Make the workers flush their answers and end."""
        for key, batch in batch_records.open_batches(self._root):
            order = batch_records.load_batch(self._root, key, batch)
            ours = None if order is None else batch_records.load_progress(self._root, order).batch
            if ours is not None:
                jobs.drain(batch_control.here(directory.batch_dir(self._root, ours)))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the batch processor of the machine, unless another one runs.

    Args:
        argv: arguments after the program's name; None takes those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m hpc.openai_batches.processor", description=__doc__
    )
    parser.add_argument("--home", required=True, type=Path, help="state directory")
    root = parser.parse_args(argv).home
    private.keep_files()
    private.keep_memory()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    hostname = socket.gethostname()
    processor = BatchProcessor(root, hostname)
    signal.signal(signal.SIGTERM, processor.stop)
    try:
        # No patience: if another processor runs, this one is not needed.
        with lock.exclusive(processor_heartbeat.lock_path(root, hostname), patience_s=0):
            processor.run()
    except StateError as error:
        log.info("not needed: %s", error)


if __name__ == "__main__":
    main()
