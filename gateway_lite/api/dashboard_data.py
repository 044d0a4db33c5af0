"""The dashboard's data as plain JSON: models, replicas, rates, times, keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gateway_lite.catalog.models import ReplicaStatus, identity
from gateway_lite.telemetry.history import STEP_S, STEPS, Step, joined, quantile, window_counts
from hpc.model import Phase

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from gateway_lite.catalog.models import Model
    from gateway_lite.routing.replica_state import ReplicaSnapshot
    from gateway_lite.telemetry.history import WindowCounts
    from gateway_lite.telemetry.metrics import LiveSnapshot
    from hpc.keys.store import ClientKey
    from hpc.keys.usage import Use
    from hpc.model import Endpoint

    Json = dict[str, Any]

MINUTES = (1, 5, 15)
SHARES = (0.5, 0.95, 0.99)
MINUTE_S = 60
DAY_S = 86400


class Share(msgspec.Struct):
    """The data of one of several workers.

    Attributes:
        steps: recent counts, by number of the step.
        in_flight: requests in progress, by model.
        waiting: requests in the queue, by model.
        outstanding: requests at replicas, by the replica's key.
        resting: reason of the pause by key, for replicas that get no requests for a while.
    """

    steps: dict[int, Step] = {}
    in_flight: dict[str, int] = {}
    waiting: dict[str, int] = {}
    outstanding: dict[str, int] = {}
    resting: dict[str, str] = {}


def share(steps: dict[int, Step], live: LiveSnapshot) -> Share:
    """Return the data of this process."""
    return Share(
        steps,
        dict(live.in_flight),
        dict(live.waiting),
        {key: seen.outstanding for key, seen in live.replicas.items()},
        {key: _rest(seen) for key, seen in live.replicas.items() if _rest(seen)},
    )


def together(shares: Sequence[Share]) -> Share:
    """Return the data of all workers, added up."""
    found = Share(joined(one.steps for one in shares))
    for one in shares:
        for mine, other in (
            (found.in_flight, one.in_flight),
            (found.waiting, one.waiting),
            (found.outstanding, one.outstanding),
        ):
            for name, count in other.items():
                mine[name] = mine.get(name, 0) + count
        found.resting.update(one.resting)
    return found


def _rest(seen: ReplicaSnapshot) -> str:
    """Return the reason why a replica gets no requests; empty for a replica that does."""
    if seen.stalled:
        return "stalled"
    return "" if seen.breaker == "closed" else seen.breaker


class DashboardView:
    """One snapshot of a gateway.

    Args:
        known: data of all workers.
        models: the models to show.
        now: Unix time.
        started_at: Unix time of the start of counting.
    """

    def __init__(
        self, known: Share, models: Mapping[str, Model], *, now: float, started_at: float
    ) -> None:
        self._known = known
        self._models = models
        self._now = now
        self._started_at = started_at
        self._number = int(now // STEP_S)

    def models(self) -> list[Json]:
        """Return all models with their replicas."""
        return [self._model(model) for model in self._models.values()]

    def _model(self, model: Model) -> Json:
        return {
            "name": model.name,
            "phase": model.phase.value,
            "asked": model.asked,
            "ready": model.ready,
            "in_flight": self._known.in_flight.get(model.name, 0),
            "waiting": self._known.waiting.get(model.name, 0),
            "engine": model.engine,
            "revision": model.revision,
            "windows": self.windows([model.name]),
            "replicas": self._replicas(model),
        }

    def _replicas(self, model: Model) -> list[Json]:
        told = {endpoint.replica: endpoint for endpoint in model.endpoints}
        servers = zip(model.static, model.server_phases, strict=True)
        return [
            *(self._replica(one.name, one.key, ReplicaStatus(0, phase)) for one, phase in servers),
            *(self._member(model.name, one, told.get(one.number)) for one in model.members),
        ]

    def _member(self, name: str, member: ReplicaStatus, endpoint: Endpoint | None) -> Json:
        key = "" if endpoint is None else identity(endpoint)
        told = self._replica(f"{name}/{member.number}", key, member)
        if endpoint is not None and endpoint.job_id == member.job_id:
            told |= {"host": endpoint.host or None, "slots": endpoint.slots}
            told["reason"] = member.reason or endpoint.cause
        return told

    def _replica(self, name: str, key: str, member: ReplicaStatus) -> Json:
        ready = member.phase is Phase.READY
        return {
            "name": name,
            "phase": member.phase.value,
            "health": self._known.resting.get(key, "ok") if ready else "",
            "outstanding": self._known.outstanding.get(key, 0),
            "stale": member.stale,
            "job_id": member.job_id,
            "starts_at": member.start_at,
            "ends_at": member.ends_at,
            "reason": member.reason,
            "host": None,
            "slots": None,
        }

    def windows(self, names: Iterable[str]) -> Json:
        """Return rates and times of some models over 1, 5 and 15 minutes."""
        names = tuple(names)
        return {str(minutes): self._window(names, minutes) for minutes in MINUTES}

    def _window(self, names: Iterable[str], minutes: int) -> Json:
        steps = minutes * MINUTE_S // STEP_S
        first = self._number - steps + 1
        seconds = max(1.0, self._now - max(first * STEP_S, self._started_at))
        found = window_counts(self._known.steps, first, names)
        return {"seconds": round(seconds, 1), **_rates(found, seconds), **_times(found)}

    def chart(self, names: Iterable[str]) -> Json:
        """Return rates and times of each ended step, the oldest first.

        Values before the gateway's start are None.
        """
        names = tuple(names)
        # The present step is left out: its rate would be too low until its end.
        numbers = range(self._number - STEPS + 1, self._number)
        since = min([int(self._started_at // STEP_S), *self._known.steps])
        told = [self._point(at, names) if at >= since else {} for at in numbers]
        series = {name: [one.get(name) for one in told] for name in self._point(0, names)}
        return {"step_s": STEP_S, "ends_at": self._number * STEP_S, **series}

    def _point(self, at: int, names: Iterable[str]) -> Json:
        found = window_counts({at: self._known.steps.get(at, Step())}, at, names)
        return {**_rates(found, STEP_S), **_times(found)}

    def keys(self, keys: Iterable[ClientKey], use: Mapping[str, Use]) -> list[Json]:
        """Return the usage of keys, against their limits."""
        return [self._key(key, use.get(key.id)) for key in keys]

    def _key(self, key: ClientKey, use: Use | None) -> Json:
        first = self._number - MINUTE_S // STEP_S + 1
        recent = [
            step.keys[key.name]
            for number, step in self._known.steps.items()
            if number >= first and key.name in step.keys
        ]
        day_tokens = day_requests = 0
        if use is not None:
            day_tokens, day_requests = use.today(int(self._now // DAY_S))
        return {
            "name": key.name,
            "models": None if isinstance(key.models, str) else list(key.models),
            "expires": None if key.expires is None else key.expires.timestamp(),
            "limits": {} if key.limits is None else key.limits.given(),
            "minute": {"requests": sum(r for r, _ in recent), "tokens": sum(t for _, t in recent)},
            "day": {"requests": day_requests, "tokens": day_tokens},
            "total": {
                "requests": 0 if use is None else use.requests,
                "tokens": 0 if use is None else use.tokens,
            },
        }


def _rates(found: WindowCounts, seconds: float) -> Json:
    return {
        "requests": found.requests,
        "requests_s": round(found.requests / seconds, 4),
        "refused_s": round(found.refused / seconds, 4),
        "failed_s": round(found.failed / seconds, 4),
        "prompt_s": round(found.prompt / seconds, 2),
        "completion_s": round(found.completion / seconds, 2),
    }


def _times(found: WindowCounts) -> Json:
    """Return percentiles of the times, in seconds; None without a request."""
    return {
        f"{name}_p{round(share * 100)}": _rounded(quantile(counts, share))
        for name, counts in (("ttft", found.ttft), ("duration", found.duration))
        for share in SHARES
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 5)


def visible(models: Mapping[str, Model], key: ClientKey) -> dict[str, Model]:
    """Return the models that a key may use."""
    return {name: model for name, model in models.items() if key.allows(name)}


def in_force(keys: Iterable[ClientKey], now: float) -> list[ClientKey]:
    """Return the keys in force: neither revoked nor expired."""
    return [
        key
        for key in keys
        if key.revoked is None and (key.expires is None or key.expires.timestamp() > now)
    ]


def counted(models: Collection[str], *, everything: bool) -> tuple[str, ...]:
    """Return the model names in the counters that a key may see."""
    return (*models, "other", "") if everything else tuple(models)
