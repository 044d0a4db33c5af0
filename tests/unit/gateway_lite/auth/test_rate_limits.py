"""Limits of keys: exact, and told as OpenAI tells them."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway_lite.auth.rate_limits import SAVE_S, Limits, duration
from gateway_lite.auth.usage_counters import CELLS
from gateway_lite.auth.usage_store import KEYS, Private, Shared, UsageStore
from gateway_lite.errors import ApiError
from gateway_lite.shared_memory import WORKERS, make
from hpc.errors import GatewayError, StateError
from hpc.keys import usage as key_usage
from hpc.keys.limits import KeyLimits
from hpc.keys.store import ClientKey
from hpc.keys.usage import DAY_S, Use
from tests.unit.gateway_lite.auth.model_of_limits import Noted, Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway_lite.auth.usage_counters import Reservation, Unlimited
    from gateway_lite.auth.usage_store import WindowStore

DAY = 20777
NOON = (DAY + 0.5) * DAY_S


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def key(name: str = "00000001", **limits: int) -> ClientKey:
    return ClientKey(
        id=name,
        name="ada",
        sha256="0" * 64,
        limits=KeyLimits(**limits) if limits else None,
        created=datetime.now(timezone.utc),
    )


def shared(stack: ExitStack, keys: int = KEYS) -> Callable[[int], WindowStore]:
    handle, path = tempfile.mkstemp()
    stack.callback(Path(path).unlink)
    make(handle, keys * CELLS)
    os.close(handle)

    def opened(worker: int) -> WindowStore:
        store = Shared(path, worker)
        stack.callback(store.close)
        return store

    return opened


@pytest.fixture(params=["private", "shared"])
def store(request: pytest.FixtureRequest) -> Iterator[WindowStore]:
    with ExitStack() as stack:
        yield Private() if request.param == "private" else shared(stack)(3)


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.5)


@pytest.fixture
def wall() -> Clock:
    return Clock(NOON)


@pytest.fixture
def limits(store: WindowStore, clock: Clock, wall: Clock) -> Limits:
    return Limits(UsageStore(store, clock=clock, wall=wall))


def told(error: ApiError) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in error.headers}


def refused(limits: Limits, who: ClientKey, tokens: int = 1) -> ApiError:
    with pytest.raises(ApiError) as caught:
        limits.reserve(who, tokens)
    assert caught.value.status == 429
    return caught.value


class Against(RuleBasedStateMachine):
    """An account and its slow twin always say the same."""

    def ledger(self) -> UsageStore:
        return UsageStore(Private(), clock=self.clock, wall=self.wall)

    @initialize(
        given=st.fixed_dictionaries(
            {},
            optional={
                "rpm": st.integers(1, 6),
                "tpm": st.integers(1, 300),
                "concurrency": st.integers(1, 4),
                "daily_tokens": st.integers(1, 900),
                "total_tokens": st.integers(1, 3000),
            },
        ),
        start=st.floats(0, 200),
    )
    def begin(self, given: dict[str, int], start: float) -> None:
        self.clock, self.wall = Clock(start), Clock(NOON)
        self.given = given or {"rpm": 3}
        self.key = key("00000001", **self.given)
        self.limits = Limits(self.ledger())
        self.reference = Reference()
        self.grants: list[tuple[Reservation | Unlimited, Noted]] = []
        self.admitted: list[float] = []

    @rule(tokens=st.integers(0, 150))
    def reserve(self, tokens: int) -> None:
        note = self.reference.reserve(self.given, tokens, self.clock.now, self.wall.now)
        try:
            reservation = self.limits.reserve(self.key, tokens)
        except ApiError:
            assert note is None
        else:
            assert note is not None
            self.grants.append((reservation, note))
            self.admitted.append(self.clock.now)

    @rule(data=st.data(), used=st.none() | st.integers(0, 200))
    def settle(self, data: st.DataObject, used: int | None) -> None:
        if self.grants:
            reservation, note = data.draw(st.sampled_from(self.grants))
            reservation.settle(used)
            self.reference.settle(note, used or 0, self.clock.now, self.wall.now)

    @rule(seconds=st.floats(0, 3) | st.floats(50, 70) | st.floats(100, 50_000))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.wall.now += seconds

    @rule(seconds=st.floats(-90_000, 90_000))
    def set_the_clock(self, seconds: float) -> None:
        self.wall.now += seconds

    @invariant()
    def never_more_than_allowed_in_any_minute(self) -> None:
        most = getattr(self, "given", {}).get("rpm")
        if most is not None:
            for begin in self.admitted[-most - 1 :]:
                inside = [at for at in self.admitted if begin <= at < begin + 60]
                assert len(inside) <= most

    @invariant()
    def sums_are_equal(self) -> None:
        used = self.limits.use().get("00000001", Use()) if hasattr(self, "limits") else None
        if used is not None:
            assert used.tokens == self.reference.in_all
            assert used.requests == len(self.reference.notes)


class AgainstShared(Against):
    """The same in memory that processes could share."""

    def ledger(self) -> UsageStore:
        self.stack = ExitStack()
        return UsageStore(shared(self.stack)(1), clock=self.clock, wall=self.wall)

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.stack.close()


Against.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
AgainstShared.TestCase.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
TestPrivate = Against.TestCase
TestShared = AgainstShared.TestCase


def test_requests_of_a_minute(limits: Limits, clock: Clock) -> None:
    who = key(rpm=2)
    first = limits.reserve(who, 10)
    first.settle(None)
    clock.now += 30
    second = limits.reserve(who, 10)
    error = refused(limits, who)

    assert first.headers == (
        b"x-ratelimit-limit-requests: 2\r\n"
        b"x-ratelimit-remaining-requests: 1\r\n"
        b"x-ratelimit-reset-requests: 1m1s\r\n"
    )
    assert b"remaining-requests: 0\r\n" in second.headers
    assert (error.code, error.kind) == ("rate_limit_exceeded", "requests")
    assert told(error) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0.5s",
        "retry-after": "31",
        "retry-after-ms": "30500",
    }
    assert "limit of 2 requests per minute is reached: 2 used, 1 asked for" in error.message
    clock.now += 30.4
    refused(limits, who)
    clock.now += 0.1
    limits.reserve(who, 10)


def test_tokens_of_a_minute_are_given_back_and_charged_later(limits: Limits, clock: Clock) -> None:
    who = key(tpm=1000)
    little, much = limits.reserve(who, 600), limits.reserve(who, 300)
    assert refused(limits, who, 200).kind == "tokens"

    little.settle(100)
    little.settle(0)
    assert limits.reserve(who, 600).headers.splitlines()[1] == b"x-ratelimit-remaining-tokens: 0"
    clock.now += 40
    much.settle(800)
    error = refused(limits, who, 100)
    assert told(error)["x-ratelimit-remaining-tokens"] == "0"
    assert told(error)["retry-after-ms"] == "20500"
    clock.now += 20.5
    assert b"remaining-tokens: 400" in limits.reserve(who, 100).headers


def test_a_request_that_can_never_pass_is_not_told_to_come_back(limits: Limits) -> None:
    error = refused(limits, key(tpm=100, rpm=5), 101)

    assert "alone is too large" in error.message
    assert told(error)["x-should-retry"] == "false"
    assert "retry-after" not in told(error)


def test_requests_at_once(limits: Limits) -> None:
    who = key(concurrency=2)
    first, _ = limits.reserve(who, 1), limits.reserve(who, 1)
    assert first.headers == b""
    assert told(refused(limits, who)) == {"retry-after": "1", "retry-after-ms": "1000"}
    first.settle(None)
    first.settle(None)
    limits.reserve(who, 1)
    refused(limits, who)


def test_a_refused_request_costs_nothing(limits: Limits) -> None:
    who = key(rpm=5, tpm=100, concurrency=1)
    reservation = limits.reserve(who, 50)
    for _ in range(10):
        refused(limits, who, 10)
    reservation.settle(50)

    assert b"remaining-requests: 3\r\n" in limits.reserve(who, 50).headers


def test_a_budget_per_day_ends_at_midnight_utc(limits: Limits, wall: Clock) -> None:
    who = key(daily_tokens=1000)
    limits.reserve(who, 1000).settle(900)
    error = refused(limits, who, 101)

    assert (error.code, error.kind) == ("insufficient_quota", "insufficient_quota")
    assert told(error)["retry-after"] == str(DAY_S // 2)
    assert told(error)["x-should-retry"] == "false"
    late = limits.reserve(who, 100)
    wall.now += DAY_S / 2
    limits.reserve(who, 900)
    late.settle(200)
    assert limits.use()["00000001"] == Use(DAY + 1, 1000, 1, 2000, 3)
    refused(limits, who)


def test_a_clock_set_back_does_not_begin_a_day_again(limits: Limits, wall: Clock) -> None:
    who = key(daily_tokens=100)
    limits.reserve(who, 100)
    wall.now -= DAY_S
    refused(limits, who)
    wall.now += DAY_S
    refused(limits, who)


def test_a_budget_in_all_never_comes_back(limits: Limits, wall: Clock) -> None:
    who = key(total_tokens=100, daily_tokens=100)
    limits.reserve(who, 100)
    wall.now += 3 * DAY_S
    error = refused(limits, who)

    assert error.code == "insufficient_quota"
    assert "100 tokens in all" in error.message
    assert "retry-after" not in told(error)


def test_a_changed_limit_counts_at_once_and_forgets_nothing(limits: Limits) -> None:
    limits.reserve(key(rpm=1), 1)
    refused(limits, key(rpm=1))
    limits.reserve(key(rpm=2), 1)
    refused(limits, key(rpm=2))


def test_keys_do_not_count_against_each_other(limits: Limits) -> None:
    limits.reserve(key("00000000", rpm=1), 1)
    limits.reserve(key("ffffffff", rpm=1), 1)
    refused(limits, key("00000000", rpm=1))


def test_keys_without_limits_are_counted_and_never_refused(limits: Limits) -> None:
    grants = [limits.reserve(key(), 10**9) for _ in range(100)]
    for reservation in grants:
        reservation.settle(7)
        reservation.settle(7)
        assert reservation.headers == b""
    limits.reserve(None, 5).settle(5)

    assert limits.use() == {"00000001": Use(DAY, 700, 100, 700, 100)}
    assert limits.use()["00000001"].tokens == 700


def test_what_a_client_writes_cannot_break_the_count(limits: Limits) -> None:
    who = key(rpm=3)
    limits.reserve(who, 10**40).settle(10**40)
    limits.reserve(who, 10**40).settle(None)

    assert limits.use()["00000001"].requests == 2


def test_what_was_used_survives_a_restart(
    tmp_path: Path, store: WindowStore, clock: Clock, wall: Clock
) -> None:
    who = key(total_tokens=1000, daily_tokens=1000)
    before = Limits(UsageStore(clock=clock, wall=wall), root=tmp_path, hostname="login1")
    before.begin()
    before.reserve(who, 300).settle(250)
    before.reserve(key("00000002"), 1).settle(40)
    before.reserve(who, 200)
    before.close()
    path = key_usage.path(tmp_path, "login1")
    after = Limits(UsageStore(store, clock=clock, wall=wall), root=tmp_path, hostname="login1")
    after.begin()

    assert path.stat().st_mode & 0o777 == 0o600
    assert after.use() == key_usage.load(path)
    assert after.use()["00000002"].tokens == 40
    assert "450 used, 551 asked for" in refused(after, who, 551).message
    after.reserve(who, 550)


def test_a_crash_loses_what_was_not_yet_written_and_no_more(
    tmp_path: Path, clock: Clock, wall: Clock
) -> None:
    who = key(total_tokens=1000)
    limits = Limits(UsageStore(clock=clock, wall=wall), root=tmp_path, hostname="login1")
    limits.reserve(who, 100)
    limits.tick(10.0)
    limits.sync()
    limits.reserve(who, 200)
    limits.tick(10.0 + SAVE_S - 0.1)
    limits.sync()
    assert key_usage.load_all(tmp_path)["00000001"].tokens == 100

    limits.tick(10.0 + SAVE_S)
    limits.sync()
    assert key_usage.load_all(tmp_path)["00000001"].tokens == 300


def test_budgets_cover_what_other_machines_gateways_counted(
    tmp_path: Path, store: WindowStore, clock: Clock, wall: Clock
) -> None:
    day, total = key("0000000d", daily_tokens=1000), key("0000000e", total_tokens=1000)
    key_usage.save(
        key_usage.path(tmp_path, "login2"),
        {"0000000d": Use(DAY, 900, 1, 900, 1), "0000000e": Use(DAY - 1, 900, 1, 900, 1)},
    )
    limits = Limits(UsageStore(store, clock=clock, wall=wall), root=tmp_path, hostname="login1")
    limits.begin()

    refused(limits, day, 101)
    refused(limits, total, 101)
    limits.reserve(day, 100)
    limits.reserve(total, 100)
    wall.now += DAY_S
    limits.reserve(day, 1000)
    limits.close()
    assert key_usage.load_all(tmp_path)["0000000e"].tokens == 1000


def test_a_record_that_is_none_stops_the_start(tmp_path: Path) -> None:
    path = key_usage.path(tmp_path, "login1")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"keys": {"00000001": {"day": "today"}}}))
    with pytest.raises(StateError, match=r"use\.json is not a record") as caught:
        Limits(root=tmp_path, hostname="login1").begin()

    assert caught.value.hint == "move it away to count from zero"
    assert key_usage.load_all(tmp_path) == {}


def test_workers_share_one_count() -> None:
    with ExitStack() as stack:
        opened = shared(stack)
        first, second = (Limits(UsageStore(opened(n), wall=Clock(NOON))) for n in (0, 1))
        who = key(rpm=2, concurrency=2)
        held, _ = first.reserve(who, 5), second.reserve(who, 5)
        refused(first, who)
        refused(second, who)
        held.settle(9)

        assert first.use() == second.use() == {"00000001": Use(DAY, 14, 2, 14, 2)}


def test_the_places_of_a_worker_that_died_are_free_again() -> None:
    with ExitStack() as stack:
        opened = shared(stack)
        dead, alive = Limits(UsageStore(opened(0))), Limits(UsageStore(opened(1)))
        who = key(concurrency=3)
        for limits in (dead, dead, alive):
            limits.reserve(who, 5)
        refused(alive, who)
        UsageStore(opened(0)).repair()

        alive.reserve(who, 5)
        alive.reserve(who, 5)
        refused(alive, who)


def test_a_count_cut_off_by_a_kill_is_mended() -> None:
    with ExitStack() as stack:
        opened = shared(stack)
        store = opened(0)
        limits = Limits(UsageStore(store))
        who = key(rpm=4, tpm=100)
        limits.reserve(who, 30)
        cells: Any = store.cells(who.id)
        cells[2] += 3
        cells[3] -= 20
        UsageStore(opened(0)).repair()

        assert b"remaining-requests: 2\r\n" in limits.reserve(who, 30).headers
        refused(limits, who, 41)


def test_a_shared_file_without_room_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as stack:
        store = shared(stack, 1)(0)
        limits = Limits(UsageStore(store))
        limits.reserve(key("0000000a", rpm=1), 1)
        with pytest.raises(ApiError, match="cannot count") as caught:
            limits.reserve(key("0000000b", rpm=1), 1)

        assert caught.value.status == 503
        assert "no room for another" in caplog.text
        with pytest.raises(GatewayError, match="there is no worker"):
            shared(stack)(WORKERS)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0121, "13ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (1.5, "1.5s"),
        (60, "1m0s"),
        (61, "1m1s"),
        (60.35, "1m0.35s"),
        (3600, "1h0m0s"),
        (7325.25, "2h2m5.25s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_room_of_one_request_is_the_minute_or_what_is_left_of_a_budget(
    limits: Limits,
) -> None:
    assert limits.room(key("1" * 8)) is limits.room(key("2" * 8, rpm=5)) is None
    minute, budget = key("3" * 8, tpm=1000), key("4" * 8, tpm=1000, daily_tokens=900)
    limits.reserve(minute, 600)
    assert limits.room(minute) == 1000
    first = limits.reserve(budget, 600)
    assert limits.room(budget) == 300
    first.settle(100)
    assert limits.room(budget) == 800
    whole = key("5" * 8, daily_tokens=900, total_tokens=500)
    limits.reserve(whole, 450)
    assert limits.room(whole) == 50
