"""The variables of an ended gateway lead ``chat`` to no neighbour at its port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hpc.cli import chat
from hpc.errors import GatewayError
from hpc.keys import store
from hpc.state import directory
from tests.fakes.gateway import publish
from tests.fakes.login_node import free_port

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_key_goes_to_no_port_of_an_ended_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """Other keys, and other machines, are the user's own choice."""
    home = directory.home(str(tmp_path / "home"))
    url = f"http://{host}:{free_port()}/v1"
    own = store.add(directory.keys_path(home), "me")[0]
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("OPENAI_API_KEY", own)
    with pytest.raises(GatewayError, match="the key is not sent"):
        chat.find(home)
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    assert chat.find(home) == chat.ChatServer(url, "another")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_gateway_of_this_machine_proves_itself_by_each_of_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """The name in the variables does not decide whether the gateway is proved."""
    home = directory.home(str(tmp_path / "home"))
    record = publish(home, free_port())
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://{host}:{record.port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "hs-any")
    assert chat.find(home).home == home
