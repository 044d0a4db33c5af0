"""A client with a key makes the engines work no more tokens than its budget, however it leaves."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpc.keys.limits import KeyLimits
from tests.contract.gateway.engines import serve
from tests.contract.gateway.programs import BODY, run_gateway, run_over, wait_until
from tests.security.client_with_a_key.readers import CHAT, RESPONSES, TEXT
from tests.security.client_with_a_key.working_engine import (
    PROMPT,
    WAITS,
    WorkingEngine,
    charged,
    key_with,
    leave,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.contract.gateway.programs import Running

BUDGET = 5000
SPENT = KeyLimits(total_tokens=BUDGET)
OVERSHOOT = 100
"""Tokens of prompts that the estimate may miss, for the few short prompts of a test."""
REQUESTS = 30
Ask = tuple["Path", "Running", WorkingEngine]


@pytest.fixture(params=["vllm", "llamacpp"])
def spent(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Path, Running, WorkingEngine]]:
    """Run a gateway over a working engine; yield a user with a budget."""
    home, worker = tmp_path / "home", WorkingEngine()
    models = {"m": {"backend": request.param}}
    with (
        serve(worker) as url,  # type: ignore[arg-type]
        run_gateway(home, {"m": url}, models=models) as gateway,
    ):
        yield home, key_with(home, gateway, SPENT), worker
        worker.go.set()


def exhaust(user: Running, body: dict[str, Any], path: str = CHAT) -> None:
    """Ask until the budget is spent."""
    with user.client() as client:
        for _ in range(REQUESTS):
            answer = client.post(path, json={**BODY, **body})
            assert answer.status_code in {200, 429}, answer.content


STREAM: dict[str, Any] = {"stream": True}
UNASKED = {**STREAM, "stream_options": {"include_usage": False}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {}),
        (CHAT, STREAM),
        (CHAT, UNASKED),
        (CHAT, {**STREAM, "stream_options": {"include_usage": False, "x": 1}}),
        (CHAT, {**STREAM, "stream_options": None}),
        (CHAT, {**UNASKED, "n": 4}),
        (TEXT, {"prompt": "a", "max_completion_tokens": 1, "max_tokens": 100_000}),
        (TEXT, {"prompt": ["a"] * 30, "max_tokens": 200}),
        (TEXT, {**UNASKED, "prompt": "a", "max_completion_tokens": 1, "max_tokens": 900}),
        (RESPONSES, {"input": "a"}),
        (RESPONSES, {"input": "a", "max_tokens": 1, "max_output_tokens": 900}),
    ],
)
def test_no_choice_of_fields_makes_the_budget_larger(
    spent: Ask, path: str, body: dict[str, Any]
) -> None:
    _, user, worker = spent
    exhaust(user, body, path)
    assert worker.worked <= BUDGET + OVERSHOOT


def test_an_engine_that_reports_nothing_is_counted_by_the_estimate(spent: Ask) -> None:
    _, user, worker = spent
    worker.reports = False
    exhaust(user, UNASKED)
    assert worker.worked <= BUDGET + OVERSHOOT


@pytest.mark.parametrize("more", [{}, UNASKED, {"max_tokens": 1000}, {"stream_interval": 500}])
def test_a_stream_that_is_left_before_its_report_counts(spent: Ask, more: dict[str, Any]) -> None:
    _, user, worker = spent
    body = {**BODY, **STREAM, **more}
    statuses = [leave(user, body, b'"finish_reason":"length"') for _ in range(REQUESTS)]
    assert worker.worked <= BUDGET + OVERSHOOT
    assert 429 in statuses
    assert all(b"stream_interval" not in raw for _, raw in worker.bodies)


def test_an_answer_that_nobody_waits_for_counts(spent: Ask) -> None:
    home, user, worker = spent
    worker.hold = True
    with user.client() as client:
        for number in range(REQUESTS):
            before = len(worker.bodies)
            with contextlib.suppress(httpx.TimeoutException):
                patience = httpx.Timeout(60, read=0.3)
                answer = client.post(CHAT, json={**BODY, "max_tokens": 900}, timeout=patience)
                assert answer.status_code == 429, number
            if len(worker.bodies) > before:
                wait_until(lambda: worker.left == len(worker.bodies))
    assert worker.worked <= BUDGET + OVERSHOOT
    assert len(worker.bodies) == 5
    wait_until(lambda: charged(home, user) >= worker.worked)


@pytest.mark.parametrize("body", [{}, STREAM, UNASKED, {"max_tokens": 1500}, {"n": 2}])
def test_many_requests_at_once_do_not_share_what_is_left(spent: Ask, body: dict[str, Any]) -> None:
    _, user, worker = spent
    worker.hold = True

    def one(_: int) -> int:
        return user.post(body).status_code

    with ThreadPoolExecutor(REQUESTS) as pool:
        asked = [pool.submit(one, number) for number in range(REQUESTS)]
        wait_until(lambda: sum(it.done() for it in asked) + len(worker.bodies) >= REQUESTS)
        worker.go.set()
        statuses = {it.result() for it in asked}
    assert worker.worked <= BUDGET + OVERSHOOT
    assert statuses == {200, 429}


def test_an_engine_that_works_in_silence_is_charged_by_the_time(spent: Ask) -> None:
    home, user, worker = spent
    worker.hold = True
    with user.client() as client, contextlib.suppress(httpx.ReadTimeout):
        client.post(CHAT, json={**BODY, **STREAM}, timeout=httpx.Timeout(60, read=2))
    # The one event so far is charged, the prompt, and 100 tokens for each second of silence.
    wait_until(lambda: charged(home, user) >= 150)
    assert charged(home, user) <= BUDGET


def test_events_of_many_tokens_count_as_many(spent: Ask) -> None:
    home, user, worker = spent
    worker.in_event = 999
    leave(user, {**BODY, **STREAM, "max_tokens": 1000}, b'"finish_reason":"length"')
    wait_until(lambda: charged(home, user) >= 800)
    assert charged(home, user) <= 1000 + OVERSHOOT


def test_a_stream_that_is_left_early_is_charged_what_it_worked(spent: Ask) -> None:
    home, user, worker = spent
    worker.hold = True
    leave(user, {**BODY, **STREAM, "max_tokens": 1000}, b"word")
    wait_until(lambda: charged(home, user))
    # Far from the estimate of a thousand; a slow machine adds silence.
    assert 1 <= charged(home, user) < 900


def test_a_report_that_the_client_wrote_is_none(spent: Ask) -> None:
    home, user, worker = spent
    worker.hold = True
    forged = {"usage": {"input_tokens": 0, "output_tokens": 0}}
    made = {"type": "response.created", "response": {"tools": [forged], "x": forged}}
    worker.echo = b"data: " + json.dumps(made).encode() + b"\n\n"
    leave(user, {"model": "m", "input": "x" * 400, **STREAM}, b"word", RESPONSES)
    wait_until(lambda: charged(home, user) >= 100)


def test_a_refusal_of_the_engine_costs_nothing_and_keeps_nothing(spent: Ask) -> None:
    _, user, worker = spent
    worker.status = 400
    for _ in range(REQUESTS):
        assert user.post({"max_tokens": 4000}).status_code == 400
    worker.status = 200
    assert user.post({"max_tokens": 4000}).status_code == 200


def test_a_request_that_goes_to_two_replicas_is_charged_once(tmp_path: Path) -> None:
    home, busy, worker = tmp_path / "home", WorkingEngine(status=503), WorkingEngine()
    with (
        serve(busy) as one,  # type: ignore[arg-type]
        serve(worker) as other,  # type: ignore[arg-type]
        run_over(home, [one, other]) as gateway,
    ):
        user = key_with(home, gateway, SPENT)
        answers = wait_until(
            lambda: (s := [user.post({"max_tokens": 40}).status_code for _ in range(8)]) and s
        )
        assert set(answers) == {200}
        wait_until(lambda: charged(home, user) == worker.worked)
    assert worker.worked == 8 * (PROMPT + 40)


def test_an_answer_from_the_cache_costs_no_tokens(tmp_path: Path) -> None:
    home, worker = tmp_path / "home", WorkingEngine()
    models = {"m": {"revision": "1"}}
    with (
        serve(worker) as url,  # type: ignore[arg-type]
        run_gateway(home, {"m": url}, policy={"cache": {}}, models=models) as gateway,
    ):
        user = key_with(home, gateway, SPENT)
        body = {"temperature": 0, "input": "a", "max_tokens": 5}
        said = [user.post(body, "/v1/embeddings").status_code for _ in range(REQUESTS)]
        assert set(said) == {200}
        wait_until(lambda: charged(home, user) == worker.worked)


def test_the_minute_holds_too(tmp_path: Path) -> None:
    home, worker = tmp_path / "home", WorkingEngine()
    with (
        serve(worker) as url,  # type: ignore[arg-type]
        run_gateway(home, {"m": url}) as gateway,
    ):
        user = key_with(home, gateway, KeyLimits(tpm=BUDGET))
        for _ in range(REQUESTS):
            leave(user, {**BODY, **UNASKED}, b'"finish_reason":"length"')
    assert worker.worked <= BUDGET + OVERSHOOT


def whole(user: Running, body: dict[str, Any]) -> None:
    """Wait for the end."""
    user.post(body)


def until_word(user: Running, body: dict[str, Any]) -> None:
    """Leave at the first word, when the engine has no further one."""
    leave(user, {**BODY, **body, "stream": True, "user": WAITS}, b"word")


def until_end(user: Running, body: dict[str, Any]) -> None:
    """Leave at the last word."""
    leave(user, {**BODY, **body, "stream": True}, b'"finish_reason":"length"')


WAYS: tuple[Callable[[Running, dict[str, Any]], None], ...] = (whole, until_word, until_end)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "stream": st.booleans(),
        "n": st.sampled_from([1, 2, 5, "3"]),
        "max_tokens": st.sampled_from([1, 300, 3000, "900", 900.0, None]),
        "max_completion_tokens": st.sampled_from([1, 300, 3000, None]),
        "n_predict": st.sampled_from([1, 9000]),
        "stream_options": st.sampled_from([None, {}, {"include_usage": False}]),
    },
)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(asks=st.lists(st.tuples(st.sampled_from(WAYS), FIELDS), min_size=5, max_size=25))
def test_no_order_of_requests_works_more_than_the_budget(
    shared: Ask, asks: list[tuple[Callable[[Running, dict[str, Any]], None], dict[str, Any]]]
) -> None:
    home, gateway, worker = shared
    user = key_with(home, gateway, SPENT)
    before = worker.worked
    with ThreadPoolExecutor(5) as pool:
        for done in [pool.submit(way, user, body) for way, body in asks]:
            done.result()
    assert worker.worked - before <= BUDGET + OVERSHOOT


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Run a gateway over a working engine; yield its owner."""
    home, worker = tmp_path_factory.mktemp("budgets") / "home", WorkingEngine()
    with (
        serve(worker) as url,  # type: ignore[arg-type]
        run_gateway(home, {"m": url}) as gateway,
    ):
        yield home, gateway, worker
