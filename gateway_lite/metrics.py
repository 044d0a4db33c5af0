"""What is counted, by prometheus-client; each label has as many values as the configuration gives.

The library looks a series up under a lock, so the series of a kind of request are kept together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from hpc import __version__
from hpc.model import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from gateway_lite.catalog import Model
    from gateway_lite.record import Record
    from gateway_lite.usage import Usage

PREFIX = "hpc_serve_gateway"
BUCKETS_S = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)


@dataclass(frozen=True, slots=True)
class Live:
    """What is measured when somebody asks.

    Attributes:
        models: the catalog's, by name.
        in_flight: requests under way by model.
        lost: lines that the access log could not take.
    """

    models: Mapping[str, Model]
    in_flight: Mapping[str, int]
    lost: int


class Metrics:
    """All series of one gateway."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests", "model", "key", "status")
        self._errors = self._counter("errors", "Requests that failed", "model", "kind")
        self._tokens = self._counter("tokens", "Tokens that engines report", "model", "key", "kind")
        self._retries = self._counter("retries", "Further attempts at a replica", "model")
        self._ttft = self._histogram("time_to_first_byte", "Arrival to first byte out")
        self._duration = self._histogram("request_duration", "Arrival to last byte out")
        self._queue = self._histogram("queue_wait", "Wait for a place at a replica")
        self._ready: dict[tuple[str, str, int], _Series] = {}
        Info(f"{PREFIX}_build", "What runs", registry=self._registry).info({"version": __version__})
        ProcessCollector(registry=self._registry)

    def observe(
        self, record: Record, model: str, key: str, used: Usage | None, took_s: float
    ) -> None:
        """Count one request that has ended.

        Args:
            record: the request.
            model: a known model's name, or another bounded word; empty where none was asked for.
            key: a key's name; empty where none was shown.
            used: tokens, where they are known.
            took_s: seconds from its first byte to the last of its answer.
        """
        status = record.status // 100
        if record.status >= 400:
            self._errors.labels(model, record.error or "engine").inc()
        if not model:
            self._requests.labels(model, key, f"{status}xx").inc()
            return
        series = self._ready.get((model, key, status))
        if series is None:
            series = self._ready[model, key, status] = self._series(model, key, status)
        series.requests.inc()
        series.duration.observe(took_s)
        if record.attempts or record.queue_s:
            series.queue.observe(record.queue_s)
        if record.attempts > 1:
            series.retries.inc(record.attempts - 1)
        if record.first_at is not None and record.status < 400:
            series.ttft.observe(record.first_at - record.began)
        if used is not None:
            series.prompt.inc(used.prompt)
            series.completion.inc(used.completion)

    def watch(self, live: Callable[[], Live]) -> None:
        """Measure the rest by this whenever somebody asks."""
        self._registry.register(_Gauges(live))

    def render(self) -> bytes:
        """Return all of it as text."""
        return generate_latest(self._registry)

    def _series(self, model: str, key: str, status: int) -> _Series:
        return _Series(
            self._requests.labels(model, key, f"{status}xx"),
            self._retries.labels(model),
            self._ttft.labels(model),
            self._duration.labels(model),
            self._queue.labels(model),
            self._tokens.labels(model, key, "prompt"),
            self._tokens.labels(model, key, "completion"),
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(
            f"{PREFIX}_{name}_seconds",
            text,
            ("model",),
            buckets=BUCKETS_S,
            registry=self._registry,
        )


@dataclass(frozen=True, slots=True)
class _Series:
    requests: Counter
    retries: Counter
    ttft: Histogram
    duration: Histogram
    queue: Histogram
    prompt: Counter
    completion: Counter


class _Gauges:
    """The state of things at the moment of a scrape."""

    def __init__(self, live: Callable[[], Live]) -> None:
        self._live = live

    def describe(self) -> list[Metric]:
        """Promise nothing, so that registering does not measure."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Measure."""
        now = self._live()
        flight = GaugeMetricFamily(f"{PREFIX}_in_flight", "Requests under way", labels=["model"])
        replicas = GaugeMetricFamily(f"{PREFIX}_replicas", "Replicas", labels=["model", "phase"])
        stale = GaugeMetricFamily(
            f"{PREFIX}_heartbeats_stale", "Replicas whose heartbeat stopped", labels=["model"]
        )
        for model in now.models.values():
            stale.add_metric([model.name], model.stale)
            for phase in Phase:
                replicas.add_metric([model.name, phase.value], model.phases.count(phase))
        for name, count in now.in_flight.items():
            flight.add_metric([name], count)
        lost = CounterMetricFamily(f"{PREFIX}_access_log_lost", "Lines lost", value=now.lost)
        yield from (flight, replicas, stale, lost)
