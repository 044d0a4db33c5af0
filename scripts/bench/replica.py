"""A gateway and the sidecar of a replica before the benchmark's engine, as one program.

    python -m scripts.bench.replica --work DIR --port N --engine N [--tls]

The state directory, with a client key in it, is DIR/home.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpc.model import Endpoint, Phase, ServiceSpec
from hpc.state import directory, files

MODEL = "mock"
POLL_S = 0.02


def sidecar(
    work: Path,
    engine: int,
    name: str = MODEL,
    number: int = 0,
    *,
    tls: bool = False,
    project: Path | None = None,
) -> tuple[subprocess.Popen[bytes], Endpoint]:
    """Return a sidecar and the record of its replica.

    Args:
        work: folder; the state directory is below.
        engine: port of the engine.
        name: name of the service.
        number: number of the replica.
        tls: whether the sidecar gets a certificate.
        project: the checkout that runs; None is this one.
    """
    home = directory.home(str(work / "home"))
    directory.new_secret(home, name, number)
    ready = work / f"{name}-{number}.ready"
    ready.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "gateway_lite", "sidecar", "--upstream-port", str(engine)]
    argv += ["--secret-file", str(directory.secret_path(home, name, number))]
    argv += ["--ready-file", str(ready)]
    more: dict[str, Any] = {}
    if tls:
        from hpc.node.certificate import make_certificate  # noqa: PLC0415 - only with TLS

        made = make_certificate(work)
        argv += ["--tls-cert", str(made.cert), "--tls-key", str(made.key)]
        more["certificate"] = made.pem
    path = {} if project is None else {"PYTHONPATH": str(project)}
    started = subprocess.Popen(argv, env={**os.environ, **path}, cwd=project)
    while not ready.exists():
        if started.poll() is not None:
            raise SystemExit(1)
        time.sleep(POLL_S)
    port = int(json.loads(files.read_text(ready) or "{}")["port"])
    return started, Endpoint(
        service=name,
        replica=number,
        model=name,
        host="127.0.0.1",
        port=port,
        phase=Phase.READY,
        job_id="1",
        ends_at=None,
        beat_at=time.time(),
        **more,
    )


def main() -> None:
    """Run both until one ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engine", type=int, required=True)
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args()
    home = directory.home(str(options.work / "home"))
    spec = ServiceSpec(name=MODEL, engine="vllm", server="vllm", model="org/mock")
    directory.save_spec(home, spec)
    door, record = sidecar(options.work, options.engine, tls=options.tls)
    directory.save_endpoint(home, record)
    argv = [sys.executable, "-m", "gateway_lite", "run", "--home", str(home)]
    front = subprocess.Popen([*argv, "--port", str(options.port)])
    while door.poll() is None and front.poll() is None:
        time.sleep(directory.BEAT_S)
        directory.save_endpoint(home, replace(record, beat_at=time.time()))


if __name__ == "__main__":
    main()
