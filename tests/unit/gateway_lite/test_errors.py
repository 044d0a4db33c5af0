"""Errors have OpenAI's form, wherever they are made."""

from __future__ import annotations

import json

import pytest

from gateway_lite import errors
from gateway_lite.telemetry.request_record import bearer, request_id
from hpc.model import Phase

MADE = [
    (errors.unauthorized(), 401, "invalid_api_key"),
    (errors.keys_unusable(), 503, "keys_unusable"),
    (errors.model_not_allowed("m"), 403, "model_not_allowed"),
    (errors.model_not_found("m"), 404, "model_not_found"),
    (errors.model_not_ready("m", Phase.LOADING), 503, "model_not_ready"),
    (errors.queue_full("m"), 429, "queue_full"),
    (errors.queue_timeout("m"), 503, "queue_timeout"),
    (errors.upstream_error("x"), 502, "upstream_error"),
    (errors.upstream_unreachable("x"), 502, "upstream_error"),
    (errors.starting(), 503, "starting"),
    (errors.upstream_timeout("x"), 504, "upstream_timeout"),
    (errors.draining(), 503, "draining"),
    (errors.too_large(9), 413, "request_too_large"),
    (errors.too_many_parts("9 values"), 400, "request_too_complex"),
    (errors.busy(), 503, "too_busy"),
    (errors.bad_request("x", param="model"), 400, "invalid_request"),
    (errors.not_found("/x"), 404, "unknown_url"),
    (errors.wrong_method("PUT", "/x", "GET"), 405, "method_not_allowed"),
    (errors.internal(), 500, "internal"),
]


@pytest.mark.parametrize(("error", "status", "code"), MADE, ids=lambda v: getattr(v, "code", None))
def test_the_form(error: errors.ApiError, status: int, code: str) -> None:
    said = json.loads(error.body())["error"]
    assert (error.status, said["code"]) == (status, code)
    assert set(said) == {"message", "type", "param", "code"}
    assert said["type"] in {"invalid_request_error", "server_error", "rate_limit_error"}
    assert said["param"] is None or isinstance(said["param"], str)
    headers = dict(error.headers)
    again = b"retry-after" in headers
    assert again is (status in {429, 502, 503} and b"x-should-retry" not in headers)


def test_a_stream_ends_with_the_error_and_the_end_mark() -> None:
    frames = errors.upstream_error("gone").frames().split(b"\n\n")
    assert json.loads(frames[1].removeprefix(b"data: "))["error"]["message"] == "gone"
    assert frames[2:] == [b"data: [DONE]", b""]


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_says_when_to_come_back(phase: Phase) -> None:
    headers = dict(errors.model_not_ready("m", phase).headers)
    assert 1 <= int(headers[b"retry-after"]) <= 60
    assert headers[b"x-model-phase"] == phase.value.encode()


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (b"Bearer k", b"k"),
        (b"bearer k", b"k"),
        (b"Bearer  k ", b"k"),
        (b"Basic k", b""),
        (b"k", b""),
        (b"", b""),
    ],
)
def test_bearer(value: bytes, token: bytes) -> None:
    assert bearer(value) == token


@pytest.mark.parametrize("given", [b"a", b"A-1_b.c", b"x" * 128])
def test_a_sane_name_is_kept(given: bytes) -> None:
    assert request_id(given) == given.decode()


@pytest.mark.parametrize("given", [b"", b"a b", b"x" * 129, b"a\n", "ü".encode(), None])
def test_any_other_name_is_replaced(given: bytes | None) -> None:
    made, next_one = request_id(given), request_id(given)
    assert made != next_one
    assert len(made) == len(next_one) == 24
