"""The trace context that goes on to an engine."""

from __future__ import annotations

import pytest

from gateway_lite.wire.trace_context import lines

PARENT = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"


@pytest.mark.parametrize("state", [b"", b"x" * 513, b"a\x7f", b"\xff", b"a\tb"])
def test_a_state_of_another_form_stays_here(state: bytes) -> None:
    found = lines({b"traceparent": PARENT, b"tracestate": state})
    assert found == b"traceparent: " + PARENT + b"\r\n"


@pytest.mark.parametrize(
    "parent",
    [b"", PARENT[:-1], PARENT.upper(), b"ff" + PARENT[2:], PARENT + b"-x", b"00-" + b"0" * 32],
)
def test_a_parent_of_another_form_stays_here_with_its_state(parent: bytes) -> None:
    assert lines({b"traceparent": parent, b"tracestate": b"a=1"}) == b""


def test_a_valid_context_goes_on() -> None:
    found = lines({b"traceparent": PARENT, b"tracestate": b"a=1,b=2"})
    assert found == b"traceparent: " + PARENT + b"\r\ntracestate: a=1,b=2\r\n"
