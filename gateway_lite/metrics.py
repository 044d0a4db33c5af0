"""What is counted, told by prometheus-client; labels have only values that are configured.

The library takes a lock and looks a series up for each addition, so that we add to counters of our
own, and make its families of them when somebody asks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

from gateway_lite.tallies import Tallies
from hpc import __version__
from hpc.model import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from gateway_lite.catalog import Model
    from gateway_lite.record import Record
    from gateway_lite.seats import Seen
    from gateway_lite.usage import Usage
    from hpc.model import Reload

PREFIX = "hpc_serve_gateway"
FAILED = 400
TIMES = {
    "time_to_first_byte": "Arrival to first byte out",
    "request_duration": "Arrival to last byte out",
    "queue_wait": "Wait for a place at a replica",
    "inter_token": "Mean time between two pieces of a streamed answer",
    "overhead": "Time spent in the gateway before the replica was asked",
}


@dataclass(frozen=True, slots=True)
class Live:
    """What is measured when somebody asks.

    Attributes:
        models: the catalog's, by name.
        in_flight: requests under way by model.
        lost: lines that the access log could not take.
        waiting: requests in the queue by model.
        replicas: what the balancer knows of each, by its name.
        reload: what became of models.yaml, or None.
    """

    models: Mapping[str, Model]
    in_flight: Mapping[str, int]
    lost: int
    waiting: Mapping[str, int] = field(default_factory=dict)
    replicas: Mapping[str, Seen] = field(default_factory=dict)
    reload: Reload | None = None


class Metrics:
    """The counters, and what is measured beside them."""

    def __init__(self) -> None:
        self.tallies = Tallies()
        self._live: Callable[[], Live] | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def observe(self, record: Record, model: str, used: Usage | None, took_s: float) -> None:
        """Count one request that has ended.

        Args:
            record: the request.
            model: a known model's name, or another bounded word; empty where none was asked for.
            used: tokens, where they are known.
            took_s: seconds from its first byte to the last of its answer.
        """
        status = record.status
        if status >= FAILED:
            self.tallies.error(model, record.error or "engine")
        tally = self.tallies.of(model, record.key, status // 100)
        tally.requests += 1
        if not model:
            return
        times = tally.model
        times.duration.add(took_s)
        times.queue.add(record.queue_s)
        attempts, first_at = record.attempts, record.first_at
        if attempts:
            times.overhead.add(record.overhead_s)
            times.retries += attempts - 1
        if first_at is not None and status < FAILED:
            ttft_s = first_at - record.began
            times.ttft.add(ttft_s)
            if record.reads > 1:
                times.between.add((took_s - ttft_s) / (record.reads - 1))
        if used is not None:
            tally.prompt += used.prompt
            tally.completion += used.completion

    def watch(self, live: Callable[[], Live]) -> None:
        """Measure the rest by this whenever somebody asks."""
        self._live = live

    def render(self) -> bytes:
        """Return all of it as text."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Promise nothing, so that registering does not measure."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Make the library's families."""
        info = {"version": __version__}
        yield InfoMetricFamily(f"{PREFIX}_build", "What runs", value=info)
        yield from _counted(self.tallies)
        if self._live is not None:
            yield from _measured(self._live())


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"{PREFIX}_{name}", text, labels=labels)


def _counted(tallies: Tallies) -> Iterator[Metric]:
    yield from _requests(tallies)
    retries = _counter("retries", "Further attempts at a replica", "model")
    errors = _counter("errors", "Requests that failed", "model", "kind")
    limited = _counter("limited", "Requests that a limit refused", "key", "kind")
    for pair, count in tallies.errors.copy().items():
        errors.add_metric(pair, count)
    for pair, count in tallies.limited.copy().items():
        limited.add_metric(pair, count)
    models = {name: tally for name, tally in tallies.models.copy().items() if name}
    for name, times in models.items():
        retries.add_metric([name], times.retries)
    yield from (retries, errors, limited)
    for kind, text in TIMES.items():
        family = HistogramMetricFamily(f"{PREFIX}_{kind}_seconds", text, labels=["model"])
        for name, times in models.items():
            histogram = times.histograms()[kind]
            family.add_metric([name], histogram.buckets(), histogram.total)
        yield family


def _requests(tallies: Tallies) -> Iterator[Metric]:
    requests = _counter("requests", "Requests", "model", "key", "status")
    tokens = _counter("tokens", "Tokens that engines report", "model", "key", "kind")
    used: dict[tuple[str, str, str], int] = {}
    for (model, key, status), tally in tallies.keys.copy().items():
        requests.add_metric([model, key, f"{status}xx"], tally.requests)
        for kind, count in (("prompt", tally.prompt), ("completion", tally.completion)):
            used[model, key, kind] = used.get((model, key, kind), 0) + count
    for at, count in used.items():
        if count:
            tokens.add_metric(at, count)
    yield from (requests, tokens)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)


def _measured(now: Live) -> Iterator[Metric]:
    flight = _gauge("in_flight", "Requests under way", "model")
    for name, count in now.in_flight.items():
        flight.add_metric([name], count)
    queued = _gauge("queued", "Requests that wait for a slot", "model")
    replicas = _gauge("replicas", "Replicas", "model", "phase")
    stale = _gauge("heartbeats_stale", "Replicas whose heartbeat stopped", "model")
    for model in now.models.values():
        queued.add_metric([model.name], now.waiting.get(model.name, 0))
        stale.add_metric([model.name], model.stale)
        for phase in Phase:
            replicas.add_metric([model.name, phase.value], model.phases.count(phase))
    lost = CounterMetricFamily(f"{PREFIX}_access_log_lost", "Lines lost", value=now.lost)
    yield from (flight, queued, replicas, stale, lost)
    yield from _upstreams(now.replicas)
    if now.reload is not None:
        yield from _reloads(now.reload)


def _upstreams(seen: Mapping[str, Seen]) -> Iterator[Metric]:
    up = _gauge("replica_up", "1 where requests go there, 0 while it rests", "replica")
    outstanding = _gauge("replica_outstanding", "Requests at a replica", "replica")
    tokens = _gauge("replica_outstanding_tokens", "Estimated tokens at a replica", "replica")
    stalled = _gauge("replica_stalled_seconds", "Time without movement at a replica", "replica")
    for name, state in seen.items():
        up.add_metric([name], float(state.breaker != "open"))
        outstanding.add_metric([name], state.outstanding)
        tokens.add_metric([name], state.tokens)
        stalled.add_metric([name], state.stalled_s)
    yield from (up, outstanding, tokens, stalled)


def _reloads(reload: Reload) -> Iterator[Metric]:
    taken = _gauge("models_file_taken_timestamp_seconds", "When models.yaml came into force")
    taken.add_metric([], reload.taken_at)
    refused = _gauge("models_file_refused", "1 while models.yaml as it stands is refused")
    refused.add_metric([], float(reload.refused is not None))
    yield from (taken, refused)
