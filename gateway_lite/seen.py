"""Notes every request as it begins and ends, for the metrics and the access log."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from gateway_lite.metrics import Live
from gateway_lite.record import LEFT

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from gateway_lite.accesslog import AccessLog
    from gateway_lite.catalog import Model
    from gateway_lite.metrics import Metrics
    from gateway_lite.record import Record
    from gateway_lite.usage import Usage

OTHER = "other"
QUIET = frozenset({"/healthz", "/metrics"})
"""Paths that monitors ask for all day; noted only when refused."""


def bounded(model: str, known: Collection[str]) -> str:
    """Return a model's name where it is a known one: clients may ask for anything."""
    return model if not model or model in known else OTHER


class Seen:
    """What the outside world can learn of the requests.

    Args:
        models: returns those of the catalog in force, by name.
        metrics: counts.
        log: gets a line per request, or None.
    """

    def __init__(
        self,
        *,
        models: Callable[[], Mapping[str, Model]],
        metrics: Metrics,
        log: AccessLog | None,
    ) -> None:
        self._models = models
        self._metrics = metrics
        self._log = log
        self._active: set[Record] = set()
        self.render = metrics.render
        metrics.watch(self._live)

    def begin(self, record: Record) -> None:
        """Note a request at its first byte."""
        self._active.add(record)

    def end(self, record: Record) -> None:
        """Note what became of it, after its last byte."""
        self._active.discard(record)
        record.status = record.status or LEFT
        if record.status < 400 and record.path in QUIET:
            return
        took_s = time.perf_counter() - record.began
        model = bounded(record.model, self._models())
        key = record.key
        used = record.used()
        self._metrics.observe(record, model, key, used, took_s)
        if self._log is not None:
            self._log.write(_line(record, model, key, used, took_s))

    def close(self) -> None:
        """Write what is left."""
        if self._log is not None:
            self._log.close()

    def _live(self) -> Live:
        """Measure; called in a thread, on copies."""
        models = self._models()
        in_flight = dict.fromkeys(models, 0)
        for record in self._active.copy():
            if record.model:
                name = bounded(record.model, models)
                in_flight[name] = in_flight.get(name, 0) + 1
        return Live(models, in_flight, 0 if self._log is None else self._log.lost)


def _line(
    record: Record, model: str, key: str, used: Usage | None, took_s: float
) -> dict[str, Any]:
    first = None if record.first_at is None else _ms(record.first_at - record.began)
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "request_id": record.name,
        "key": key or None,
        "model": model or None,
        "replica": record.replica or None,
        "status": record.status,
        "error": record.error,
        "prompt_tokens": None if used is None else used.prompt,
        "completion_tokens": None if used is None else used.completion,
        "queue_ms": _ms(record.queue_s),
        "ttft_ms": first,
        "total_ms": _ms(took_s),
        "attempts": record.attempts,
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
