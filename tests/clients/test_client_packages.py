"""The packages of clients that this environment has, from a first call to a tool's second turn."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.clients.catalog import CLIENTS, PASSED, PROGRAMS, outcomes
from tests.clients.scripted import MODEL, ScriptedEngine
from tests.contract.gateway.engines import serve
from tests.contract.gateway.programs import run_gateway
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.clients.catalog import Client
    from tests.contract.gateway.programs import Running

INSTALLED = ("openai (Python)", "anthropic (Python)", "ollama (Python)", "httpx")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, ScriptedEngine]]:
    engine = ScriptedEngine()
    home = tmp_path_factory.mktemp("clients") / "home"
    with serve(engine) as url, run_gateway(home, {MODEL: url}) as gateway:  # type: ignore[arg-type]
        yield gateway, engine


@pytest.mark.parametrize(
    "client", [one for one in CLIENTS if one.name in INSTALLED], ids=lambda one: one.program
)
def test_an_installed_client_gets_to_a_tools_second_turn(
    client: Client, started: tuple[Running, ScriptedEngine]
) -> None:
    gateway, engine = started
    settings = {"OPENAI_BASE_URL": f"{gateway.url}/v1", "OPENAI_API_KEY": gateway.key}
    argv = [sys.executable, str(PROGRAMS / client.program), MODEL, *client.arguments]

    done = subprocess.run(
        argv,
        env={**os.environ, **settings, "no_proxy": "*"},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )

    assert set(outcomes(client, done, engine.streams).values()) == {PASSED}, done
