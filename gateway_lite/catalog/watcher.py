"""The watching thread: reads the state directory, so that a hanging file system stops no stream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from hpc.errors import HpcServeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway_lite.auth.client_keys import ClientKeys
    from gateway_lite.catalog.models import Catalog
    from gateway_lite.catalog.models_file import ModelsFile
    from gateway_lite.catalog.scanner import Scanner
    from gateway_lite.settings import GatewaySettings

log = logging.getLogger(__name__)

TICK_S = 0.5
"""Seconds between two reads of keys and models. An edit counts after two reads, within two seconds.
"""


class Watcher:
    """The thread that keeps catalog, keys and models as on disk.

    A daemon thread: if a read never returns, the gateway still serves the last known state, and
    still ends on a signal.

    Args:
        scanner: reads the catalog.
        keys: the keys, refreshed by the thread.
        models: the models, refreshed by the thread.
        beat: publishes the gateway's heartbeat, or None.
        publish: takes a new catalog, in the event loop.
        settings: intervals.
        warnings: returns warnings about servers, for the gateway's record.
    """

    def __init__(
        self,
        scanner: Scanner,
        keys: ClientKeys,
        models: ModelsFile,
        *,
        beat: Callable[[], None] | None,
        publish: Callable[[Catalog], None],
        settings: GatewaySettings,
        warnings: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        self._warnings = warnings
        self._scanner = scanner
        self._keys = keys
        self._models = models
        self._beat = beat
        self._publish = publish
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._wake = threading.Event()
        self._stopped = False
        self._reload = False
        self._refused: set[str] = set()
        self._waiting: list[asyncio.Future[None]] = []
        self._complaint = ""
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End after the current read, without waiting for it."""
        self._stopped = True
        self._wake.set()

    def reload(self) -> None:
        """Read models.yaml at once."""
        self._reload = True
        self._wake.set()

    async def again(self, *, refused: str | None = None, timeout_s: float = 3.0) -> None:
        """Read at once, and wait for the result for a limited time.

        Args:
            refused: key of a replica that refused the gateway's secret.
            timeout_s: seconds after which the caller goes on with the known state.
        """
        if refused is not None:
            self._refused.add(refused)
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(done)
        self._wake.set()
        await asyncio.wait({done}, timeout=timeout_s)

    def _run(self) -> None:
        scan_at = 0.0
        while not self._stopped:
            # Before the reads: a wake-up during the reads then starts another round.
            self._wake.clear()
            try:
                self._keys.refresh()
                if self._reread() or self._waiting or time.monotonic() >= scan_at:
                    self._scan()
                    scan_at = time.monotonic() + self._settings.scan_s
            except Exception:
                if self._stopped:
                    return
                log.exception("reading the state directory failed")
            self._wake.wait(TICK_S)

    def _reread(self) -> bool:
        """Read models.yaml, and return whether the read had a new outcome."""
        asked, self._reload = self._reload, False
        if not self._models.refresh(asked=asked):
            return False
        self._scanner.serve(self._models.backends)
        return True

    def _scan(self) -> None:
        refused, self._refused = self._refused, set()
        waiting, self._waiting = self._waiting, []
        try:
            catalog = self._scanner.scan(time.time(), refused)
            self._models.weigh(catalog.models, self._warnings())
            self._loop.call_soon_threadsafe(self._publish, catalog)
            if self._beat is not None:
                self._beat()
        except (OSError, HpcServeError) as error:
            self._complain(f"cannot read the state directory, serving the known state: {error}")
        else:
            self._complain("")
        finally:
            self._loop.call_soon_threadsafe(_resolve, waiting)

    def _complain(self, text: str) -> None:
        """Log a complaint when its text changes."""
        if text != self._complaint:
            log.warning("%s", text or "the state directory can be read again")
        self._complaint = text


def _resolve(waiting: list[asyncio.Future[None]]) -> None:
    for future in waiting:
        with contextlib.suppress(asyncio.InvalidStateError):
            future.set_result(None)
