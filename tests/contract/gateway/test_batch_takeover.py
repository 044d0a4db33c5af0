"""Two machines with one state directory: one goes on with a batch of the other, which died."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from hpc.keys import store as key_store
from hpc.openai_batches import processor_heartbeat
from hpc.openai_batches import records as batch_records
from hpc.state import directory
from tests.contract.gateway.engines import serve
from tests.contract.gateway.programs import REPO, Running, environment, wait_until
from tests.contract.gateway.test_batches import Echo, client, gateway_knows, line, read, start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contract.gateway.engines import Seen

PATIENCE_S = 150.0
REQUESTS = 240
SPACES = ("--user", "--map-root-user", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")


@contextlib.contextmanager
def machine(home: Path, name: str, key: str) -> Iterator[Running]:
    """Run a gateway with a host name and processes of its own, which all die with the machine."""
    argv = ["unshare", *SPACES, "sh", "-c", 'hostname "$0" && exec "$@"', name, sys.executable]
    argv += ["-m", "gateway_lite", "run", "--home", str(home), "--port", "0"]
    argv += ["--models", str(home.parent / "models.yaml")]
    log = home.parent / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out, env=environment(), cwd=REPO)
    try:

        def port() -> int | None:
            record = directory.load_gateway(home, name)
            assert process.poll() is None, log.read_text()
            return record.port if record else None

        yield Running(process, wait_until(port), key, log)
    finally:
        process.kill()
        process.wait(PATIENCE_S)


class Held(Echo):
    """An engine that answers a quarter of the batch, and the rest once ``go`` is set."""

    async def _answer(self, request: Seen, send: Any) -> None:
        if len(self.seen) > REQUESTS / 4:
            await asyncio.to_thread(self.go.wait, PATIENCE_S)
        await super()._answer(request, send)


def test_another_machine_goes_on_with_the_batches_of_one_that_died(home: Path) -> None:
    engine = Held()
    key, entry = key_store.add(directory.keys_path(home), "tester")
    with serve(engine) as url, contextlib.ExitStack() as second_lives:
        served = [{"name": "m", "backend": "vllm", "backend_url": url}]
        (home.parent / "models.yaml").write_text(json.dumps({"version": 1, "models": served}))
        with machine(home, "one", key) as first:
            asks = client(first)
            made = start(asks, [line(f"r{n}", f"say {n}") for n in range(REQUESTS)])
            order = batch_records.load_batch(home, entry.id, made.id)
            assert order is not None
            second = second_lives.enter_context(machine(home, "two", key))
            assert engine.wait_for(lambda: len(engine.seen) > REQUESTS / 4, PATIENCE_S)
            first.process.kill()  # and with it the batch processor and the workers of that machine
            first.process.wait(PATIENCE_S)
        engine.go.set()
        assert batch_records.load_progress(home, order).hostname == "one"
        assert processor_heartbeat.elsewhere(home, order, "two")
        asks = client(second)
        wait_until(lambda: gateway_knows(asks))
        assert asks.batches.retrieve(made.id).status == "in_progress"
        wait_until(lambda: batch_records.load_progress(home, order).hostname == "two", PATIENCE_S)
        wait_until(lambda: asks.batches.retrieve(made.id).status == "completed", PATIENCE_S)
        done = asks.batches.retrieve(made.id)
        found = read(asks, done.output_file_id)

    assert [one["custom_id"] for one in found] == [f"r{n}" for n in range(REQUESTS)]
    assert done.error_file_id is None
    answered = [one["response"]["body"]["choices"][0]["message"]["content"] for one in found]
    assert answered == [f"SAY {n}" for n in range(REQUESTS)]
    assert len(engine.seen) < 2 * REQUESTS
