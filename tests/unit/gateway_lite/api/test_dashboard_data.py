"""What the dashboard shows, and to whom."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from gateway_lite.api.dashboard import policy
from gateway_lite.api.dashboard_data import DashboardView, Share, in_force, share, together, visible
from gateway_lite.catalog.models import Model, ReplicaStatus, identity, replica_status
from gateway_lite.catalog.replica import Replica
from gateway_lite.routing.replica_state import ReplicaSnapshot
from gateway_lite.telemetry.counters import SECONDS
from gateway_lite.telemetry.history import STEP_S, STEPS, Step, WindowCounts
from gateway_lite.telemetry.metrics import LiveSnapshot
from hpc.keys.limits import KeyLimits
from hpc.keys.store import ClientKey
from hpc.keys.usage import Use
from hpc.model import Endpoint, Phase, ServiceSpec

NOW = 1_000_005.0
NUMBER = int(NOW // STEP_S)
MADE = datetime(2026, 1, 1, tzinfo=timezone.utc)
SPEC = ServiceSpec(name="m", engine="vllm", server="vllm", model="/m", replicas=3)


def endpoint(number: int, phase: Phase = Phase.READY, beat_at: float = NOW) -> Endpoint:
    return Endpoint("m", number, "m", "node", 4000, phase, "17", NOW + 60, beat_at, slots=4)


def model(*endpoints: Endpoint, replicas: tuple[Replica, ...] = ()) -> Model:
    said = {one.replica: one for one in endpoints}
    members = tuple(
        replica_status(number, said.get(number), None, None, NOW) for number in range(3)
    )
    return Model("m", Phase.READY, 3, replicas, members, SPEC, endpoints)


def times(*values: float) -> list[int]:
    held = [0] * (len(SECONDS) + 1)
    for value in values:
        held[SECONDS.index(value)] += 1
    return held


def overview(known: Share, *models: Model, age_s: float = 3600) -> DashboardView:
    named = {one.name: one for one in models}
    return DashboardView(known, named, now=NOW, started_at=NOW - age_s)


def key(**more: Any) -> ClientKey:
    given = {"id": "0" * 8, "name": "alice", "sha256": "0" * 64, "created": MADE}
    return ClientKey(**{**given, **more})


def test_a_replica_that_said_nothing_yet_is_queued() -> None:
    first = endpoint(0)
    known = Share(outstanding={identity(first): 2}, resting={identity(first): "open"})
    (told,) = overview(known, model(first, endpoint(2, Phase.FAILED))).models()
    about = [(one["name"], one["phase"], one["health"], one["job_id"]) for one in told["replicas"]]

    assert about == [
        ("m/0", "READY", "open", "17"),
        ("m/1", "QUEUED", "", None),
        ("m/2", "FAILED", "", "17"),
    ]
    assert told["replicas"][0]["outstanding"] == 2
    assert told["replicas"][0]["ends_at"] == NOW + 60


def test_a_heartbeat_that_stopped_is_told() -> None:
    (told,) = overview(Share(), model(endpoint(0, beat_at=0))).models()

    assert told["replicas"][0]["stale"]
    assert told["replicas"][0]["phase"] == "STOPPED"


def test_what_the_scheduler_says_of_a_job_is_told() -> None:
    waits = ReplicaStatus(0, Phase.QUEUED, "18", start_at=NOW + 600, reason="Resources")
    (told,) = overview(Share(), Model("m", Phase.QUEUED, 1, (), (waits,), SPEC)).models()

    assert [
        (one["job_id"], one["starts_at"], one["reason"], one["host"]) for one in told["replicas"]
    ] == [("18", NOW + 600, "Resources", None)]


def test_a_job_that_was_requeued_is_not_where_it_was() -> None:
    again = ReplicaStatus(0, Phase.QUEUED, "18")
    gone = endpoint(0)
    (told,) = overview(Share(), Model("m", Phase.QUEUED, 1, (), (again,), SPEC, (gone,))).models()

    assert (told["replicas"][0]["host"], told["replicas"][0]["slots"]) == (None, None)


def test_a_server_that_somebody_else_runs_is_shown_without_a_job() -> None:
    replica = Replica("b http://h:1", "b", "http://h:1")
    down = Replica("b http://h:2", "b", "http://h:2")
    phases = (Phase.READY, Phase.FAILED)
    served = Model("b", Phase.READY, 2, (replica,), static=(replica, down), server_phases=phases)
    (told,) = overview(Share(), served).models()

    assert told["ready"] == 1
    assert [(one["phase"], one["health"], one["job_id"]) for one in told["replicas"]] == [
        ("READY", "ok", None),
        ("FAILED", "", None),
    ]


def test_windows_count_what_is_in_them() -> None:
    steps = {
        NUMBER: Step({"m": WindowCounts(6, 0, 0, 60, 30, times(0.1), times(1.0))}),
        NUMBER - 5: Step({"m": WindowCounts(0, 3, 2, 0, 0, times(0.5), times(0.5))}),
        NUMBER - 6: Step({"m": WindowCounts(100)}),
        NUMBER - 29: Step({"m": WindowCounts(1000), "other": WindowCounts(7)}),
    }
    found = overview(Share(steps), model()).windows(["m"])

    assert {name: one["requests"] for name, one in found.items()} == {
        "1": 11,
        "5": 1111,
        "15": 1111,
    }
    assert found["1"]["seconds"] == 55
    assert found["1"]["requests_s"] == pytest.approx(11 / 55)
    assert found["1"]["failed_s"] == pytest.approx(2 / 55, abs=1e-4)
    assert found["1"]["completion_s"] == pytest.approx(30 / 55, abs=0.01)
    assert 0.05 < found["1"]["ttft_p50"] <= 0.1
    assert 0.25 < found["1"]["ttft_p99"] <= 0.5


def test_a_young_gateway_divides_by_its_age() -> None:
    found = overview(Share({NUMBER: Step({"m": WindowCounts(8)})}), age_s=4).windows(["m"])

    assert found["15"]["requests_s"] == 2


def test_a_chart_has_no_values_before_the_start() -> None:
    steps = {
        NUMBER - 2: Step({"m": WindowCounts(5, ttft=times(0.1))}),
        NUMBER: Step({"m": WindowCounts(9)}),
    }
    chart = overview(Share(steps), age_s=35).chart(["m"])

    assert len(chart["requests_s"]) == len(chart["ttft_p50"]) == STEPS - 1
    assert chart["requests_s"][-5:] == [None, None, 0, 0.5, 0]
    assert chart["ttft_p50"][-3:] == [None, pytest.approx(0.075), None]
    assert chart["ends_at"] == NUMBER * STEP_S


def test_a_key_is_held_against_its_limits() -> None:
    limits = KeyLimits(rpm=10, daily_tokens=1000)
    steps = {NUMBER: Step({}, {"alice": (3, 40)}), NUMBER - 9: Step({}, {"alice": (50, 50)})}
    today = int(NOW // 86400)
    one, other = overview(Share(steps)).keys(
        [key(limits=limits), key(id="1" * 8, name="bob", models=("m",))],
        {"0" * 8: Use(today, 400, 7, 9000, 80), "1" * 8: Use(today - 1, 5, 5, 5, 5)},
    )

    assert one["limits"] == {"rpm": 10, "daily_tokens": 1000}
    assert one["minute"] == {"requests": 3, "tokens": 40}
    assert one["day"] == {"requests": 7, "tokens": 400}
    assert one["total"] == {"requests": 80, "tokens": 9000}
    assert other["day"] == {"requests": 0, "tokens": 0}
    assert other["models"] == ["m"]


@pytest.mark.parametrize(
    ("name", "models", "all_of_it"),
    [("owner", "all", True), ("owner", ("m",), False), ("alice", "all", False)],
)
def test_only_the_owners_key_shows_what_others_use(
    name: str, models: Any, *, all_of_it: bool
) -> None:
    assert key(name=name, models=models).sees_all() is all_of_it


def test_a_key_shows_its_own_models() -> None:
    models = {name: Model(name, Phase.READY, 1, ()) for name in ("m", "secret")}

    assert list(visible(models, key(models=("m",)))) == ["m"]


def test_keys_that_ended_are_not_shown() -> None:
    ended = [key(revoked=MADE), key(expires=MADE), key()]

    assert in_force(ended, MADE.timestamp() + 1) == [ended[2]]


def test_what_workers_know_is_added() -> None:
    replica = Replica("k", "m/0", "http://h:1")
    one = share(
        {},
        LiveSnapshot(
            {}, {"m": 1}, 0, {"m": 2}, {replica.key: ReplicaSnapshot(3, 9, "closed", 0.0)}
        ),
    )
    two = share(
        {},
        LiveSnapshot({}, {"m": 4}, 0, {"m": 1}, {replica.key: ReplicaSnapshot(1, 9, "open", 0.0)}),
    )
    both = together([one, two])

    assert (both.in_flight, both.waiting, both.outstanding) == ({"m": 5}, {"m": 3}, {"k": 4})
    assert both.resting == {"k": "open"}


def test_a_policy_names_every_script_and_style_by_its_hash() -> None:
    """The hash of nothing is well known."""
    nothing = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    found = policy("<style></style><script></script><script>1</script>")

    assert f"style-src '{nothing}';" in found
    assert found.count("sha256-") == 3
    assert "unsafe" not in found
