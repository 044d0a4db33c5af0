"""The TLS certificate of one start of a replica: self-signed, and pinned by the gateway.

No authority signs it and no name in it is looked at. The gateway takes exactly the certificate of
the replica's record, which lies in the state directory of mode 0700.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from hpc.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

BEGIN = datetime(2000, 1, 1, tzinfo=timezone.utc)
"""Begin of the validity. The certificate ends with its replica; clocks of nodes may be wrong."""
END = datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone.utc)
"""End of the validity: RFC 5280's value for certificates without one."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key.

    Attributes:
        cert: PEM file with the certificate.
        key: PEM file with the key, mode 0600.
        pem: content of the certificate's file.
    """

    cert: Path
    key: Path
    pem: str


def make_certificate(folder: Path) -> Certificate:
    """Return a new certificate for the sidecar, with its files in a private folder.

    Args:
        folder: the job's private folder.

    Raises:
        EngineError: a file cannot be written.
    """
    key, pem = _new_pair()
    found = Certificate(folder / "sidecar.crt", folder / "sidecar.key", pem)
    try:
        _write(found.key, key)
        _write(found.cert, pem.encode())
    except OSError as error:
        raise EngineError(f"cannot write {error.filename}: {error.strerror}") from error
    return found


def _new_pair() -> tuple[bytes, str]:
    """Return a key and a certificate, both as PEM."""
    # Only here: the import takes longer than the certificate, and most replicas have none.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hpc-serve replica")])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGIN)
        .not_valid_after(END)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return plain, signed.public_bytes(serialization.Encoding.PEM).decode()


def _write(path: Path, data: bytes) -> None:
    """Write a file with mode 0600 from its creation on; an engine may have started before."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
