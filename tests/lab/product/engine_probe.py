"""Runs on a compute node: starts one engine in its image as hpc.node does, and reports on it.

Usage: engine_probe.py SERVER IMAGE MODEL; prints JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from hpc import apptainer, assets, engines
from hpc.engines.failure_causes import explain
from hpc.model import Resources, ServiceSpec
from hpc.processes import programs

KEY = "key-$(touch /tmp/evaluated)"
HOSTILE = "$HOME `id` 'q' \"d\""
QUESTION = {"messages": [{"role": "user", "content": "Who wrote Emma?"}], "temperature": 0}


def main(server: str, image: str, model: str) -> None:
    run = tempfile.mkdtemp(prefix="probe-", dir="/tmp")
    spec = ServiceSpec(
        name="demo",
        engine="vllm" if server == "vllm" else "llamacpp",
        server=server,  # type: ignore[arg-type]
        model=model,
        image=image,
        resources=Resources(cpus=1, mem_mb=1024),
        env={"HOSTILE": HOSTILE},
        engine_args={"dtype": "float32", "enforce-eager": True} if server == "vllm" else {},
    )
    place = engines.EngineContext(
        socket=f"{run}/engine.sock",
        port=None,
        secret=KEY,
        devices=(),
        weights_cached=True,
        hf_home="/nowhere",
        run_dir=run,
        gguf_server=str(assets.script("gguf_api_server.py")),
    )
    launch = engines.launch(spec, place)
    for name in launch.folders:
        Path(run, name).mkdir(mode=0o700)
    env = apptainer.container_env(launch.env, {**os.environ, "LEAK": "of the job"})
    inside = command(image, ["sh", "-c", "env -0; touch ~/x; pwd"], launch, run)
    seen = subprocess.run(inside, env=env, check=True, capture_output=True, text=True).stdout
    argv = command(image, launch.argv, launch, run)
    running = programs.spawn(argv, log=Path(run, "log"), env=env, cwd=Path(run))
    try:
        report = {"ready": ready(place, running, launch), **answers(place)}
        # What it says while it is being stopped is not the log of a healthy engine.
        served = Path(run, "log").read_text(errors="replace")
    finally:
        code = programs.stop(running, grace_s=20)
    tail = Path(run, "log").read_text(errors="replace")
    evaluated = Path("/tmp/evaluated").exists()
    report |= {"inside": seen, "code": code, "evaluated": evaluated, "argv": " ".join(argv)}
    report |= {"cause": explain(spec, 1, served), "log": tail[-3000:]}
    sys.stdout.write(json.dumps(report) + "\n")


def command(image: str, argv: object, launch: engines.Launch, run: str) -> tuple[str, ...]:
    return apptainer.exec_argv(image, tuple(argv), run_dir=run, binds=launch.binds)  # type: ignore[arg-type]


def client(place: engines.EngineContext, key: str) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=place.socket)
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(transport=transport, base_url="http://engine", headers=headers, timeout=60)


def ready(
    place: engines.EngineContext, running: programs.Process[str], launch: engines.Launch
) -> bool:
    deadline = time.monotonic() + 240
    with client(place, KEY) as http:
        while time.monotonic() < deadline and running.poll() is None:
            try:
                if http.get(launch.probe.path).status_code == httpx.codes.OK:
                    return True
            except httpx.TransportError:
                pass
            time.sleep(0.2)
    return False


def answers(place: engines.EngineContext) -> dict[str, object]:
    with client(place, KEY) as http, client(place, "wrong") as stranger:
        body = {"model": "demo", "max_tokens": 20, **QUESTION}
        answer = http.post("/v1/chat/completions", json=body).json()
        return {
            "text": answer["choices"][0]["message"]["content"],
            "metrics": http.get("/metrics").status_code,
            "stranger": stranger.get("/v1/models").status_code,
        }


main(*sys.argv[1:])
