"""A client that makes an engine fetch an address for it (server-side request forgery)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import BODY, run_sidecar

if TYPE_CHECKING:
    from pathlib import Path

DATA = "data:image/png;base64,iVBORw0KGgo="


def asking(url: str) -> dict[str, Any]:
    """Return a chat that shows the engine an image."""
    part = {"type": "image_url", "image_url": {"url": url}}
    return {**BODY, "messages": [{"role": "user", "content": [part]}]}


@pytest.mark.parametrize(
    ("domains", "statuses"),
    [((), (400, 400, 400)), (("images.example.org",), (400, 200, 400)), (("*",), (200, 200, 200))],
)
def test_no_engine_gets_an_address_that_is_not_allowed(
    tmp_path: Path, domains: tuple[str, ...], statuses: tuple[int, ...]
) -> None:
    urls = ("http://127.0.0.1:1/internal", "https://images.example.org/a.png", "file:///etc/passwd")
    engine = Engine()
    more = [word for domain in domains for word in ("--media-domain", domain)]
    with (
        serve(engine, tmp_path / "e.sock") as path,
        run_sidecar(tmp_path, ["--upstream-unix", path], *more) as door,
    ):
        found = tuple(door.post(asking(url)).status_code for url in urls)
        responses = door.post({"input": [{"image_url": urls[0]}]}, "/v1/responses")
        assert door.post(asking(DATA)).status_code == 200
        assert door.post({}).status_code == 200

    assert found == statuses
    assert responses.status_code == statuses[0]
    assert len(engine.seen) == 2 + sum(status == 200 for status in (*statuses, statuses[0]))
