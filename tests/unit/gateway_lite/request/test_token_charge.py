"""The tokens that a request is charged when it ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway_lite.features.usage_report import StreamUsage
from gateway_lite.request import token_charge
from gateway_lite.telemetry.request_record import CLIENT_GONE, LEFT, RequestRecord

RESERVED = 1000
EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
REPORT = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}\n\n'
NOW = 5000.0


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock, so that a slow machine costs no tokens."""
    monkeypatch.setattr(token_charge, "clock", lambda: NOW)


def charge(
    *,
    sent: bytes = b"",
    error: str | None = None,
    worked: bool = True,
    stream: bool = True,
    silent_s: float = 0.0,
    answers: int = 1,
) -> int | None:
    """Return the tokens of a request with a prompt of 20 tokens."""
    record = RequestRecord("a", replica="r", status=200)
    meter = StreamUsage()
    if sent:
        record.tail.add(sent)
        meter.feed(sent)
    if error:
        record.failed(LEFT if error == CLIENT_GONE else 502, error)
    if meter.moved_at is not None:
        meter.moved_at = NOW - silent_s
    context = SimpleNamespace(
        record=record,
        worked=worked,
        edits=SimpleNamespace(report=meter) if stream else None,
        reservation=SimpleNamespace(tokens=RESERVED),
        prompt=20,
        answers=answers,
        sent_at=NOW - silent_s,
    )
    return token_charge.charged(cast("Any", context))


@pytest.mark.parametrize("error", [None, CLIENT_GONE, "upstream_error"])
def test_the_report_of_the_engine_counts(error: str | None) -> None:
    assert charge(sent=EVENT + REPORT, error=error) == 12


def test_without_a_report_the_estimate_counts() -> None:
    assert charge(sent=EVENT * 3) == RESERVED
    assert charge(stream=False) == RESERVED


@pytest.mark.parametrize("error", [CLIENT_GONE, "upstream_error", "draining"])
def test_a_stream_that_ends_early_costs_prompt_and_events(error: str) -> None:
    assert charge(sent=EVENT * 3, error=error) == 23
    assert charge(error=error) == 20


@pytest.mark.parametrize("error", [CLIENT_GONE, "upstream_timeout"])
def test_an_answer_in_one_piece_that_nobody_gets_costs_its_estimate(error: str) -> None:
    assert charge(stream=False, error=error) == RESERVED


def test_silence_costs_by_the_second_and_at_most_the_estimate() -> None:
    assert charge(sent=EVENT, error=CLIENT_GONE, silent_s=2) == 221
    assert charge(sent=EVENT, error=CLIENT_GONE, silent_s=2, answers=3) == 621
    assert charge(error=CLIENT_GONE, silent_s=100) == RESERVED
    assert charge(sent=EVENT + REPORT, error=CLIENT_GONE, silent_s=1) == 112


def test_what_no_replica_worked_on_costs_nothing() -> None:
    assert charge(worked=False) is None
    assert charge(worked=False, error=CLIENT_GONE) is None
