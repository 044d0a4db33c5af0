"""A batch over real sockets and real processes: faults of the engine, of workers, of people."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from pyarrow import parquet as pq

from hpc import disk_usage
from hpc.batch import control as batch_control
from hpc.batch import report as batch_report
from hpc.batch import submit as batch_submit
from hpc.batch.ledger.filesystem import RealFileSystem
from hpc.batch.model import BatchTarget, BatchWorker
from hpc.batch.worker.loop import Worker
from hpc.config import Site
from hpc.errors import BatchError, ConfigError
from hpc.jobs import api as jobs
from hpc.jobs import local
from hpc.state import directory
from tests.fakes.gateway import answer_challenge, publish
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hpc.batch.model import BatchSpec


@dataclass
class Engine:
    """An engine that does as the prompt says, and counts."""

    delay_s: float = 0.0
    broken: bool = False
    asked: dict[str, int] = field(default_factory=dict)
    now: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""
    secret: str = ""

    def answer(self, prompt: str) -> tuple[int, dict[str, str], bytes]:
        with self.lock:
            tries = self.asked[prompt] = self.asked.get(prompt, 0) + 1
        word = prompt.partition(" ")[0]
        if word == "busy" and tries == 1:
            return 429, {"Retry-After": "0"}, b'{"error": {"message": "busy"}}'
        if word == "shaky" and tries == 1:
            return 500, {}, b"not even JSON"
        if word == "cut" and tries == 1:
            raise ConnectionAbortedError
        if word == "wrong" or (word == "later" and self.broken):
            return 400, {}, b'{"error": {"message": "too long"}}'
        if word == "odd":
            return 200, {}, b'{"choices": {"0": []}, "usage": [3]}'
        if word == "half":
            prompt += "\ud83d"
        text = {"id": "x", "choices": [{"text": prompt.upper(), "logprobs": {"a": [1]}}]}
        return 200, {}, json.dumps({**text, "usage": {"completion_tokens": 3}}).encode()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer_challenge(self, made.secret)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with made.lock:
                made.now += 1
                made.most = max(made.most, made.now)
            try:
                time.sleep(made.delay_s)
                status, headers, data = made.answer(body["prompt"])
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                self.close_connection = True
            finally:
                with made.lock:
                    made.now -= 1

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 256
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Say nothing of clients that were killed."""

    server = Server(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    made.secret = publish(tmp_path, server.server_port).proof_secret
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def prompts(path: Path, words: list[str]) -> Path:
    lines = [json.dumps({"custom_id": f"r{n}", "prompt": f"{w} {n}"}) for n, w in enumerate(words)]
    path.write_text("\n".join(lines) + "\n")
    return path


def wanted(
    tmp_path: Path, engine: Engine, words: list[str], workers: int = 1
) -> batch_submit.BatchOptions:
    return batch_submit.BatchOptions(
        prompts(tmp_path / "in.jsonl", words),
        tmp_path / "out.jsonl",
        "m",
        workers=workers,
        by_gateway=True,
        token="hb-test",
        in_flight=24,
    )


def results(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]


def texts(tmp_path: Path) -> list[str | None]:
    found = results(tmp_path)
    assert [one["custom_id"] for one in found] == [f"r{n}" for n in range(len(found))]
    return [
        one["response"]["body"]["choices"][0]["text"] if one["error"] is None else None
        for one in found
    ]


def worker(folder: Path, spec: BatchSpec, name: str) -> Worker:
    record = BatchWorker(name, name, "here", started_at=time.time(), beat_at=0.0)
    return Worker(RealFileSystem(), folder, spec, record)


def test_two_workers_and_an_engine_that_refuses_breaks_and_errs(
    tmp_path: Path, engine: Engine
) -> None:
    engine.delay_s = 0.01
    words = ["good", "busy", "shaky", "cut", "wrong"] * 30
    asked = wanted(tmp_path, engine, words)
    folder = batch_submit._fresh(tmp_path)
    spec = batch_submit._prepare(folder, asked, None)

    async def both() -> list[bool]:
        pair = [worker(folder, spec, name) for name in ("a", "b")]
        return list(await asyncio.gather(*(one.run(BatchTarget(engine.url)) for one in pair)))

    assert asyncio.run(both()) == [True, True]
    report = batch_report.conclude(RealFileSystem(), folder, spec)
    found = results(tmp_path)
    got = texts(tmp_path)

    assert (report["requests"], report["good"], report["failed"]) == (150, 120, 30)
    assert report["completion_tokens"] == 360
    assert report["tokens_per_s"] / report["requests_per_s"] == pytest.approx(360 / 150, rel=0.01)
    assert got == [None if w == "wrong" else f"{w} {n}".upper() for n, w in enumerate(words)]
    assert found[4]["error"] == {"code": "400", "message": "too long"}
    assert found[4]["response"]["status_code"] == 400
    assert found[0]["response"]["body"]["choices"][0]["logprobs"] == {"a": [1]}
    assert engine.most > 4
    again = {"busy", "shaky", "cut"}
    assert all(n == 1 + (p.partition(" ")[0] in again) for p, n in engine.asked.items())
    assert {one.ended for one in batch_control.look(tmp_path, spec.id).workers} == {True}


def wait(holds: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


@pytest.fixture
def submitted(tmp_path: Path, engine: Engine) -> Iterator[Callable[..., BatchSpec]]:
    """Submit batches of local jobs, none of which outlives the test."""
    made: list[str] = []

    def submit(words: list[str], workers: int = 1, *, overwrite: bool = False) -> BatchSpec:
        asked = replace(wanted(tmp_path, engine, words, workers), overwrite=overwrite)
        spec = batch_submit.submit(tmp_path, asked, engine=None, cluster="local", site=Site())
        made.append(spec.id)
        return spec

    yield submit
    for batch in made:
        jobs.cancel(batch_submit.handles(directory.batch_dir(tmp_path, batch)))


def test_a_killed_worker_a_pause_and_a_resume_leave_every_answer_once(
    tmp_path: Path, engine: Engine, submitted: Callable[..., BatchSpec]
) -> None:
    engine.delay_s = 0.15
    words = ["good"] * 600
    spec = submitted(words, workers=2)
    folder = directory.batch_dir(tmp_path, spec.id)
    wait(lambda: len(batch_control.look(tmp_path, spec.id).workers) == 2 and len(engine.asked) > 40)
    with pytest.raises(BatchError, match="is RUNNING, and its answers are in the folder"):
        batch_control.remove(tmp_path, spec.id)
    assert disk_usage.leftovers(tmp_path) == []
    victim = batch_submit.handles(folder)[0]
    for member in local._family(int(victim.job_id)):
        os.kill(member.pid, signal.SIGKILL)
    wait(lambda: len(engine.asked) > 120)
    batch_control.stop(tmp_path, spec.id, word="pause")
    wait(lambda: batch_control.look(tmp_path, spec.id).state == "PAUSED")
    assert not (tmp_path / "out.jsonl").exists()
    assert batch_control.resume(tmp_path, spec.id, workers=None, cluster="local", site=Site()) == 2
    engine.delay_s = 0.01
    wait(lambda: batch_control.look(tmp_path, spec.id).state == "DONE", 120)

    assert texts(tmp_path) == [f"{w} {n}".upper() for n, w in enumerate(words)]
    assert sum(engine.asked.values()) <= 600 + 4 * 24
    with pytest.raises(BatchError, match="is done"):
        batch_control.stop(tmp_path, spec.id, word="cancel")
    wait(lambda: disk_usage.leftovers(tmp_path) != [])
    (over,) = disk_usage.leftovers(tmp_path)
    assert (over.kind, over.path, over.note) == ("batch", folder, "DONE, its output is there")
    assert over.size > 0
    disk_usage.remove(tmp_path, over)
    assert (batch_control.ids(tmp_path), folder.exists()) == ([], False)
    assert len(texts(tmp_path)) == 600


def test_an_output_is_never_overwritten_unless_told(
    tmp_path: Path, engine: Engine, submitted: Callable[..., BatchSpec]
) -> None:
    engine.delay_s = 0.5
    first = submitted(["good"] * 40)
    with pytest.raises(ConfigError, match=rf"out\.jsonl is taken: the output of batch {first.id}"):
        submitted(["good"])
    engine.delay_s = 0.0
    wait(lambda: batch_control.look(tmp_path, first.id).state == "DONE")
    with pytest.raises(ConfigError, match=rf"out\.jsonl exists: the output of batch {first.id}"):
        submitted(["good"])
    assert batch_control.ids(tmp_path) == [first.id]
    second = submitted(["good"], overwrite=True)
    wait(lambda: batch_control.look(tmp_path, second.id).state == "DONE")
    assert len(texts(tmp_path)) == 1


def test_errors_are_asked_again_on_request(
    tmp_path: Path, engine: Engine, submitted: Callable[..., BatchSpec]
) -> None:
    engine.broken = True
    words = ["good", "later", "good", "wrong"] * 5
    spec = submitted(words)
    wait(lambda: batch_control.look(tmp_path, spec.id).state == "DONE")
    first = texts(tmp_path)
    engine.broken = False
    assert batch_control.retry(tmp_path, spec.id, cluster="local", site=Site()) == 10
    wait(lambda: batch_control.look(tmp_path, spec.id).state == "DONE")

    assert first.count(None) == 10
    assert texts(tmp_path) == [
        None if w == "wrong" else f"{w} {n}".upper() for n, w in enumerate(words)
    ]
    assert engine.asked["good 0"] == 1


def test_a_file_that_is_refused_leaves_nothing(tmp_path: Path, engine: Engine) -> None:
    asked = wanted(tmp_path, engine, ["good"])
    asked.path.write_text('{"prompt": "x"}\n{"x": 1}\n')
    with pytest.raises(BatchError, match="line 2"):
        batch_submit.submit(tmp_path, asked, engine=None, cluster="local", site=Site())

    assert batch_control.ids(tmp_path) == []


def test_an_answer_with_half_a_character_ends_as_any_other_in_every_format(
    tmp_path: Path, engine: Engine
) -> None:
    asked = replace(wanted(tmp_path, engine, ["good", "half", "odd"] * 4), in_flight=4)
    for suffix in ("jsonl", "parquet"):
        folder = batch_submit._fresh(tmp_path)
        spec = batch_submit._prepare(
            folder, replace(asked, output=tmp_path / f"out.{suffix}"), None
        )
        assert asyncio.run(worker(folder, spec, suffix).run(BatchTarget(engine.url)))
        report = batch_report.conclude(RealFileSystem(), folder, spec)
        assert (report["good"], report["failed"]) == (12, 0)
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()

    assert [one["content"] for one in rows[:3]] == ["GOOD 0", "HALF 1\ufffd", None]
    body = results(tmp_path)[1]["response"]["body"]
    assert body["choices"][0]["text"] == "HALF 1\ufffd"
