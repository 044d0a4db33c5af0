"""The observer of all requests, for the metrics and the access log."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import msgspec

from gateway_lite.telemetry.metrics import OTHER, LiveSnapshot
from gateway_lite.telemetry.request_record import LEFT

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from gateway_lite.catalog.models import Model
    from gateway_lite.routing.balancer import Balancer
    from gateway_lite.telemetry.access_log import AccessLog
    from gateway_lite.telemetry.metrics import Metrics, ModelsFileStatus
    from gateway_lite.telemetry.request_record import RequestRecord
    from gateway_lite.wire.token_usage import Usage

QUIET = frozenset({"/healthz", "/health", "/metrics", "/dashboard", "/dashboard/data"})
"""Paths that monitors request all day; recorded only when refused."""


def bounded(model: str, known: Collection[str]) -> str:
    """Return a known model's name, or OTHER, as clients may ask for any name."""
    return model if not model or model in known else OTHER


class RequestObserver:
    """The observer of requests.

    Args:
        models: returns the models of the catalog in force, by name.
        metrics: the counters.
        log: gets a line per request, or None.
        balancer: knows the replicas' states, or None.
        file: reload state of models.yaml, or None.
    """

    def __init__(
        self,
        *,
        models: Callable[[], Mapping[str, Model]],
        metrics: Metrics,
        log: AccessLog | None,
        balancer: Balancer | None = None,
        file: ModelsFileStatus | None = None,
    ) -> None:
        self._models = models
        self._metrics = metrics
        self._log = log
        self._balancer = balancer
        self._file = file
        self._active: set[RequestRecord] = set()
        self.render = metrics.render
        metrics.watch(self.live)

    def begin(self, record: RequestRecord) -> None:
        """Record a request at its first byte."""
        self._active.add(record)

    def end(self, record: RequestRecord) -> None:
        """Record a request's outcome after its last byte."""
        self._active.discard(record)
        record.status = record.status or LEFT
        if record.status < 400 and record.path in QUIET:
            return
        took_s = time.perf_counter() - record.began
        model = bounded(record.model, self._models())
        used = record.used()
        self._metrics.observe(record, model, used, took_s)
        if self._log is not None:
            self._log.write(_line(record, model, used, took_s))

    def close(self) -> None:
        """Write the remaining lines of the access log."""
        if self._log is not None:
            self._log.close()

    def live(self) -> LiveSnapshot:
        """Return the live values; called in a thread, on copies."""
        models = self._models()
        in_flight = dict.fromkeys(models, 0)
        # A thread reads while the event loop adds and removes; the copy of a set is atomic.
        for record in self._active.copy():
            if record.model:
                name = bounded(record.model, models)
                in_flight[name] = in_flight.get(name, 0) + 1
        lost = 0 if self._log is None else self._log.lost
        balancer = self._balancer
        if balancer is None:
            return LiveSnapshot(models, in_flight, lost, file=self._file)
        waiting = {name: balancer.waiting(name) for name in models}
        return LiveSnapshot(models, in_flight, lost, waiting, balancer.states(), self._file)


class AccessLine(msgspec.Struct, gc=False):
    """One line of the access log."""

    time: datetime
    request_id: str
    key: str | None
    model: str | None
    replica: str | None
    status: int
    error: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    queue_ms: float
    ttft_ms: float | None
    total_ms: float
    attempts: int


def _line(record: RequestRecord, model: str, used: Usage | None, took_s: float) -> AccessLine:
    first = record.first_at
    return AccessLine(
        datetime.now(timezone.utc),
        record.name,
        record.key or None,
        model or None,
        record.replica or None,
        record.status,
        record.error,
        None if used is None else used.prompt,
        None if used is None else used.completion,
        int(record.queue_s * 1e6) / 1000,
        None if first is None else int((first - record.began) * 1e6) / 1000,
        int(took_s * 1e6) / 1000,
        record.attempts,
    )
