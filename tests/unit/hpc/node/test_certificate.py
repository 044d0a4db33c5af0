"""The certificate of a replica: new at each start, its key for its owner only, and pinned."""

from __future__ import annotations

import ssl
import stat
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from gateway_lite.upstream.pool import tls_context
from hpc.errors import EngineError
from hpc.node.certificate import make_certificate

if TYPE_CHECKING:
    from pathlib import Path


def meet(server: ssl.SSLContext, client: ssl.SSLContext) -> str | None:
    """Return the version of TLS on which two sides agree."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname="replica")
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return far.version()


def test_the_pinned_certificate_is_taken_and_every_other_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    own, other = make_certificate(tmp_path), make_certificate(tmp_path / "other")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(own.cert, own.key)
    assert meet(server, tls_context(own.pem)) == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        meet(server, tls_context(other.pem))
    with pytest.raises(ssl.SSLCertVerificationError):
        meet(server, tls_context(None))


def test_older_tls_is_refused(tmp_path: Path) -> None:
    own = make_certificate(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(own.cert, own.key)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        meet(server, tls_context(own.pem))


def test_key_and_certificate_are_new_each_time_and_private(tmp_path: Path) -> None:
    first = make_certificate(tmp_path)
    key = first.key.read_bytes()
    first.key.chmod(0o644)
    second = make_certificate(tmp_path)
    assert (second.pem == first.pem, second.key.read_bytes() == key) == (False, False)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (second.key, second.cert)] == [0o600] * 2
    read = x509.load_pem_x509_certificate(second.pem.encode())
    public = read.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public.curve.name == "secp256r1"
    assert read.not_valid_before_utc.year < 2001
    assert read.not_valid_after_utc.year == 9999


def test_a_folder_that_takes_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"^cannot write .*/none/sidecar.key: No such file"):
        make_certificate(tmp_path / "none")
