"""Fixtures: a state directory, an engine behind a gateway, and a certificate."""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway_lite.http.listeners import Tls
from hpc.state import directory
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import run_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contract.gateway.programs import Running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return an empty state directory."""
    return directory.home(str(tmp_path / "home"))


@pytest.fixture
def engine() -> Engine:
    """Return an engine that is not served yet."""
    return Engine()


@pytest.fixture
def gateway(home: Path, engine: Engine) -> Iterator[Running]:
    """Run a gateway in front of one engine that serves the model ``m``."""
    with serve(engine) as url, run_gateway(home, {"m": url}) as running:
        yield running


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
