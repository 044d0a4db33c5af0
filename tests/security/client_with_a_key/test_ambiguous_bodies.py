"""A client with a key for one model reaches no other by a body or head that is read in two ways."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from hpc.keys.limits import KeyLimits
from tests.contract.gateway.engines import serve
from tests.contract.gateway.programs import run_gateway
from tests.contract.gateway.wire import Wire
from tests.security.client_with_a_key.readers import CHAT
from tests.security.client_with_a_key.working_engine import WorkingEngine, key_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.gateway.programs import Running

ASK = b'"messages":[{"role":"user","content":"hi"}]'


@pytest.fixture(scope="module")
def worker() -> WorkingEngine:
    """Return the engine of this module."""
    return WorkingEngine()


@pytest.fixture(scope="module")
def users(
    tmp_path_factory: pytest.TempPathFactory, worker: WorkingEngine
) -> Iterator[dict[str, Running]]:
    """Run a gateway with two models; yield a user of one of them, and one without limits."""
    home = tmp_path_factory.mktemp("ambiguous") / "home"
    with (
        serve(worker) as url,  # type: ignore[arg-type]
        run_gateway(home, {"open": url, "secret": url}) as gateway,
    ):
        listed = key_with(home, gateway, KeyLimits(), models=("open",))
        yield {"listed": listed, "free": gateway}


def ask(user: Running, body: bytes, **headers: str) -> httpx.Response:
    """Ask with exactly these bytes."""
    head = {"authorization": f"Bearer {user.key}", "content-type": "application/json", **headers}
    with httpx.Client(base_url=user.url, headers=head, trust_env=False, timeout=60) as client:
        return client.post(CHAT, content=body)


def models_in(raw: bytes) -> set[Any]:
    """Return all models that some reader could find in a body."""
    pairs = json.loads(raw, object_pairs_hook=list)
    found = (value for name, value in pairs if "model" in name.casefold())
    return {value if isinstance(value, str) else str(value) for value in found}


@pytest.mark.parametrize(
    "fields",
    [
        b'"model":"secret","model":"open"',
        b'"model":"open","Model":"secret"',
        b'"Model":"secret","model":"open"',
        b'"model":"open","MODEL":"secret"',
        b'"model":"open","\xef\xbd\x8dodel":"secret"',
        b'"model":"open","mode\xe2\x85\xbc":"secret"',
        b'"model":"open","model\\u0000":"secret"',
        b'"model":"open","mo_del":"secret"',
        b'"mod\\u0065l":"secret","model":"open"',
        b'"model":"open","mod\\u0065l":"open"',
        b'"model":"open","stream":false,"Stream":true',
        b'"model":"open","N":5',
        b'"model":"open","Messages":[]',
        b'"model":"open","Stream_Options":{}',
    ],
)
def test_an_engine_gets_each_field_once_and_in_one_spelling(
    users: dict[str, Running], worker: WorkingEngine, fields: bytes
) -> None:
    before = len(worker.bodies)
    answer = ask(users["listed"], b"{" + fields + b"," + ASK + b"}")
    if answer.status_code == 400:
        assert len(worker.bodies) == before
        return
    assert answer.status_code == 200
    raw = worker.bodies[-1][1]
    assert models_in(raw) == {"open"}
    assert raw.count(b'"model"') == 1


@pytest.mark.parametrize("fields", [b'"model":"open","model":"secret"', b'"model":"secret"'])
def test_another_model_stays_forbidden(users: dict[str, Running], fields: bytes) -> None:
    assert ask(users["listed"], b"{" + fields + b"," + ASK + b"}").status_code == 403


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf{%b}", "{%s}", b"{%b}}", b"{%b}\0", b"[{%b}]"])
def test_what_is_no_plain_object_is_refused(users: dict[str, Running], body: bytes | str) -> None:
    fields = b'"model":"open",' + ASK
    raw = (body % fields.decode()).encode("utf-16") if isinstance(body, str) else body % fields
    assert ask(users["listed"], raw).status_code == 400


def test_a_request_that_nothing_limits_goes_on_byte_for_byte(
    users: dict[str, Running], worker: WorkingEngine
) -> None:
    body = b'{ "model":"open", "Model":1,"max_tokens":5.0, "a":1,"a":2,' + ASK + b"}"
    assert ask(users["free"], body).status_code == 200
    assert worker.bodies[-1][1] == body


TWICE = [
    ("Authorization", "Bearer {key}", "Authorization", "Bearer other"),
    ("authorization", "Bearer other", "Authorization", "Bearer {key}"),
    ("Authorization", "Bearer {key}", "AUTHORIZATION", "Bearer {key}"),
    ("X-Api-Key", "a", "x-api-key", "b"),
    ("Content-Type", "application/json", "content-type", "text/plain"),
    ("Host", "a", "host", "b"),
    ("traceparent", "a", "Traceparent", "b"),
]


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/files"])
@pytest.mark.parametrize("pair", TWICE)
def test_a_header_that_decides_occurs_once(
    users: dict[str, Running], path: str, pair: tuple[str, str, str, str]
) -> None:
    user = users["free"]
    body = b'{"model":"open",' + ASK + b"}"
    one, first, other, second = (part.format(key=user.key) for part in pair)
    lines = [f"{one}: {first}", f"{other}: {second}", f"Content-Length: {len(body)}"]
    if "authorization" not in one.lower():
        lines.append(f"Authorization: Bearer {user.key}")
    if one != "Host":
        lines.append("Host: gateway")
    head = f"POST {path} HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n"
    with Wire(user) as wire:
        wire.sock.sendall(head.encode() + body)
        answer = wire.answer()
    assert answer is not None
    assert answer.status == 400
    assert b"more than once" in answer.body


def test_a_header_behind_the_body_opens_nothing(users: dict[str, Running]) -> None:
    user = users["free"]
    body = b'{"model":"open",' + ASK + b"}"
    chunk = b"%x\r\n%b\r\n0\r\nauthorization: Bearer %b\r\n\r\n" % (
        len(body),
        body,
        user.key.encode(),
    )
    head = f"POST {CHAT} HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Wire(user) as wire:
        wire.sock.sendall(head.encode() + chunk)
        answer = wire.answer()
    assert answer is not None
    assert answer.status == 401


PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
BOTH = {"traceparent": PARENT, "tracestate": "a=1"}


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (BOTH, BOTH),
        ({"traceparent": PARENT}, {"traceparent": PARENT}),
        ({"traceparent": PARENT, "tracestate": "x" * 513}, {"traceparent": PARENT}),
        ({"traceparent": f"00-{'0' * 32}-{'b' * 16}-01", "tracestate": "a=1"}, {}),
        ({"traceparent": PARENT + "-more"}, {}),
        ({"traceparent": "anything else", "tracestate": "a=1"}, {}),
        ({"tracestate": "a=1"}, {}),
        ({"x-api-key": "k", "cookie": "c", "x-forwarded-for": "f"}, {}),
    ],
)
def test_only_a_valid_trace_context_goes_on(
    users: dict[str, Running],
    worker: WorkingEngine,
    given: dict[str, str],
    passed: dict[str, str],
) -> None:
    body = b'{"model":"open",' + ASK + b"}"
    assert ask(users["free"], body, **given).status_code == 200
    own = {"host", "content-type", "accept", "accept-encoding", "x-request-id", "content-length"}
    got = {name.decode(): value.decode() for name, value in worker.heads[-1]}
    assert {name: value for name, value in got.items() if name not in own} == passed
