"""The dashboard's page and data, as the gateway serves them."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from hpc.keys import store as key_store
from hpc.keys.limits import KeyLimits
from hpc.model import Phase
from hpc.state import directory
from hpc.version import __version__
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import (
    PATIENCE_S,
    run_gateway,
    run_sidecar,
    save_replica,
    save_service,
    wait_until,
)
from tests.contract.gateway.test_leaving import send

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.gateway.programs import Running

USAGE = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}


def look(gateway: Running, key: str | None = None, model: str = "") -> Any:
    """Return what the dashboard shows to a key."""
    auth = {"authorization": f"Bearer {key or gateway.key}"}
    asked = {"model": model} if model else None
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=PATIENCE_S) as client:
        answer = client.get("/dashboard/data", headers=auth, params=asked)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


def test_the_page_needs_no_key_and_tells_nothing(gateway: Running) -> None:
    answer = httpx.get(gateway.url + "/dashboard", trust_env=False)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert __version__ not in answer.text
    assert gateway.key not in answer.text
    assert httpx.post(gateway.url + "/dashboard", trust_env=False).status_code == 405


def test_the_page_loads_nothing_from_elsewhere(gateway: Running) -> None:
    answer = httpx.get(gateway.url + "/dashboard", trust_env=False)
    rules = dict(
        rule.strip().partition(" ")[::2]
        for rule in answer.headers["content-security-policy"].split(";")
    )
    addresses = re.findall(r"https?://[^\s\"'<]+", answer.text)

    assert rules["default-src"] == rules["frame-ancestors"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert rules["script-src"].startswith("'sha256-")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert addresses == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"(?!data:)", answer.text)


@pytest.mark.parametrize("token", ["", "wrong"])
def test_the_data_need_a_key(gateway: Running, token: str) -> None:
    auth = {"authorization": f"Bearer {token}"} if token else {}
    answer = httpx.get(gateway.url + "/dashboard/data", headers=auth, trust_env=False)

    assert answer.status_code == 401
    assert httpx.get(gateway.url + f"/dashboard/data?key={gateway.key}").status_code == 401


def test_requests_are_shown_at_once(gateway: Running) -> None:
    began = time.monotonic()
    for body in ({}, {"wait": 0.3}, {"status": 500}, {"status": 400}):
        gateway.post({"usage": USAGE, **body})
    took_s = time.monotonic() - began
    gateway.post({"model": "nobody"})
    told = look(gateway)
    now, (model,) = told["windows"]["1"], told["models"]

    assert now["requests"] == 4
    assert now["failed_s"] == now["refused_s"] > 0
    assert now["ttft_p99"] > 0.25
    assert now["ttft_p50"] < took_s
    assert told["gateway"]["version"] == __version__
    assert model["windows"]["1"]["requests"] == 4
    assert model["replicas"] == [
        {
            "name": "m",
            "phase": "READY",
            "health": "ok",
            "outstanding": 0,
            "stale": False,
            **dict.fromkeys(("job_id", "host", "starts_at", "ends_at", "slots", "reason")),
        }
    ]
    assert look(gateway, model="m")["windows"]["1"]["requests"] == 4


def test_what_is_under_way_is_shown(home: Path, engine: Engine) -> None:
    save_service(home, replicas=2)
    with serve(engine) as url:
        save_replica(home, url, slots=1, ends_at=4e9)
        save_replica(home, url, number=1, phase=Phase.LOADING)
        with run_gateway(home) as gateway:
            held = [send(gateway, {"stream": True, "hold": True}) for _ in range(2)]
            assert engine.wait_seen(1)
            wait_until(lambda: look(gateway)["models"][0]["waiting"] == 1)
            (model,) = look(gateway)["models"]
            engine.go.set()
            for connection in held:
                connection.close()

    first, second = model["replicas"]
    assert (model["in_flight"], model["ready"], model["asked"]) == (2, 1, 2)
    assert (first["outstanding"], first["slots"], first["job_id"]) == (1, 1, "1")
    assert first["ends_at"] == 4e9
    assert (second["phase"], second["health"]) == ("LOADING", "")


def test_a_key_sees_its_own_use_and_models_and_the_owner_all(home: Path) -> None:
    path = directory.keys_path(home)
    alice, _ = key_store.add(
        path, "alice", models=("m",), limits=KeyLimits(rpm=2, daily_tokens=999)
    )
    owner, _ = key_store.add(path, key_store.OWNER)
    gone, _ = key_store.add(path, "gone")
    key_store.revoke(path, "gone")
    with serve(Engine()) as url, run_gateway(home, {"m": url, "n": url}) as gateway:
        mine = {"authorization": f"Bearer {alice}"}
        for _ in range(4):
            body = {"model": "m", "messages": [], "usage": USAGE}
            httpx.post(gateway.url + "/v1/chat/completions", json=body, headers=mine)
        gateway.post({"model": "n"})
        seen = {name: look(gateway, key) for name, key in (("alice", alice), ("owner", owner))}
        other = {"model": "n"}
        refused = httpx.get(gateway.url + "/dashboard/data", params=other, headers=mine)

    assert [one["name"] for one in seen["alice"]["models"]] == ["m"]
    assert [one["name"] for one in seen["owner"]["models"]] == ["m", "n"]
    # The two over her limit were refused by their heads, before any model was known.
    assert seen["alice"]["windows"]["5"]["requests"] == 2
    assert seen["owner"]["windows"]["5"]["requests"] == 5
    (own,) = seen["alice"]["keys"]
    assert own["limits"] == {"rpm": 2, "daily_tokens": 999}
    assert own["minute"] == {"requests": 2, "tokens": 30}
    assert own["day"]["tokens"] == own["total"]["tokens"] == 30
    assert {one["name"] for one in seen["owner"]["keys"]} >= {"alice", "owner", "tester"}
    assert refused.status_code == 403
    for secret in (alice, owner, gone):
        assert secret not in json.dumps(seen)


def test_a_refused_models_file_is_shown_without_its_folder(gateway: Running, home: Path) -> None:
    (home.parent / "models.yaml").write_text("models: [{name: m, engine: nothing}]\n")
    told = wait_until(lambda: look(gateway)["models_file"]["refused"])

    assert "models.yaml" in told
    assert str(home.parent) not in told
    assert [model["name"] for model in look(gateway)["models"]] == ["m"]


def test_several_workers_show_the_same(home: Path) -> None:
    with serve(Engine()) as url, run_gateway(home, {"m": url}, "--workers", "2") as gateway:
        wait_until(lambda: look(gateway)["gateway"]["workers"] == 2)
        for _ in range(20):
            gateway.post({"usage": USAGE})
        for _ in range(6):
            assert look(gateway)["windows"]["1"]["requests"] == 20
        wait_until(lambda: look(gateway)["keys"][0]["total"]["tokens"] == 300)


def test_looking_is_neither_counted_nor_logged(gateway: Running, home: Path) -> None:
    for _ in range(3):
        look(gateway)
    gateway.post({})
    path = wait_until(lambda: next(iter(home.glob("gateways/*/access.log")), None))
    wait_until(path.read_text)
    text = gateway.metrics()

    assert len(path.read_text().splitlines()) == 1
    assert re.findall(r"^hpc_serve_gateway_requests_total.* ([\d.]+)$", text, re.MULTILINE) == [
        "1.0"
    ]


def test_a_sidecar_has_no_dashboard(tmp_path: Path) -> None:
    with (
        serve(Engine(), tmp_path / "e.sock") as path,
        run_sidecar(tmp_path, ["--upstream-unix", path]) as door,
        door.client() as client,
    ):
        assert client.get("/dashboard").status_code == 404
        assert httpx.get(door.url + "/dashboard", trust_env=False).status_code == 401
