"""An impostor at the address of a gateway's record gets a challenge, and nothing else."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from hpc import peer_proof
from hpc.gateway import control, reach
from hpc.gateway.proved_transport import ProvedTransport
from hpc.peer_proof import NotProved
from hpc.state import directory
from tests.contract.gateway.conftest import engine, gateway, home
from tests.fakes.gateway import publish
from tests.security.neighbour_on_login.impostors import PROMPT, impostor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpc.model import GatewayRecord
    from tests.contract.gateway.programs import Running

__all__ = ["engine", "gateway", "home"]

KEY = "hs-the-owners-key"
MODES = ("yes", "slow", "endless", "malformed", "silent", "early", "replay=" + "0" * 64)


async def post(record: GatewayRecord | None) -> httpx.Response:
    """Send a prompt with the key, as a batch's worker does."""
    transport = ProvedTransport(lambda: record)
    headers = {"authorization": f"Bearer {KEY}"}
    request = httpx.Request("POST", f"{reach.URL}/v1/chat/completions", headers=headers)
    request = httpx.Request("POST", request.url, headers=headers, content=PROMPT)
    try:
        answer = await transport.handle_async_request(request)
        await answer.aread()
    finally:
        await transport.aclose()
    return answer


def refused(record: GatewayRecord) -> None:
    """Try every way of ours to a gateway."""
    assert not reach.proves(record)
    with pytest.raises(reach.NotReached):
        reach.get(record, "/v1/models", KEY)
    with pytest.raises(httpx.ConnectError):
        asyncio.run(post(record))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "PROVE_S", 1.0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Yield a folder where everybody may make a Unix socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.usefixtures("patient")
def test_an_impostor_gets_a_challenge_and_nothing_else(
    home: Path, tmp_path: Path, mode: str
) -> None:
    with impostor(tmp_path, mode) as other:
        record = publish(home, other.port)
        refused(record)
        assert other.connections == 3
        assert other.got.count(peer_proof.CHALLENGE.encode()) == 3
        assert other.learned_nothing(KEY, record.proof_secret)


@pytest.mark.usefixtures("patient")
def test_a_drip_of_bytes_does_not_hold_us_for_ever(home: Path, tmp_path: Path) -> None:
    """Its whole answer takes 60 s, and each byte comes in time."""
    with impostor(tmp_path, "slow") as other:
        record = publish(home, other.port)
        began = time.monotonic()
        refused(record)
        assert time.monotonic() - began < 50


def test_the_true_gateways_answer_to_a_relay_proves_another_address(
    home: Path, gateway: Running, tmp_path: Path
) -> None:
    true = directory.load_gateway(home, socket.gethostname())
    assert true is not None
    assert reach.proves(true)
    with impostor(tmp_path, f"relay={true.port}") as other:
        record = replace(true, port=other.port)
        refused(record)
        assert other.learned_nothing(KEY, true.proof_secret)
        assert other.connections == 3


def test_a_relay_at_the_same_port_of_another_address_is_passed_over(
    home: Path, gateway: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with two addresses, as of two login nodes; a neighbour relays from the first."""
    true = directory.load_gateway(home, socket.gethostname())
    assert true is not None
    looked_up = socket.getaddrinfo

    def two(host: Any, *rest: Any, **more: Any) -> Any:
        if host != "login.site.org":
            return looked_up(host, *rest, **more)
        return [one for each in places for one in looked_up(each, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    with impostor(tmp_path, f"relay={true.port}", f"127.0.0.2:{true.port}") as other:
        named = replace(true, host="login.site.org", socket=None)
        places = ["127.0.0.2"]
        refused(named)
        assert other.connections == 3
        places = ["127.0.0.2", "127.0.0.1"]
        assert reach.get(named, "/v1/models", gateway.key).status == httpx.codes.OK
        assert asyncio.run(post(named)).status_code == httpx.codes.UNAUTHORIZED
        assert reach.proved_address(named) == "127.0.0.1"
        assert other.connections == 6
        assert other.learned_nothing(KEY, gateway.key, true.proof_secret)


def test_a_unix_socket_of_another_user_is_not_ours(
    home: Path, gateway: Running, tmp_path: Path, open_folder: Path
) -> None:
    """The relay is to the true TCP port: its proof is of another address than a Unix socket."""
    true = directory.load_gateway(home, socket.gethostname())
    assert true is not None
    path = str(open_folder / "s")
    with impostor(tmp_path, f"relay={true.port}", path) as other:
        record = replace(true, socket=path)
        assert not reach.proves(record, path)
        reach.connect(record).close()  # over the port, which is the true gateway's
        asyncio.run(post(record))
        assert other.learned_nothing(KEY, PROMPT, true.proof_secret)
        if os.geteuid() == 0:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
                with pytest.raises(NotProved, match="user 65534"):
                    reach.check_user(sock)
            assert other.got.count(peer_proof.CHALLENGE.encode()) == 0


def test_a_proof_is_of_one_challenge_and_one_start(
    home: Path, gateway: Running, tmp_path: Path
) -> None:
    true = directory.load_gateway(home, socket.gethostname())
    assert true is not None
    challenge = peer_proof.new_challenge()
    said = httpx.get(
        f"{gateway.url}/healthz", headers={peer_proof.CHALLENGE: challenge}, trust_env=False
    )
    with impostor(tmp_path, f"replay={said.headers[peer_proof.PROOF]}") as other:
        refused(replace(true, port=other.port))
        assert other.learned_nothing(KEY)
    refused(replace(true, proof_secret=peer_proof.new_secret(), socket=None))


@pytest.mark.parametrize("secret", ["", "0" * 63, "é" * 64, None])
def test_a_record_without_a_secret_leads_nowhere(home: Path, tmp_path: Path, secret: str) -> None:
    """Anybody can compute a proof by an empty secret."""
    with impostor(tmp_path, "yes") as other:
        refused(publish(home, other.port, proof_secret=secret))
        assert other.connections == 0


def test_a_torn_record_is_no_record(home: Path, tmp_path: Path) -> None:
    with impostor(tmp_path, "yes") as other:
        publish(home, other.port)
        path = directory.gateway_dir(home, socket.gethostname()) / "gateway.json"
        whole = path.read_text()
        for length in (0, 1, len(whole) // 2, len(whole) - 3):
            path.write_text(whole[:length])
            assert control.find(home) is None
        assert other.connections == 0


@pytest.mark.parametrize("age_s", [46.0, 86400.0, -46.0, -86400.0])
def test_a_stale_record_of_another_machine_is_not_even_tried(
    home: Path, tmp_path: Path, age_s: float
) -> None:
    """From the past, or from the future, as by a clock that was set back."""
    with impostor(tmp_path, "yes", "[::1]:0") as other:
        record = publish(
            home, other.port, hostname="n1", host="::1", beat_at=time.time() - age_s, process=""
        )
        assert control.find_elsewhere(home) is None
        assert not reach.is_living(record)
        assert other.connections == 0


def test_a_fresh_record_of_another_machine_is_proved(home: Path, tmp_path: Path) -> None:
    with impostor(tmp_path, "yes", "[::1]:0") as other:
        record = publish(home, other.port, hostname="n1", host="::1", process="")
        assert reach.is_living(record)
        assert control.find_elsewhere(home) is None
        assert other.connections == 1
        assert other.learned_nothing(record.proof_secret)


def test_web_proxies_of_the_environment_see_nothing(
    home: Path, gateway: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = directory.load_gateway(home, socket.gethostname())
    assert true is not None
    with impostor(tmp_path, "yes") as other:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            for spelled in (name, name.lower()):
                monkeypatch.setenv(spelled, f"http://127.0.0.1:{other.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert reach.get(true, "/v1/models", gateway.key).status == httpx.codes.OK
        assert asyncio.run(post(true)).status_code == httpx.codes.UNAUTHORIZED
        assert other.connections == 0


def test_secrets_are_in_no_message_and_no_repr(home: Path, tmp_path: Path) -> None:
    with impostor(tmp_path, "yes") as other:
        record = publish(home, other.port)
        with pytest.raises(reach.NotReached) as caught:
            reach.get(record, "/v1/models", KEY)
    shown = repr(caught.value) + str(caught.value) + repr(record)
    assert KEY not in shown
    assert record.proof_secret not in shown
