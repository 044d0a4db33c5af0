"""A thief of a batch token: the token opens inference for one batch, and ends with the batch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from hpc.keys import batch_tokens
from hpc.keys import store as key_store
from hpc.state import directory
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import BODY, run_gateway, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contract.gateway.programs import Running

BATCH = "batch_" + "a" * 24
SOON = int(time.time()) + 86400
CHAT = "/v1/chat/completions"
PAGES = (
    *(("GET", path) for path in ("/v1/models", "/v1/models/m", "/v1/files", "/v1/batches")),
    *(("GET", path) for path in ("/metrics", "/dashboard/data", "/version")),
    *(("GET", path) for path in ("/api/tags", "/api/ps", "/v1/nothing")),
    *(("POST", path) for path in ("/v1/files", "/v1/batches", "/api/show")),
    ("POST", f"/v1/batches/{BATCH}/cancel"),
    ("DELETE", "/v1/files/file-" + "0" * 24),
    ("GET", CHAT),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the state directory of the module's gateway."""
    return directory.home(str(tmp_path_factory.mktemp("tokens") / "home"))


@pytest.fixture(scope="module")
def gateway(home: Path) -> Iterator[Running]:
    """Run a gateway with two workers in front of one engine."""
    with serve(Engine()) as url, run_gateway(home, {"m": url}, "--workers", "2") as running:
        yield running


def key_id(home: Path) -> str:
    """Return the id of the client's key."""
    return key_store.load(directory.keys_path(home))[0].id


def status(gateway: Running, token: str, method: str = "POST", path: str = CHAT) -> int:
    """Return the status of a request over a new connection, so of any worker."""
    body = BODY if method == "POST" else None
    with gateway.client() as client:
        shown = {"authorization": f"Bearer {token}"}
        return client.request(method, path, json=body, headers=shown).status_code


def test_a_token_serves_inference_while_its_batch_runs(gateway: Running, home: Path) -> None:
    token = batch_tokens.grant(home, key_id(home), BATCH, SOON)

    assert {status(gateway, token) for _ in range(8)} == {200}
    assert status(gateway, token, path="/v1/embeddings") == 200


@pytest.mark.parametrize(("method", "path"), PAGES)
def test_a_token_opens_no_page(gateway: Running, home: Path, method: str, path: str) -> None:
    token = batch_tokens.grant(home, key_id(home), BATCH, SOON)

    assert status(gateway, token, method, path) == 401


def test_a_token_ends_with_its_batch_at_every_worker(gateway: Running, home: Path) -> None:
    batch = "batch_" + "b" * 24
    token = batch_tokens.grant(home, key_id(home), batch, SOON)
    assert {status(gateway, token) for _ in range(8)} == {200}
    batch_tokens.end(home, key_id(home), batch)
    wait_until(lambda: all(status(gateway, token) == 401 for _ in range(8)))

    assert {status(gateway, token) for _ in range(8)} == {401}


@pytest.mark.parametrize("batch", ["batch_" + "c" * 24, "1130-042322", "x", "a" * 64])
def test_a_signed_token_of_no_batch_is_refused(gateway: Running, home: Path, batch: str) -> None:
    secret = batch_tokens.ensure(batch_tokens.path(home))
    token = batch_tokens.issue(secret, key_id(home), batch, SOON)

    assert status(gateway, token) == 401


@pytest.mark.parametrize("batch", ["..", "../keys", "a/b", ".", "a" * 65, "a.b", "", "-a", "a\x00"])
def test_no_name_of_a_batch_leads_elsewhere(home: Path, batch: str) -> None:
    secret = batch_tokens.ensure(batch_tokens.path(home))
    token = batch_tokens.issue(secret, "0123abcd", batch, SOON)

    assert batch_tokens.holder(secret, token.encode("latin-1")) is None
