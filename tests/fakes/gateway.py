"""A server in the place of the gateway, as far as its clients see: a record, and the proof."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hpc import peer_proof
from hpc.model import GatewayRecord
from hpc.processes import by_pid
from hpc.state import directory
from hpc.version import __version__

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler
    from pathlib import Path


def publish(home: Path, port: int, **more: Any) -> GatewayRecord:
    """Write and return the record of a gateway in this process.

    Args:
        home: the state directory.
        port: its TCP port on 127.0.0.1.
        more: further fields of the record.
    """
    now = time.time()
    plain = GatewayRecord(
        hostname=socket.gethostname(),
        host="127.0.0.1",
        port=port,
        pid=os.getpid(),
        started_at=now,
        beat_at=now,
        version=__version__,
        proof_secret=peer_proof.new_secret(),
        process=by_pid.identity(os.getpid()) or "",
    )
    record = replace(plain, **more)
    directory.save_gateway(home, record)
    return record


def answer_challenge(asked: BaseHTTPRequestHandler, secret: str) -> None:
    """Answer a GET of /healthz as the gateway with a secret does."""
    challenge = asked.headers.get(peer_proof.CHALLENGE, "")
    unix = asked.connection.family == socket.AF_UNIX
    place = None if unix else asked.connection.getsockname()[:2]
    asked.send_response(200)
    asked.send_header(peer_proof.PROOF, peer_proof.prove_gateway(secret.encode(), place, challenge))
    asked.send_header("content-length", "3")
    asked.end_headers()
    asked.wfile.write(b"ok\n")
