"""Aliases, rules, fallbacks and ceilings, as a client of a running gateway meets them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from hpc.keys import store as key_store
from hpc.keys.limits import KeyLimits
from hpc.state import directory
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import environment, run_gateway, save_service, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from tests.contract.gateway.programs import Running

DEAD = "http://127.0.0.1:1"


class Lab:
    """A gateway in front of a big and a small engine, and its models.yaml."""

    def __init__(self, home: Path, gateway: Running, urls: dict[str, str]) -> None:
        self.home, self.gateway, self.urls = home, gateway, urls

    def say(self, gateway: dict[str, Any], **more: dict[str, Any]) -> None:
        """Put a policy into force."""
        before = self.config()
        entries = [
            {"name": name, "backend": "vllm", "backend_url": url, **more.get(name, {})}
            for name, url in self.urls.items()
        ]
        file = self.home.parent / "models.yaml"
        file.write_text(json.dumps({"models": entries, "gateway": gateway}))
        self.gateway.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.config() != before)

    def config(self) -> str:
        """Return the hash of the configuration in force."""
        with self.gateway.client() as client:
            found: str = client.get("/version").json()["config"]
            return found

    def ask(self, model: str, **more: Any) -> httpx.Response:
        """Ask once."""
        return self.gateway.post({"model": model, **more})

    def answers(self, model: str, **more: Any) -> str:
        """Return the name of the engine that answers."""
        answer = self.ask(model, **more)
        assert answer.status_code == 200, answer.text
        found: str = answer.json()["engine"]
        return found


@pytest.fixture
def big() -> Engine:
    return Engine("big")


@pytest.fixture
def small() -> Engine:
    return Engine("small")


@pytest.fixture
def lab(home: Path, big: Engine, small: Engine) -> Iterator[Lab]:
    with serve(big) as one, serve(small) as two:
        urls = {"big": one, "small": two}
        with run_gateway(home, urls) as gateway:
            yield Lab(home, gateway, urls)


def test_an_alias_is_listed_and_answered_under_the_models_own_name(lab: Lab, big: Engine) -> None:
    lab.say({"aliases": {"gpt-4o": "big", "lost": "gone"}})
    answer = lab.ask("gpt-4o", messages=[{"role": "user", "content": 'é\u2028"\\'}], wait=0.0)
    assert answer.json()["engine"] == "big"
    assert answer.headers["x-gateway-model"] == "big"
    assert big.seen[-1].body == {
        "model": "big",
        "messages": [{"role": "user", "content": 'é\u2028"\\'}],
        "wait": 0.0,
    }
    assert "x-gateway-model" not in lab.ask("big").headers
    with lab.gateway.client() as client:
        listed = client.get("/v1/models").json()["data"]
        assert [entry["id"] for entry in listed] == ["big", "small", "gpt-4o"]
        assert client.get("/v1/models/gpt-4o").json()["alias_of"] == "big"
        assert client.get("/v1/models/lost").status_code == 404
    lost = lab.ask("lost")
    assert (lost.status_code, lost.json()["error"]["code"]) == (404, "model_not_found")
    assert "'lost'" in lost.json()["error"]["message"]

    def logged() -> list[str]:
        logs = (lab.home / "gateways").rglob("access.log")
        lines = [line for log in logs for line in log.read_text().splitlines()]
        return [json.loads(line)["model"] for line in lines]

    wait_until(lambda: {"big", "other"} <= set(logged()))


def test_rules_look_at_what_is_asked(lab: Lab) -> None:
    lab.say(
        {
            "aliases": {"auto": "small"},
            "rules": [
                {"use": "big", "models": ["auto"], "prompt_tokens_over": 1000},
                {"use": "big", "models": ["auto"], "max_tokens_over": 500},
                {"use": "small", "keys": ["student"]},
            ],
        }
    )
    long = [{"role": "user", "content": "x" * 5000}]
    assert lab.answers("auto") == "small"
    assert lab.answers("auto", messages=long) == "big"
    assert lab.answers("auto", max_tokens=501) == "big"
    assert lab.answers("small", messages=long) == "small"
    assert lab.answers("big") == "big"
    lab.gateway.key, _ = key_store.add(directory.keys_path(lab.home), "student")
    wait_until(lambda: lab.ask("big").status_code == 200)
    assert lab.answers("big") == "small"
    assert lab.ask("nobody").status_code == 404


def test_a_fallback_answers_while_the_model_cannot(lab: Lab, big: Engine) -> None:
    lab.urls["dead"] = DEAD
    save_service(lab.home, "queued")
    lab.say({}, dead={"fallback": ["small"]}, big={"fallback": ["small"]})
    assert lab.answers("big") == "big"
    answer = lab.ask("dead")
    assert (answer.json()["engine"], answer.headers["x-gateway-model"]) == ("small", "small")
    big.status = 503
    assert lab.answers("big") == "small"
    big.status = 400
    assert lab.ask("big").status_code == 400


def test_a_stream_falls_back_too(lab: Lab) -> None:
    lab.urls["dead"] = DEAD
    lab.say({}, dead={"fallback": ["small"]})
    body = {"model": "dead", "messages": [], "stream": True}
    with lab.gateway.client() as client:
        answer = client.post("/v1/chat/completions", json=body)
    assert answer.headers["x-gateway-model"] == "small"
    assert answer.text.endswith("data: [DONE]\n\n")
    assert answer.text.count("[DONE]") == 1


def test_no_way_leads_a_key_to_a_model_that_is_not_on_its_list(lab: Lab) -> None:
    lab.urls["dead"] = DEAD
    path = directory.keys_path(lab.home)
    lab.say(
        {
            "aliases": {"gpt": "big", "mini": "small"},
            "rules": [{"use": "big", "headers": {"x-big": ""}}],
        },
        dead={"fallback": ["big"]},
    )
    lab.gateway.key, _ = key_store.add(path, "few", models=("small", "dead", "gpt"))
    wait_until(lambda: lab.ask("small").status_code == 200)
    assert lab.answers("mini") == "small"
    assert lab.answers("gpt") == "big"
    assert lab.ask("big").status_code == 403
    with lab.gateway.client() as client:
        body = {"model": "small", "messages": []}
        led = client.post("/v1/chat/completions", json=body, headers={"x-big": "1"})
    assert (led.status_code, "'big'" in led.json()["error"]["message"]) == (403, True)
    dead = lab.ask("dead")
    assert dead.status_code in {502, 503}
    assert "engine" not in dead.json()
    with lab.gateway.client() as client:
        listed = client.get("/v1/models").json()["data"]
        assert [entry["id"] for entry in listed] == ["dead", "small", "gpt", "mini"]
        assert set(client.get("/version").json()["models"]) == {"small", "dead"}


def test_a_ceiling_is_told_and_holds_for_who_says_nothing(
    lab: Lab, big: Engine, small: Engine
) -> None:
    lab.urls["dead"] = DEAD
    lab.say(
        {},
        big={"max_tokens": 100, "max_prompt_tokens": 1000},
        small={"max_tokens": 50},
        dead={"fallback": ["small", "big"]},
    )
    over = lab.ask("big", max_tokens=101).json()["error"]
    assert "101" in over["message"]
    assert "100" in over["message"]
    assert over["param"] == "max_tokens"
    long = lab.ask("big", messages=[{"role": "user", "content": "x" * 5000}])
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert lab.answers("big", max_tokens=100) == "big"
    assert lab.answers("big") == "big"
    assert big.seen[-1].body["max_tokens"] == 100
    assert lab.answers("dead", max_tokens=51) == "big"
    assert lab.answers("dead") == "small"
    assert small.seen[-1].body["max_tokens"] == 50
    body = {"model": "dead", "input": "x"}
    assert lab.gateway.post(body, "/v1/embeddings").status_code == 200
    assert "max_tokens" not in small.seen[-1].body
    path = directory.keys_path(lab.home)
    lab.gateway.key, _ = key_store.add(path, "short", limits=KeyLimits(max_tokens=20))
    wait_until(lambda: lab.ask("small").status_code == 200)
    assert lab.answers("dead") == "small"
    assert small.seen[-1].body["max_tokens"] == 20


def test_status_warns_of_what_leads_nowhere(lab: Lab) -> None:
    lab.say({"aliases": {"old": "gone"}})
    line = [sys.executable, "-m", "hpc", "gateway", "status", "--home", str(lab.home)]

    def shown() -> str:
        done = subprocess.run(
            line, capture_output=True, text=True, env=environment(), cwd=lab.home, check=False
        )
        return done.stdout

    wait_until(lambda: "warns: the alias 'old' stands for 'gone', which nobody serves" in shown())
    save_service(lab.home, "gone")
    wait_until(lambda: "warns" not in shown())
