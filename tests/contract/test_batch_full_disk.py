"""A state directory that fills up in the middle of a batch, and has room again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
ROWS = 1500
SCRIPT = r"""
set -eu
mount -t tmpfs -o size=3m,mode=700 tmpfs "$STATE"
exec "$PYTHON" "$DRIVER"
"""
DRIVER = """
import atexit, json, os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from hpc.batch import control, submit
from hpc.config import Site
from hpc.jobs import api as jobs
from hpc.state import directory
from tests.fakes.gateway import answer_challenge, publish

class Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        answer_challenge(self, record.proof_secret)
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        time.sleep(0.02)
        answer = {"choices": [{"text": body["prompt"].upper()}], "filler": "x" * 300}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *args):
        pass

class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

def until(holds, what, patience_s=120):
    deadline = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"never: {what}: {control.look(root, spec.id)}")
        time.sleep(0.1)

root, folder = Path(os.environ["STATE"]), Path(os.environ["FOLDER"])
server = Server(("127.0.0.1", 0), Engine)
threading.Thread(target=server.serve_forever, daemon=True).start()
record = publish(root, server.server_port)
asked = submit.BatchOptions(folder / "in.jsonl", folder / "out.jsonl", "m", workers=2, in_flight=8,
    by_gateway=True, token="hb-test")
spec = submit.submit(root, asked, engine=None, cluster="local", site=Site())
atexit.register(lambda: jobs.cancel(submit.handles(directory.batch_dir(root, spec.id))))
until(lambda: control.look(root, spec.id).done > 0, "a chunk is done")
fill = root / "fill"
with fill.open("wb", buffering=0) as file:
    try:
        while True:
            file.write(b"x" * 4096)
    except OSError as error:
        print("full", error.errno, flush=True)
before = control.look(root, spec.id).done
time.sleep(4)
print(json.dumps({"before": before, "while_full": control.look(root, spec.id).done}), flush=True)
fill.unlink()
until(lambda: control.look(root, spec.id).state == "DONE", "the batch is done")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_full_state_directory_stops_a_batch_until_there_is_room(tmp_path: Path) -> None:
    lines = [json.dumps({"custom_id": f"r{n}", "prompt": f"good {n}"}) for n in range(ROWS)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "state").mkdir()
    (tmp_path / "driver.py").write_text(DRIVER)
    ours = {
        "STATE": str(tmp_path / "state"),
        "FOLDER": str(tmp_path),
        "PYTHON": sys.executable,
        "DRIVER": str(tmp_path / "driver.py"),
        "PYTHONPATH": str(PROJECT),
    }
    argv = ["unshare", "--mount", "--propagation=private", "sh", "-c", SCRIPT]
    done = subprocess.run(
        argv, env={**os.environ, **ours}, capture_output=True, text=True, check=False, timeout=180
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stdout.startswith("full 28")
    seen = json.loads(done.stdout.splitlines()[1])
    assert seen["while_full"] < ROWS
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [one["custom_id"] for one in found] == [f"r{n}" for n in range(ROWS)]
    texts = [one["response"]["body"]["choices"][0]["text"] for one in found]
    assert texts == [f"GOOD {n}" for n in range(ROWS)]
