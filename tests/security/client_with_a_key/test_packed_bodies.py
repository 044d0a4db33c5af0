"""Packed bodies are read as plain ones, within the same limits, and reach engines plain."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import TYPE_CHECKING

import pytest

from hpc.keys.limits import KeyLimits
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import BODY, run_gateway
from tests.security.client_with_a_key.readers import CHAT
from tests.security.client_with_a_key.working_engine import key_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.contract.gateway.programs import Running

PLAIN = json.dumps(BODY).encode()
MIB = 2**20


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Return the engine of this module."""
    return Engine()


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[dict[str, Running]]:
    """Run a gateway; yield a user without limits, and one whose prompts may have 100 tokens."""
    home = tmp_path_factory.mktemp("packed") / "home"
    with serve(engine) as url, run_gateway(home, {"m": url}) as gateway:
        yield {"free": gateway, "short": key_with(home, gateway, KeyLimits(max_prompt_tokens=100))}


def ask(user: Running, body: bytes, coding: str, path: str = CHAT) -> httpx.Response:
    head = {"content-type": "application/json", "content-encoding": coding}
    with user.client() as client:
        return client.post(path, content=body, headers=head)


def raw(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress(PLAIN)),
        ("GZip", gzip.compress(PLAIN)),
        ("x-gzip", gzip.compress(PLAIN)),
        ("deflate", zlib.compress(PLAIN)),
        ("deflate", raw(PLAIN)),
        ("identity", PLAIN),
        ("", PLAIN),
        ("gzip", gzip.compress(PLAIN[:-1] + b" " * 3 * MIB + b"}")),
    ],
    ids=["gzip", "spelled", "old", "deflate", "raw", "identity", "empty", "large"],
)
def test_an_engine_gets_a_packed_body_plain(
    users: dict[str, Running], engine: Engine, coding: str, packed: bytes
) -> None:
    answer = ask(users["free"], packed, coding)

    assert answer.status_code == 200, answer.text
    assert engine.seen[-1].body == BODY
    assert "content-encoding" not in engine.seen[-1].headers


def test_other_pages_read_packed_bodies_too(users: dict[str, Running], engine: Engine) -> None:
    batch = {"input_file_id": "file-1", "endpoint": CHAT, "completion_window": "24h"}
    sent = gzip.compress(json.dumps(batch).encode())

    assert ask(users["free"], sent, "gzip", "/v1/batches").json()["error"]["code"] == (
        "file_not_found"
    )
    chat = json.dumps({**BODY, "stream": False}).encode()
    assert ask(users["free"], gzip.compress(chat), "gzip", "/api/chat").status_code in (200, 502)
    assert engine.seen[-1].body["messages"] == BODY["messages"]


@pytest.mark.parametrize("path", [CHAT, "/v1/batches"])
@pytest.mark.parametrize("coding", ["zstd", "br", "gzip, gzip", "x"])
def test_another_coding_is_refused_with_those_that_are_read(
    users: dict[str, Running], coding: str, path: str
) -> None:
    answer = ask(users["free"], b"\x28\xb5\x2f\xfd", coding, path)

    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip, deflate")
    assert answer.json()["error"]["code"] == "unsupported_content_encoding"
    assert coding in answer.json()["error"]["message"]


def test_an_upload_is_taken_plain_only(users: dict[str, Running]) -> None:
    head, form = {"content-encoding": "gzip"}, {"purpose": "batch"}
    with users["free"].client() as client:
        answer = client.post("/v1/files", files={"file": b"x"}, data=form, headers=head)

    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")


@pytest.mark.parametrize(
    ("user", "size"), [("free", 8 * MIB), ("free", 64 * MIB), ("short", 2 * MIB)]
)
def test_a_small_body_that_grows_meets_the_limit_of_plain_ones(
    users: dict[str, Running], engine: Engine, user: str, size: int
) -> None:
    packer, seen = zlib.compressobj(wbits=31), len(engine.seen)
    bomb = packer.compress(PLAIN[:-1])
    bomb += b"".join(packer.compress(b" " * MIB) for _ in range(size // MIB))
    bomb += packer.compress(b" " * (size % MIB) + b"}") + packer.flush()
    answer = ask(users[user], bomb, "gzip")

    assert (answer.status_code, len(engine.seen)) == (413, seen)
    assert ask(users["free"], gzip.compress(PLAIN), "gzip").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        PLAIN,
        gzip.compress(PLAIN)[:-4],
        gzip.compress(PLAIN) + b"x",
        gzip.compress(PLAIN) * 2,
        gzip.compress(b"") * 100_000,
        gzip.compress(PLAIN)[:-8] + b"\0" * 8,
    ],
    ids=["empty", "plain", "torn", "more", "twice", "often", "altered"],
)
def test_a_body_that_is_not_as_it_says_is_refused(users: dict[str, Running], body: bytes) -> None:
    answer = ask(users["free"], body, "gzip")

    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("the body is")
