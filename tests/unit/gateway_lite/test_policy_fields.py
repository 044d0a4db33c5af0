"""Every field of the gateway's configuration changes something that a user can see."""

from __future__ import annotations

import asyncio
import time
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Router
from starlette.testclient import TestClient

from gateway_lite.api.batches.batches import BatchPages
from gateway_lite.api.batches.files import FilePages
from gateway_lite.auth import token_ceilings
from gateway_lite.auth.client_keys import ANYBODY
from gateway_lite.auth.rate_limits import Limits
from gateway_lite.errors import ApiError
from gateway_lite.features.cors import Cors
from gateway_lite.features.pipeline import FeaturePipeline, FeatureRequest
from gateway_lite.http.listeners import Address, check_open
from gateway_lite.request.gateway_handler import GatewayHandler
from gateway_lite.routing.model_rules import Table, Traits, chosen
from gateway_lite.wire import request_body
from gateway_lite.wire.asgi import send_error
from hpc.errors import ConfigError
from hpc.gateway_policy import CachePolicy, GatewayPolicy, ModelPolicy, ModelRule, RedactPolicy

if TYPE_CHECKING:
    from pathlib import Path

CHAT = "/v1/chat/completions"
ANSWER = b'{"choices": [{"index": 0, "finish_reason": "stop", "text": "%b"}]}'
MODELS = ("big", "small")
RULE = ModelRule(use="small")
CACHE = GatewayPolicy(cache=CachePolicy())
REDACT = GatewayPolicy(redact=RedactPolicy(kinds=("email",)))


def ways(policy: GatewayPolicy) -> list[tuple[str, ...]]:
    """Return the models that requests of several kinds are sent to."""
    table = Table(policy, MODELS)
    kinds = [
        (asked, Traits(key, headers, prompt, most))
        for asked in ("gpt", *MODELS)
        for key in ("alice", "bob")
        for headers in ({}, {b"x-team": b"7"})
        for prompt in (10, 10_000)
        for most in (None, 10_000)
    ]
    return [chosen(table, lambda _: True, asked, traits) for asked, traits in kinds]


def routing(policy: GatewayPolicy) -> object:
    """Return how replicas are chosen."""
    return Table(policy, MODELS).routing


def lengths(policy: GatewayPolicy) -> object:
    """Return what becomes of a request without a length, of a long prompt."""
    try:
        own = Table(policy, MODELS).policies.get("big")
        token_ceilings.check_prompt(5000, own)
        return token_ceilings.lowest(own)
    except ApiError as error:
        return str(error)


def asked_twice(policy: GatewayPolicy, path: str = CHAT, size: int = 1) -> list[str]:
    """Return what the cache says of two equal requests, the first answered at length."""
    pipeline, body = FeaturePipeline(policy), b'{"model": "big", "temperature": 0, "input": "a"}'
    request = FeatureRequest(path, request_body.read(body), "big", "id", "key", counted=False)
    said = []
    for _ in range(2):
        prepared = pipeline.prepare(body, request)
        said.append(prepared.cache)
        for editor in prepared.edits.editors(200, events=False) if prepared.edits else ():
            editor.feed(ANSWER % (b"a" * size))
            editor.finish()
        time.sleep(0.001)
    return said


def vectors(policy: GatewayPolicy) -> object:
    """Return whether embeddings are kept."""
    return asked_twice(policy, "/v1/embeddings")


def large(policy: GatewayPolicy) -> object:
    """Return whether an answer of a megabyte is kept."""
    return asked_twice(policy, size=2**20)


def redacted(policy: GatewayPolicy) -> object:
    """Return a prompt as replicas get it, and whether answers are looked into."""
    body = b'{"model": "big", "messages": [{"role": "user", "content": "a@b.example S123456"}]}'
    request = FeatureRequest(CHAT, request_body.read(body), "big", "id", "key", counted=False)
    pipeline = FeaturePipeline(policy)
    if pipeline.redaction is not None:
        body = pipeline.redaction.in_time(body)
    prepared = pipeline.prepare(body, request)
    return prepared.body, prepared.edits is not None


def allowed(policy: GatewayPolicy) -> object:
    """Return what a browser is told."""
    cors = Cors(Starlette())
    cors.adopt(policy.cors)
    return cors.lines(b"https://lab.example")


def open_to_all(policy: GatewayPolicy) -> object:
    """Return why a gateway may not listen on all addresses; empty where it may."""
    try:
        check_open(Address("0.0.0.0", 0), anonymous=policy.anonymous)
    except ConfigError as error:
        return str(error)
    return ""


def bodies(policy: GatewayPolicy) -> object:
    """Return the memory for bodies of a handler that adopts the policy."""

    async def adopt() -> int:
        parts = dict.fromkeys(("catalog", "keys", "limits", "balancer", "upstream", "watcher"))
        parts |= dict.fromkeys(("seen", "in_flight", "batcher", "settings"))
        handler = GatewayHandler(**parts)  # type: ignore[arg-type]
        handler.adopt(policy, Table(policy, MODELS))
        return handler.bodies.limit

    return asyncio.run(adopt())


def stored(policy: GatewayPolicy, root: Path) -> object:
    """Return what uploads are answered with, the first two and a batch of a file."""
    pages = [
        *FilePages(root, lambda: policy, Limits()).routes(),
        *BatchPages(root, lambda: policy, Limits(), lambda allows: ()).routes(),
    ]
    client = client_of(pages)
    form: Any = {"files": {"file": ("a", b"{}")}, "data": {"purpose": "batch"}}
    said = [client.post("/v1/files", **form) for _ in range(2)]
    window = {"endpoint": CHAT, "completion_window": "24h"}
    asked = {**window, "input_file_id": said[0].json()["id"]}
    said += [client.post("/v1/batches", json=asked) for _ in range(2)]
    return [one.status_code for one in said]


def client_of(pages: list[Any]) -> TestClient:
    """Return a client of pages that has a key, and gets errors as answers."""
    inner = Router(pages)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await inner({**scope, "principal": ANYBODY}, receive, send)
        except ApiError as error:
            await send_error(send, error, scope["path"])

    return TestClient(app)


def files(policy: GatewayPolicy, root: Path) -> object:
    """Return what a request for files is answered with."""
    pages = FilePages(root, lambda: policy, Limits())
    inner = Starlette(routes=pages.routes())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "principal": ANYBODY}, receive, send)

    try:
        return TestClient(app).get("/v1/files").status_code
    except ApiError as error:
        return error.status, str(error)


def big(**said: Any) -> GatewayPolicy:
    return GatewayPolicy(models={"big": ModelPolicy(**said)})


def rule(**said: Any) -> GatewayPolicy:
    return GatewayPolicy(rules=(replace(RULE, **said),))


def cache(**said: Any) -> GatewayPolicy:
    return GatewayPolicy(cache=replace(CachePolicy(), **said))


def redact(**said: Any) -> GatewayPolicy:
    return GatewayPolicy(redact=replace(RedactPolicy(kinds=("email",)), **said))


NONE = GatewayPolicy()
CASES: dict[str, tuple[Any, GatewayPolicy, GatewayPolicy]] = {
    "GatewayPolicy.aliases": (ways, NONE, GatewayPolicy(aliases={"gpt": "big"})),
    "GatewayPolicy.rules": (ways, NONE, rule(keys=("alice",))),
    "GatewayPolicy.routing": (routing, NONE, GatewayPolicy(routing="round_robin")),
    "GatewayPolicy.cors": (allowed, NONE, GatewayPolicy(cors=("https://lab.example",))),
    "GatewayPolicy.cache": (asked_twice, NONE, CACHE),
    "GatewayPolicy.redact": (redacted, NONE, REDACT),
    "GatewayPolicy.anonymous": (open_to_all, NONE, GatewayPolicy(anonymous=True)),
    "GatewayPolicy.batch_file_mib": (files, NONE, GatewayPolicy(batch_file_mib=0)),
    "GatewayPolicy.body_mib": (bodies, NONE, GatewayPolicy(body_mib=9)),
    "GatewayPolicy.batch_files": (stored, NONE, GatewayPolicy(batch_files=1)),
    "GatewayPolicy.open_batches": (stored, NONE, GatewayPolicy(open_batches=1)),
    "GatewayPolicy.models": (lengths, NONE, big(max_tokens=7)),
    "ModelPolicy.fallback": (ways, NONE, big(fallback=("small",))),
    "ModelPolicy.routing": (routing, NONE, big(routing="round_robin")),
    "ModelPolicy.max_tokens": (lengths, NONE, big(max_tokens=7)),
    "ModelPolicy.max_prompt_tokens": (lengths, NONE, big(max_prompt_tokens=7)),
    "ModelRule.use": (ways, rule(keys=("alice",)), rule(keys=("alice",), use="big")),
    "ModelRule.models": (ways, rule(keys=("alice",)), rule(keys=("alice",), models=("small",))),
    "ModelRule.keys": (ways, rule(keys=("alice",)), rule(keys=("bob",))),
    "ModelRule.headers": (ways, rule(keys=("bob",)), rule(keys=("bob",), headers={"x-team": ""})),
    "ModelRule.prompt_tokens_over": (
        ways,
        rule(keys=("bob",)),
        rule(keys=("bob",), prompt_tokens_over=100),
    ),
    "ModelRule.max_tokens_over": (
        ways,
        rule(keys=("bob",)),
        rule(keys=("bob",), max_tokens_over=100),
    ),
    "CachePolicy.mib": (large, cache(mib=64), cache(mib=1)),
    "CachePolicy.ttl_s": (asked_twice, cache(), cache(ttl_s=1e-6)),
    "CachePolicy.vectors": (vectors, cache(), cache(vectors=False)),
    "RedactPolicy.kinds": (redacted, redact(), redact(kinds=("phone",))),
    "RedactPolicy.patterns": (redacted, redact(), redact(patterns={"staff": r"S\d{6}"})),
    "RedactPolicy.answers": (redacted, redact(), redact(answers=True)),
}
KINDS = (GatewayPolicy, ModelPolicy, ModelRule, CachePolicy, RedactPolicy)


def test_every_field_has_a_case() -> None:
    assert set(CASES) == {
        f"{kind.__name__}.{field.name}" for kind in KINDS for field in fields(kind)
    }


@pytest.mark.parametrize("name", CASES)
def test_every_field_changes_something(name: str, tmp_path: Path) -> None:
    probe, before, after = CASES[name]
    places = [(tmp_path / name,) if probe in (files, stored) else () for name in ("one", "two")]
    assert probe(before, *places[0]) != probe(after, *places[1])


def test_embeddings_are_kept_only_where_that_is_wanted() -> None:
    answered = asked_twice(cache(vectors=False), "/v1/embeddings")
    assert answered == ["", ""]
