"""OpenAI's own client: from an upload to the answers, with real workers behind a real gateway."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import openai
import pytest

from hpc.batch import cleanup
from hpc.batch import control as batch_control
from hpc.batch import submit as batch_submit
from hpc.cli.batch.text import waits
from hpc.config import Site
from hpc.gateway import owner_access
from hpc.jobs import api as jobs
from hpc.keys import limits as key_limits
from hpc.keys import store as key_store
from hpc.openai_batches import one_batch, processor, processor_heartbeat
from hpc.openai_batches import records as batch_records
from hpc.processes import by_pid, programs
from hpc.state import directory
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import environment, run_gateway, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from openai.types import Batch

    from tests.contract.gateway.programs import Running

CHAT: Final = "/v1/chat/completions"
PATIENCE_S = 90.0
OVER = ("completed", "failed", "cancelled", "expired")


class Echo(Engine):
    """An engine that says what it was asked, holds what says so, and refuses what says so."""

    async def _whole(self, status: int, ask: dict[str, Any], send: Any) -> None:
        said = ask["messages"][0]["content"]
        content: dict[str, Any] = {
            "object": "chat.completion",
            "choices": [{"message": {"role": "assistant", "content": said.upper()}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }
        content["usage"].update(ask.get("more_usage") or {})
        if said.startswith("wrong"):
            status, content = 400, {"error": {"message": "too long", "code": "no"}}
        data = json.dumps(content).encode()
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": data})


@pytest.fixture
def engine() -> Engine:
    return Echo()


@pytest.fixture(autouse=True)
def nobody_left(home: Path) -> Iterator[None]:
    """End what a test leaves: the batch processor, and the workers of its batches."""
    yield
    for pid in processors_of(home):
        by_pid.stop(by_pid.identity(pid) or "", grace_s=5)
    for batch in batch_control.ids(home):
        jobs.cancel(batch_submit.handles(directory.batch_dir(home, batch)))


def processors_of(home: Path) -> list[int]:
    """Return the batch processor of a state directory, by process id."""
    import psutil  # noqa: PLC0415

    found = []
    for one in psutil.process_iter(["cmdline"]):
        words = one.info["cmdline"] or []
        if "hpc.openai_batches.processor" in words and str(home) in words:
            found.append(one.pid)
    return found


def client(front: Running, key: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{front.url}/v1", api_key=key or front.key, max_retries=0, timeout=PATIENCE_S
    )


def line(name: str, said: str, **more: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": said}], **more}
    return {"custom_id": name, "method": "POST", "url": CHAT, "body": body}


def jsonl(lines: list[Any]) -> io.BytesIO:
    text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
    made = io.BytesIO(text.encode())
    made.name = "requests.jsonl"
    return made


def start(asks: openai.OpenAI, lines: list[Any], **more: Any) -> Batch:
    file = asks.files.create(file=jsonl(lines), purpose="batch")
    return asks.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", **more
    )


def until(asks: openai.OpenAI, name: str, *statuses: str) -> Batch:
    """Wait until a batch has one of some statuses."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := asks.batches.retrieve(name)).status not in (statuses or OVER):
        assert time.monotonic() < deadline, found
        assert found.status not in OVER, found
        time.sleep(0.2)
    return found


def read(asks: openai.OpenAI, name: str | None) -> list[dict[str, Any]]:
    assert name is not None
    return [json.loads(one) for one in asks.files.content(name).text.splitlines()]


def test_from_the_upload_to_the_answers(home: Path, gateway: Running) -> None:
    asks = client(gateway)
    said = [line(f"r{n}", f"wrong {n}" if n % 10 == 3 else f"say {n}") for n in range(40)]
    file = asks.files.create(file=jsonl(said), purpose="batch")
    assert (file.filename, file.purpose, file.status) == ("requests.jsonl", "batch", "processed")
    assert asks.files.retrieve(file.id) == file
    assert asks.files.content(file.id).read() == jsonl(said).getvalue()
    assert file.bytes == len(jsonl(said).getvalue())
    made = asks.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"run": "7"}
    )
    assert made.status == "validating"
    assert made.expires_at == made.created_at + 86400
    done = until(asks, made.id)

    assert done.status == "completed", done
    assert done.metadata == {"run": "7"}
    assert done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": 40, "completed": 36, "failed": 4}
    good, bad = read(asks, done.output_file_id), read(asks, done.error_file_id)
    assert [one["custom_id"] for one in good] == [f"r{n}" for n in range(40) if n % 10 != 3]
    assert [one["custom_id"] for one in bad] == ["r3", "r13", "r23", "r33"]
    body = good[0]["response"]["body"]
    assert body["choices"][0]["message"]["content"] == "SAY 0"
    assert (good[0]["response"]["status_code"], good[0]["error"]) == (200, None)
    assert (bad[0]["response"]["status_code"], bad[0]["error"]["message"]) == (400, "too long")
    assert [one.id for one in asks.batches.list(limit=1)] == [made.id]
    used = (home / "gateways" / socket.gethostname() / "access.log").read_text()
    assert {json.loads(one)["key"] for one in used.splitlines()} == {"tester"}
    see_what_is_left(home, gateway)
    see_files_go(asks, file.id)


def test_usage_is_what_the_answers_name(gateway: Running) -> None:
    asks = client(gateway)
    thoughts = {
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    odd = {"prompt_tokens": None, "completion_tokens": "2", "prompt_tokens_details": None}
    made = start(
        asks,
        [
            *(line(f"r{n}", "say", more_usage=thoughts) for n in range(7)),
            *(line(f"p{n}", "say") for n in range(3)),
            line("odd", "say", more_usage=odd),
            line("w", "wrong"),
        ],
    )
    assert made.usage is None
    done = until(asks, made.id)

    assert done.usage is not None
    assert done.usage.to_dict() == {
        "input_tokens": 30,
        "input_tokens_details": {"cached_tokens": 14},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 7},
        "total_tokens": 50,
    }
    answered = [one["response"]["body"]["usage"] for one in read(asks, done.output_file_id)]
    assert sum(one["prompt_tokens"] or 0 for one in answered) == done.usage.input_tokens
    refused = until(asks, start(asks, ["{no json"]).id)
    assert (refused.status, refused.usage) == ("failed", None)


def test_packed_arrays_other_paths_and_files_that_expire(gateway: Running) -> None:
    asks = client(gateway)
    body = {"model": "m", "query": "q", "documents": ["a"], "messages": [{"content": "say"}]}
    lines = [{"custom_id": f"r{n}", "url": "/v1/rerank", "body": body} for n in range(3)]
    packed = io.BytesIO(gzip.compress(json.dumps(lines).encode("utf-16")))
    packed.name = "requests.json.gz"
    file = asks.files.create(
        file=packed, purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at == file.created_at + 3600
    made = asks.batches.create(
        input_file_id=file.id,
        endpoint="/v1/rerank",  # type: ignore[arg-type]  # of engines, not of OpenAI
        completion_window="24h",
        output_expires_after={"anchor": "created_at", "seconds": 7200},
    )
    done = until(asks, made.id)
    assert done.status == "completed", done
    answers = asks.files.retrieve(str(done.output_file_id))
    assert answers.expires_at == answers.created_at + 7200
    assert [one["custom_id"] for one in read(asks, done.output_file_id)] == ["r0", "r1", "r2"]
    torn = io.BytesIO(packed.getvalue()[:-9])
    torn.name = "torn"
    refused = until(
        asks,
        asks.batches.create(
            input_file_id=asks.files.create(file=torn, purpose="batch").id,
            endpoint=CHAT,
            completion_window="24h",
        ).id,
    )
    assert [one.code for one in (refused.errors and refused.errors.data) or ()] == [
        "invalid_file_format"
    ]
    with pytest.raises(openai.BadRequestError, match="expires_after is no object"):
        asks.files.create(
            file=packed, purpose="batch", expires_after={"anchor": "created_at", "seconds": 5}
        )


def see_files_go(asks: openai.OpenAI, uploaded: str) -> None:
    """List files, page by page, and delete them."""
    assert {one.purpose for one in asks.files.list(limit=1)} == {"batch", "batch_output"}
    assert [one.id for one in asks.files.list(purpose="batch")] == [uploaded]
    known = [one.id for one in asks.files.list(order="asc")]
    assert len(known) == 3
    for one in known:
        assert asks.files.delete(one).deleted
    assert list(asks.files.list()) == []
    with pytest.raises(openai.NotFoundError, match="your key has no file"):
        asks.files.content(uploaded)


def see_what_is_left(home: Path, front: Running) -> None:
    """See that nothing of the work stays, that no secret is told, and that all is private."""
    wait_until(lambda: not list(batch_records.open_batches(home)))
    wait_until(lambda: not list((home / "batches").iterdir()))
    secret = (home / "batch.key").read_text().strip()
    logs = "".join(path.read_text() for path in home.rglob("*.log"))
    assert "completed" in logs or logs
    for word in (secret, front.key, "hb-"):
        assert word not in logs
    for path in (*home.glob("files/*/*/*"), *home.glob("openai-batches/*/*/*"), home / "batch.key"):
        assert path.stat().st_mode & 0o77 == 0, path


def test_faulty_lines_are_told_by_number(gateway: Running) -> None:
    asks = client(gateway)
    lines = [
        line("a", "fine"),
        "{no json",
        line("a", "again"),
        {**line("b", "x"), "url": "/v1/embeddings", "body": {"model": "m", "input": "x"}},
        {**line("c", "x"), "method": "GET"},
        line("d", "x", model="nobody"),
        {key: value for key, value in line("e", "x").items() if key != "custom_id"},
        line("f", "x", stream=True),
    ]
    failed = until(asks, start(asks, lines).id)

    assert failed.status == "failed"
    assert failed.failed_at is not None
    assert failed.errors is not None
    found = [(one.line, one.code) for one in failed.errors.data or ()]
    assert found == [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
        (4, "mismatched_endpoint"),
        (5, "invalid_method"),
        (6, "model_not_found"),
        (7, "missing_required_parameter"),
        (8, "invalid_request"),
    ]
    empty = until(asks, start(asks, []).id)
    assert empty.errors is not None
    assert [one.code for one in empty.errors.data or ()] == ["empty_file"]


def test_a_batch_that_is_cancelled_hands_over_what_it_has(
    home: Path, gateway: Running, engine: Engine
) -> None:
    asks = client(gateway)
    lines = [line(f"r{n}", f"say {n}", wait=0 if n < 8 else 30) for n in range(60)]
    made = start(asks, lines)
    wait_until(
        lambda: (
            (asks.batches.retrieve(made.id).request_counts or made).to_dict().get("completed") == 8
        ),
        PATIENCE_S,
    )
    assert asks.batches.cancel(made.id).status == "cancelling"
    done = until(asks, made.id, "cancelled")

    assert done.cancelling_at is not None
    assert done.cancelled_at is not None
    assert [one["custom_id"] for one in read(asks, done.output_file_id)] == [
        f"r{n}" for n in range(8)
    ]
    rest = read(asks, done.error_file_id)
    assert [one["custom_id"] for one in rest] == [f"r{n}" for n in range(8, 60)]
    assert {one["error"]["code"] for one in rest} == {"batch_cancelled"}
    assert len(engine.seen) < 60
    assert asks.batches.cancel(made.id).status == "cancelled"
    wait_until(lambda: not list((home / "batches").iterdir()))


def test_another_key_finds_nothing_and_its_own_limits_hold(home: Path, gateway: Running) -> None:
    mine = client(gateway)
    other, _ = key_store.add(directory.keys_path(home), "other", models=("n",))
    theirs = client(gateway, other)
    file = mine.files.create(file=jsonl([line("a", "x")]), purpose="batch")
    wait_until(lambda: gateway_knows(theirs))
    made = start(mine, [line("a", "x")])
    for ask in (
        lambda: theirs.files.retrieve(file.id),
        lambda: theirs.files.content(file.id),
        lambda: theirs.files.delete(file.id),
        lambda: theirs.batches.retrieve(made.id),
        lambda: theirs.batches.cancel(made.id),
        lambda: theirs.batches.create(
            input_file_id=file.id, endpoint=CHAT, completion_window="24h"
        ),
    ):
        with pytest.raises(openai.NotFoundError, match="your key has no"):
            ask()
    assert list(theirs.files.list()) == []
    assert list(theirs.batches.list()) == []
    refused = until(theirs, start(theirs, [line("a", "x")]).id)
    assert refused.errors is not None
    assert [one.code for one in refused.errors.data or ()] == ["model_not_found"]
    assert until(mine, made.id).status == "completed"


def gateway_knows(asks: openai.OpenAI) -> bool:
    """Tell whether a new key counts."""
    try:
        return asks.models.list() is not None
    except openai.AuthenticationError:
        return False


def test_budgets_hold_for_a_batch(home: Path, gateway: Running, engine: Engine) -> None:
    del engine
    poor, _ = key_store.add(
        directory.keys_path(home),
        "poor",
        limits=key_limits.KeyLimits(total_tokens=400, max_tokens=50),
    )
    asks = client(gateway, poor)
    wait_until(lambda: gateway_knows(asks))
    done = until(asks, start(asks, [line(f"r{n}", "x") for n in range(200)]).id)

    assert done.status == "completed"
    assert done.request_counts is not None
    assert 0 < done.request_counts.completed <= 400 // 5
    assert done.request_counts.completed + done.request_counts.failed == 200
    assert read(asks, done.error_file_id)[0]["error"]["code"] == "429"


def test_a_key_that_is_revoked_ends_its_batches(
    home: Path, gateway: Running, engine: Engine
) -> None:
    given, entry = key_store.add(directory.keys_path(home), "brief")
    theirs = client(gateway, given)
    wait_until(lambda: gateway_knows(theirs))
    made = start(theirs, [line(f"r{n}", "x", wait=0.5) for n in range(300)])
    assert engine.wait_for(lambda: len(engine.seen) > 20, PATIENCE_S)
    key_store.revoke(directory.keys_path(home), "brief")
    order = batch_records.load_batch(home, entry.id, made.id)
    assert order is not None
    wait_until(lambda: not list(batch_records.open_batches(home)), PATIENCE_S)
    progress = batch_records.load_progress(home, order)

    assert progress.status == "completed"
    assert progress.completed + progress.failed == 300
    path = batch_records.file_dir(home, entry.id, str(progress.error)) / "content"
    codes = {json.loads(one)["error"]["code"] for one in path.read_text().splitlines()}
    assert codes == {"401"}
    with pytest.raises(openai.AuthenticationError):
        theirs.batches.retrieve(made.id)


def test_a_restart_in_between_loses_nothing(home: Path, engine: Engine) -> None:
    lines = [line(f"r{n}", f"say {n}", wait=0.1) for n in range(300)]
    with serve(engine) as url:
        with run_gateway(home, {"m": url}, "--workers", "2") as first:
            asks = client(first)
            made = start(asks, lines)
            later = start(asks, [line("z", "late")])
            assert engine.wait_for(lambda: len(engine.seen) > 40, PATIENCE_S)
            os.kill(processors_of(home)[0], signal.SIGKILL)
            first.terminate(40)
        key = first.key
        # Workers follow at once: at no time may the file lack the key, here under another name.
        keys = directory.keys_path(home)
        keys.write_text(keys.read_text().replace("tester", "earlier"))
        with run_gateway(home, {"m": url}) as second:
            assert second.port != first.port
            asks = client(second, key)
            wait_until(lambda: gateway_knows(asks))
            done = until(asks, made.id)
            assert done.status == "completed", done
            assert until(asks, later.id).status == "completed"
            found = read(asks, done.output_file_id)

    assert [one["custom_id"] for one in found] == [f"r{n}" for n in range(300)]
    assert done.error_file_id is None


def test_a_model_that_goes_while_a_batch_runs_is_waited_for(
    home: Path, gateway: Running, engine: Engine
) -> None:
    asks, models = client(gateway), home.parent / "models.yaml"
    served = models.read_text()
    made = start(asks, [line(f"r{n}", f"say {n}", wait=1) for n in range(400)])
    assert engine.wait_for(lambda: len(engine.seen) > 40, PATIENCE_S)
    models.write_text(json.dumps({"version": 1, "models": []}))
    name = batch_control.ids(home)[0]
    wait_until(
        lambda: any("is gone" in one for one in waits(batch_control.look(home, name))), PATIENCE_S
    )
    assert asks.batches.retrieve(made.id).status == "in_progress"
    refused = until(asks, start(asks, [line("a", "x")]).id)
    assert [one.code for one in (refused.errors and refused.errors.data) or ()] == [
        "model_not_found"
    ]
    spec = directory.batch_dir(home, name) / "spec.json"
    spec.write_text(json.dumps({**json.loads(spec.read_text()), "model_patience_s": 2.0}))
    jobs.drain(batch_control.here(spec.parent))  # the next worker has less patience
    wait_until(lambda: batch_control.look(home, name).state == "PAUSED", PATIENCE_S)
    told = wait_until(lambda: asks.batches.retrieve(made.id).errors, PATIENCE_S)
    assert [(one.code, "no model 'm'" in one.message) for one in told.data] == [("paused", True)]
    models.write_text(served)
    wait_until(lambda: list(asks.models.list()))
    batch_control.resume(home, name, workers=None, cluster=None, site=Site())
    done = until(asks, made.id)

    assert (done.status, done.errors, done.error_file_id) == ("completed", None, None)
    found = read(asks, done.output_file_id)
    assert [one["custom_id"] for one in found] == [f"r{n}" for n in range(400)]


def test_a_service_that_is_not_there_is_refused_at_submission(
    home: Path, gateway: Running, tmp_path: Path
) -> None:
    assert client(gateway).models.list().data
    asked, answered = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    asked.write_text(json.dumps({"prompt": "x"}) + "\n")
    argv = [sys.executable, "-m", "hpc", "batch", "submit", str(asked), "-o", str(answered)]
    owners = client(gateway, owner_access.owner_key(home))
    wait_until(lambda: gateway_knows(owners))
    done = programs.run(
        [*argv, "--service", "nobody", "--home", str(home)],
        timeout_s=60,
        env=environment(),
        check=False,
    )

    assert done.returncode != 0
    assert "the gateway has no model 'nobody'; it has m" in done.stderr
    assert batch_control.ids(home) == []


def test_what_a_clerk_leaves_that_is_killed_at_the_intake_goes(
    home: Path, gateway: Running
) -> None:
    asks = client(gateway)
    made = start(asks, [line(f"r{n}", "x" * 200) for n in range(40_000)])
    folder = wait_until(lambda: next((home / "batches").glob("[!.]*"), None), PATIENCE_S)
    wait_until((folder / "requests.jsonl").exists)
    (pid,) = processors_of(home)
    os.kill(pid, signal.SIGSTOP)
    assert not (folder / "spec.json").exists()
    try:
        cleanup.sweep(home)
        assert folder.exists()
        for path in (*folder.iterdir(), folder):
            os.utime(path, (1e9, 1e9))
        cleanup.sweep(home)
        assert folder.exists()  # its writer lives, as slow as it may be
    finally:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in processors_of(home))
    for path in (*folder.iterdir(), folder):
        os.utime(path, (1e9, 1e9))
    half = home / "batches" / ".0101-000000"
    half.mkdir()
    wait_until(lambda: not (folder / "requests.jsonl").exists(), PATIENCE_S)
    wait_until(lambda: not half.exists(), PATIENCE_S)
    until(asks, made.id, "in_progress")
    asks.batches.cancel(made.id)
    assert until(asks, made.id).status == "cancelled"


def test_what_is_asked_in_vain(home: Path, gateway: Running) -> None:
    asks = client(gateway)
    file = asks.files.create(file=jsonl([line("a", "x")]), purpose="batch")
    with pytest.raises(openai.BadRequestError, match="purpose 'vision' is not served"):
        asks.files.create(file=jsonl([]), purpose="vision")
    with pytest.raises(openai.BadRequestError, match="endpoint"):
        asks.batches.create(
            input_file_id=file.id, endpoint="/v1/images/generations", completion_window="24h"
        )
    with pytest.raises(openai.BadRequestError, match="completion_window"):
        asks.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="1y")  # type: ignore[arg-type]
    with pytest.raises(openai.NotFoundError, match="your key has no file"):
        asks.batches.create(input_file_id="file-1", endpoint=CHAT, completion_window="24h")
    with pytest.raises(openai.NotFoundError, match="your key has no batch"):
        asks.batches.retrieve("batch_..%2f..")
    assert [path.name for path in (home / "files").glob("*/file-*")] == [file.id]


def test_a_file_above_the_limit_is_refused_and_leaves_nothing(home: Path, engine: Engine) -> None:
    with (
        serve(engine) as url,
        run_gateway(home, {"m": url}, policy={"batch_file_mib": 1}) as front,
    ):
        asks = client(front)
        for size in ((1 << 20) + 1, 5 << 20):
            with pytest.raises(openai.APIStatusError, match="larger than 1048576 bytes"):
                asks.files.create(file=("x.jsonl", b"x" * size), purpose="batch")
        kept = asks.files.create(file=("x.jsonl", b"x" * (1 << 20)), purpose="batch")
        assert kept.bytes == 1 << 20
        assert [path.name for path in (home / "files").glob("*/file-*")] == [kept.id]


def test_batches_can_be_off(home: Path, engine: Engine) -> None:
    with (
        serve(engine) as url,
        run_gateway(home, {"m": url}, policy={"batch_file_mib": 0}) as front,
        pytest.raises(openai.APIStatusError, match="serves no files and batches") as caught,
    ):
        client(front).batches.list()
    assert caught.value.status_code == 501


def test_a_batch_whose_time_is_over_ends_with_what_it_has(home: Path, gateway: Running) -> None:
    asks = client(gateway)
    made = start(asks, [line("a", "x"), line("b", "x", wait=60)])
    until(asks, made.id, "in_progress")
    path = next((home / "openai-batches").glob(f"*/{made.id}/batch.json"))
    wait_until(lambda: asks.batches.retrieve(made.id).request_counts.completed == 1, PATIENCE_S)  # type: ignore[union-attr]
    for pid in processors_of(home):
        by_pid.stop(by_pid.identity(pid) or "", grace_s=20)
    processor_heartbeat.rest(home, socket.gethostname())
    path.write_text(json.dumps({**json.loads(path.read_text()), "expires_at": int(time.time())}))
    done = until(asks, made.id)

    assert done.status == "expired"
    assert done.expired_at is not None
    assert [one["custom_id"] for one in read(asks, done.output_file_id)] == ["a"]
    assert read(asks, done.error_file_id)[0]["error"]["code"] == "batch_expired"


def test_without_a_gateway_the_clerk_sends_the_workers_home_and_ends(
    home: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "ALONE_S", 2.0)
    lines = [line(f"r{n}", "x", wait=0 if n < 5 else 60) for n in range(20)]
    with serve(engine) as url, run_gateway(home, {"m": url}) as front:
        asks = client(front)
        made = start(asks, lines)
        assert engine.wait_for(lambda: len(engine.seen) > 10, PATIENCE_S)
        folder = directory.batch_dir(home, batch_control.ids(home)[0])
        for pid in processors_of(home):
            by_pid.stop(by_pid.identity(pid) or "", grace_s=20)
        front.process.kill()
        front.process.wait()
    directory.drop_gateway(home, socket.gethostname())
    assert batch_control.here(folder)
    processor.BatchProcessor(home, socket.gethostname()).run()

    wait_until(lambda: not batch_control.here(folder), PATIENCE_S)
    assert [batch for _, batch in batch_records.open_batches(home)] == [made.id]
    assert not processor_heartbeat.lives(home, socket.gethostname())


def test_the_owner_may_pause_and_end_a_batch_of_the_gateways(
    home: Path, gateway: Running, engine: Engine
) -> None:
    asks = client(gateway)
    made = start(asks, [line(f"r{n}", "x", wait=0 if n < 5 else 60) for n in range(20)])
    assert engine.wait_for(lambda: len(engine.seen) > 10, PATIENCE_S)
    name = batch_control.ids(home)[0]
    batch_control.stop(home, name, word="pause")
    folder = directory.batch_dir(home, name)
    wait_until(lambda: not batch_control.here(folder), PATIENCE_S)
    time.sleep(one_batch.STAFF_S + 2)
    assert not batch_control.here(folder)
    assert asks.batches.retrieve(made.id).status == "in_progress"
    batch_control.stop(home, name, word="cancel")

    done = until(asks, made.id)
    assert done.status == "cancelled"
    assert len(read(asks, done.output_file_id)) == 5
