"""Where a gateway listens: TCP, a Unix socket, TLS."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import re
import socket
import ssl
import stat
from typing import TYPE_CHECKING

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway_lite.http import listeners
from gateway_lite.http.listeners import Address, Tls, check_open, listen_unix
from hpc.errors import ConfigError, GatewayError
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import BODY, run_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mine"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def tls(folder: Path) -> Tls:
    """Return a certificate for this machine alone, made now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.timezone.utc)
    here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([here]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = Tls(str(folder / "cert.pem"), str(folder / "key.pem"))
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    (folder / "key.pem").chmod(0o600)
    return paths


@pytest.fixture
def url() -> Iterator[str]:
    with serve(Engine()) as url:
        yield url


@pytest.mark.parametrize("workers", ["1", "2"])
def test_tcp_unix_and_tls_serve_the_same(
    home: Path, folder: Path, tls: Tls, url: str, workers: str
) -> None:
    path = folder / "gateway.sock"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    more = ["--unix", str(path), "--tls-cert", tls.cert, "--tls-key", tls.key]
    more += ["--tls-host", "127.0.0.1", "--tls-port", str(port), "--workers", workers]
    with run_gateway(home, {"m": url}, *more) as gateway:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        auth = {"authorization": f"Bearer {gateway.key}"}
        trust = ssl.create_default_context(cafile=tls.cert)
        ways = [
            gateway.client(),
            httpx.Client(
                transport=httpx.HTTPTransport(uds=str(path)), base_url="http://x", headers=auth
            ),
            httpx.Client(
                verify=trust, base_url=f"https://127.0.0.1:{port}", headers=auth, trust_env=False
            ),
        ]
        for way in ways:
            with way as client:
                assert client.get("/v1/models").status_code == 200
                assert client.post("/v1/chat/completions", json=BODY).status_code == 200
                streamed = client.post(
                    "/v1/chat/completions", json={**BODY, "stream": True, "n": 5}
                )
                assert streamed.text.endswith("data: [DONE]\n\n")
                bare = client.post("/v1/chat/completions", json=BODY, headers={"authorization": ""})
                assert bare.status_code == 401
        assert gateway.terminate() == 0

    assert not path.exists()


def test_a_socket_is_closed_to_others_from_its_first_moment(folder: Path) -> None:
    before = os.umask(0)
    try:
        with listen_unix(folder / "s"):
            assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o600
            assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_a_dead_socket_is_replaced_and_a_living_one_is_not(folder: Path) -> None:
    path = folder / "s"
    listen_unix(path).close()
    assert path.exists()
    with listen_unix(path), pytest.raises(GatewayError, match="another process listens there"):
        listen_unix(path)


def test_a_file_in_the_way_stays(folder: Path) -> None:
    path = folder / "s"
    path.write_text("mine")
    with pytest.raises(GatewayError, match="the existing file is not a socket"):
        listen_unix(path)

    assert path.read_text() == "mine"


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o1777])
def test_no_socket_is_made_where_others_may_write(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    with pytest.raises(ConfigError, match="others may write to"):
        listen_unix(folder / "s")

    assert list(folder.iterdir()) == []


def test_what_cannot_be_opened_leaves_nothing_open(folder: Path, tls: Tls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(GatewayError, match=f"cannot listen on 127.0.0.1:{port}"):
            listeners.open_all(
                Address("127.0.0.1", 0, tls=tls, tls_host="127.0.0.1", tls_port=port)
            )
    with pytest.raises(ConfigError, match="no such file"):
        listeners.open_all(Address("127.0.0.1", port, unix=str(folder / "none" / "s")))
    listeners.close_all(listeners.open_all(Address("127.0.0.1", port)))


def test_a_key_open_to_others_is_not_used(folder: Path, tls: Tls) -> None:
    (folder / "key.pem").chmod(0o640)
    with pytest.raises(ConfigError, match=r"is open to others \(mode 640\)"):
        listeners.tls_context(tls)


@pytest.mark.parametrize("text", ["", "no certificate"])
def test_a_certificate_that_is_none_is_told(folder: Path, tls: Tls, text: str) -> None:
    (folder / "cert.pem").write_text(text)
    with pytest.raises(ConfigError, match=r"cannot use .*cert\.pem with .*key\.pem: "):
        listeners.tls_context(tls)


def test_everybody_is_let_in_from_this_machine_only(tls: Tls) -> None:
    for address in (
        Address("127.0.0.1", 1),
        Address("::1", 1, unix="/s"),
        Address("localhost", 1),
        Address("127.0.0.1", 1, tls=tls, tls_host="127.0.0.1"),
        Address("ip6-localhost", 1, tls=tls, tls_host="::ffff:127.0.0.2"),
    ):
        check_open(address, anonymous=True)
    for address, named in (
        (Address("0.0.0.0", 1), "0.0.0.0"),
        (Address("::", 1), "::"),
        (Address("login1", 1), "login1"),
        (Address("127.0.0.1", 1, tls=tls), "0.0.0.0"),
        (Address("login1", 1, tls=tls, tls_host="127.0.0.1"), "login1"),
        (Address("login1", 1, tls=tls, tls_host="::"), "login1 and ::"),
    ):
        check_open(address, anonymous=False)
        told = f"allowed on loopback and Unix sockets only, and this gateway listens on {named}"
        with pytest.raises(ConfigError, match=re.escape(told) + "$"):
            check_open(address, anonymous=True)


def test_what_is_in_the_way_is_one_sentence(home: Path, folder: Path) -> None:
    (folder / "s").write_text(json.dumps({}))
    with (
        pytest.raises(AssertionError, match=r"gateway-lite: cannot listen on .*: the existing"),
        run_gateway(home, {}, "--unix", str(folder / "s")),
    ):
        pytest.fail("it runs")
