"""The gateway's metrics for Prometheus; label values come from the configuration only.

prometheus-client takes a lock and looks a series up for each addition. Requests are therefore
counted in plain counters, and the library's families are made at each scrape.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

from gateway_lite.telemetry.counters import Counters
from hpc.model import Phase
from hpc.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from gateway_lite.catalog.models import Model
    from gateway_lite.routing.replica_state import ReplicaSnapshot
    from gateway_lite.telemetry.counters import ModelCounters
    from gateway_lite.telemetry.request_record import RequestRecord
    from gateway_lite.wire.token_usage import Usage
    from hpc.model import Reload

PREFIX = "hpc_serve_gateway"
FAILED = 400
OTHER = "other"
"""Label value for every model that no service has."""
KEPT = ("", OTHER)
BREAKER = ("closed", "half-open", "open")
TIMES = {
    "time_to_first_byte": "Seconds from a request's arrival to the first byte of a good answer",
    "request_duration": "Seconds from a request's arrival to the last byte of its answer",
    "queue_wait": "Seconds that a request waited for a slot at a replica",
    "inter_token": "Mean seconds between two pieces of a streamed answer",
    "overhead": "Seconds in the gateway before the request went to a replica, without the queue",
}


@dataclass(frozen=True, slots=True)
class LiveSnapshot:
    """The values that are measured at a scrape.

    Attributes:
        models: models of the catalog, by name.
        in_flight: requests in progress, by model.
        lost: lines that the access log dropped.
        waiting: requests in the queue, by model.
        replicas: the balancer's state of each replica, by the replica's key.
        file: reload state of models.yaml, or None.
    """

    models: Mapping[str, Model]
    in_flight: Mapping[str, int]
    lost: int
    waiting: Mapping[str, int] = field(default_factory=dict)
    replicas: Mapping[str, ReplicaSnapshot] = field(default_factory=dict)
    file: ModelsFileStatus | None = None


class ModelsFileStatus(Protocol):
    """The reload state of models.yaml."""

    outcome: Reload
    taken: int
    refused: int


class Metrics:
    """The counters, and the values measured at a scrape."""

    def __init__(self) -> None:
        self.counters = Counters()
        self._live: Callable[[], LiveSnapshot] | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def observe(self, record: RequestRecord, model: str, used: Usage | None, took_s: float) -> None:
        """Count one ended request.

        Args:
            record: the request.
            model: name of a known model, or another word of a bounded set; empty without a model.
            used: tokens, if known.
            took_s: seconds from its first byte to the last byte of its answer.
        """
        status = record.status
        if status >= FAILED:
            self.counters.error(model, record.error or "engine")
        if record.limited:
            self.counters.limit(record.key, record.limited)
        counters = self.counters
        # The known combination is the common case, and is found without the call of ``of``.
        tally = counters.keys.get((model, record.key, status // 100))
        if tally is None:
            tally = counters.of(model, record.key, status // 100)
        tally.requests += 1
        if used is not None:
            tally.prompt += used.prompt
            tally.completion += used.completion
        if model:
            _time(tally.model, record, took_s)

    def watch(self, live: Callable[[], LiveSnapshot]) -> None:
        """Set the function that measures at each scrape."""
        self._live = live

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Return no family, so that registration does not measure."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the library's metric families."""
        now = None if self._live is None else self._live()
        if now is not None:
            self.counters.keep({*now.models, *KEPT})
        info = {"version": __version__}
        yield InfoMetricFamily(f"{PREFIX}_build", "Version of the gateway", value=info)
        yield from _counted(self.counters)
        if now is not None:
            yield from _measured(now)


def _time(times: ModelCounters, record: RequestRecord, took_s: float) -> None:
    times.duration.add(took_s)
    if record.queue_s:
        times.queue.add(record.queue_s)
    else:
        # Nearly all requests wait for 0 s: the first bucket, without a search.
        times.queue.counts[0] += 1
    attempts, first_at = record.attempts, record.first_at
    if attempts:
        times.overhead.add(record.overhead_s)
        times.retries += attempts - 1
    if first_at is not None and record.status < FAILED:
        ttft_s = first_at - record.began
        times.ttft.add(ttft_s)
        if record.reads > 1:
            times.between.add((took_s - ttft_s) / (record.reads - 1))
    if record.cache == "hit":
        times.hits += 1
    elif record.cache:
        times.misses += 1


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"{PREFIX}_{name}", text, labels=labels)


def _counted(counters: Counters) -> Iterator[Metric]:
    yield from _requests(counters)
    retries = _counter("retries", "Further attempts of a request at a replica", "model")
    errors = _counter("errors", "Requests with a status of 400 or above", "model", "kind")
    limited = _counter("limited", "Requests refused by a limit of their key", "key", "kind")
    cached = _counter("cache", "Requests with a cacheable answer, by result", "model", "result")
    for pair, count in counters.errors.copy().items():
        errors.add_metric(pair, count)
    for pair, count in counters.limited.copy().items():
        limited.add_metric(pair, count)
    models = {name: tally for name, tally in counters.models.copy().items() if name}
    for name, times in models.items():
        retries.add_metric([name], times.retries)
        cached.add_metric([name, "hit"], times.hits)
        cached.add_metric([name, "miss"], times.misses)
    yield from (retries, errors, limited, cached)
    for kind, text in TIMES.items():
        family = HistogramMetricFamily(f"{PREFIX}_{kind}_seconds", text, labels=["model"])
        for name, times in models.items():
            histogram = times.histograms()[kind]
            family.add_metric([name], histogram.buckets(), histogram.total)
        yield family


def _requests(counters: Counters) -> Iterator[Metric]:
    requests = _counter("requests", "Ended requests by class of status", "model", "key", "status")
    tokens = _counter("tokens", "Tokens reported by the engines", "model", "key", "kind")
    used: dict[tuple[str, str, str], int] = {}
    for (model, key, status), tally in counters.keys.copy().items():
        requests.add_metric([model, key, f"{status}xx"], tally.requests)
        for kind, count in (("prompt", tally.prompt), ("completion", tally.completion)):
            used[model, key, kind] = used.get((model, key, kind), 0) + count
    for at, count in used.items():
        if count:
            tokens.add_metric(at, count)
    yield from (requests, tokens)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)


def _measured(now: LiveSnapshot) -> Iterator[Metric]:
    flight = _gauge("in_flight", "Requests in progress, waiting ones included", "model")
    for name, count in now.in_flight.items():
        flight.add_metric([name], count)
    queued = _gauge("queued", "Requests that wait for a slot at a replica", "model")
    replicas = _gauge("replicas", "Requested replicas by phase", "model", "phase")
    stale = _gauge("heartbeats_stale", "Replicas with a stopped heartbeat", "model")
    for model in now.models.values():
        queued.add_metric([model.name], now.waiting.get(model.name, 0))
        if model.base is not None:  # its replicas count once, for the base
            continue
        stale.add_metric([model.name], model.stale)
        for phase in Phase:
            replicas.add_metric([model.name, phase.value], model.phases.count(phase))
    text = "Lines that the access log dropped"
    lost = CounterMetricFamily(f"{PREFIX}_access_log_lost", text, value=now.lost)
    yield from (flight, queued, replicas, stale, lost)
    yield from _upstreams(now)
    if now.file is not None:
        yield from _reloads(now.file)


def _upstreams(now: LiveSnapshot) -> Iterator[Metric]:
    names = ("model", "replica")
    up = _gauge("replica_up", "1 if the replica gets requests, 0 while failing or stalled", *names)
    breaker = _gauge("replica_breaker", "1 for the circuit breaker's state", *names, "state")
    outstanding = _gauge("replica_outstanding", "Requests in progress at a replica", *names)
    text = "Estimated tokens of the requests in progress at a replica"
    tokens = _gauge("replica_outstanding_tokens", text, *names)
    text = "Seconds without progress at a replica with requests"
    stalled = _gauge("replica_stalled_seconds", text, *names)
    for at, state in _by_name(now).items():
        up.add_metric(at, float(state.breaker != "open" and not state.stalled))
        for word in BREAKER:
            breaker.add_metric([*at, word], float(state.breaker == word))
        outstanding.add_metric(at, state.outstanding)
        tokens.add_metric(at, state.tokens)
        stalled.add_metric(at, state.stalled_s)
    yield from (up, breaker, outstanding, tokens, stalled)


def _by_name(now: LiveSnapshot) -> dict[tuple[str, str], ReplicaSnapshot]:
    """Return the states of replicas by model and name; of equal names the last."""
    return {
        (model.name, replica.name): now.replicas[replica.key]
        for model in now.models.values()
        for replica in model.replicas
        if model.base is None and replica.key in now.replicas
    }


def _reloads(file: ModelsFileStatus) -> Iterator[Metric]:
    outcome = file.outcome
    text = "Unix time at which models.yaml came into force"
    taken = _gauge("models_file_taken_timestamp_seconds", text)
    taken.add_metric([], outcome.taken_at)
    refused = _gauge("models_file_refused", "1 while the present models.yaml is refused")
    refused.add_metric([], float(outcome.refused is not None))
    text = "Unix time at which the present models.yaml was refused, or 0"
    since = _gauge("models_file_refused_timestamp_seconds", text)
    since.add_metric([], outcome.refused_at or 0.0)
    reloads = _counter("reloads", "Reads of a changed models.yaml, by result", "result")
    reloads.add_metric(["taken"], file.taken)
    reloads.add_metric(["refused"], file.refused)
    yield from (taken, refused, since, reloads)
