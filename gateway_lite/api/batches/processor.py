"""The start of the batch processor, a separate process that runs while batches are open."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from hpc.errors import HpcServeError
from hpc.openai_batches import processor_heartbeat
from hpc.openai_batches import records as batch_records
from hpc.state import directory

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

AGAIN_S = 10.0
"""Seconds between two attempts to start the processor."""


class ProcessorStarter:
    """The supervisor of the batch processor: keeps a processor running while batches are open.

    ``look`` blocks and runs in the watching thread.

    Args:
        root: the state directory.
        hostname: name of this machine.
    """

    def __init__(self, root: Path, hostname: str) -> None:
        self._root = root
        self._hostname = hostname
        self._child: Any = None
        self._again = 0.0

    def look(self) -> None:
        """Start the processor if needed and not running."""
        if self._child is not None:
            if self._child.poll() is None:
                return
            self._child = None
        elif processor_heartbeat.lives(self._root, self._hostname):
            return
        if time.monotonic() >= self._again and any(map(self._is_ours, self._open())):
            self._again = time.monotonic() + AGAIN_S
            self._start()

    def _open(self) -> list[batch_records.BatchRecord]:
        found = (
            batch_records.load_batch(self._root, *one)
            for one in batch_records.open_batches(self._root)
        )
        return [one for one in found if one is not None]

    def _is_ours(self, order: batch_records.BatchRecord) -> bool:
        return not processor_heartbeat.elsewhere(self._root, order, self._hostname)

    def _start(self) -> None:
        # The only program that the gateway starts.
        from hpc.processes import own_python, programs  # noqa: PLC0415 - for gateways with batches

        argv = own_python.argv("hpc.openai_batches.processor", "--home", str(self._root))
        file = directory.gateway_dir(self._root, self._hostname) / "batch-processor.log"
        try:
            self._child = programs.spawn(
                argv, log=file, cwd=self._root, env=own_python.environment()
            )
        except HpcServeError as error:
            log.error("batches cannot go on: %s", error)  # noqa: TRY400 - a sentence
