"""Replicas found through the state directory: they join, leave, and change their secrets."""

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from hpc.keys import store as key_store
from hpc.model import Phase, ServiceSpec
from hpc.state import directory, files
from tests.contract.gateway.engines import SECRETS, Engine, serve
from tests.contract.gateway.programs import (
    Running,
    run_gateway,
    save_replica,
    save_service,
    wait_until,
)

if TYPE_CHECKING:
    from pathlib import Path


def model(gateway: Running) -> dict[str, Any]:
    """Return what the gateway says of the model ``m``."""
    with gateway.client() as client:
        found: dict[str, Any] = client.get("/v1/models/m").json()
    return found


def wait_phase(gateway: Running, phase: str, ready: int = 0) -> None:
    """Wait until the model is in a phase with so many replicas ready."""
    want = (phase, ready)
    wait_until(
        lambda: (
            (
                (found := model(gateway)).get("phase"),
                found.get("replicas", {}).get("ready"),
            )
            == want
        )
    )


def test_a_model_says_what_it_waits_for(home: Path, engine: Engine) -> None:
    save_service(home)
    with serve(engine) as url, run_gateway(home) as gateway:
        for phase in (None, Phase.STARTING, Phase.LOADING, Phase.DRAINING, Phase.FAILED):
            if phase is not None:
                save_replica(home, url, phase=phase)
            name = "QUEUED" if phase is None else phase.value
            wait_phase(gateway, name)
            answer = gateway.post({})
            assert answer.status_code == 503
            assert answer.headers["x-model-phase"] == name
            assert int(answer.headers["retry-after"]) > 0
            error = answer.json()["error"]
            assert error["code"] == "model_not_ready"
            assert name in error["message"]


def test_a_replica_joins_when_ready_and_leaves_when_its_heart_stops(
    home: Path, engine: Engine
) -> None:
    save_service(home)
    with serve(engine) as url, run_gateway(home) as gateway:
        save_replica(home, url)
        wait_phase(gateway, "READY", ready=1)
        answer = gateway.post({})
        assert (answer.status_code, answer.headers["x-gateway-backend"]) == (200, "m/0")
        assert "authorization" not in engine.seen[-1].headers
        save_replica(home, url, beat_at=time.time() - directory.STALE_S - 1)
        wait_phase(gateway, "STOPPED")
        assert gateway.post({}).status_code == 503
        directory.drop_service(home, "m")
        wait_until(lambda: gateway.post({}).status_code == 404)


def test_a_new_secret_is_read_when_the_old_one_is_refused(home: Path, engine: Engine) -> None:
    save_service(home)
    with serve(engine) as url, run_gateway(home) as gateway:
        port = int(url.rpartition(":")[2])
        save_replica(home, url)
        wait_phase(gateway, "READY", ready=1)
        assert gateway.post({}).status_code == 200
        SECRETS[port] = directory.new_secret(home, "m", 0)
        engine.door.proofs.clear()
        assert gateway.post({}).status_code == 200
        SECRETS[port] = "something else"
        engine.door.proofs.clear()
        before = len(engine.seen)
        answer = gateway.post({})
        assert answer.status_code == 502
        assert "does not prove that it is the replica" in answer.json()["error"]["message"]
        assert len(engine.seen) == before


def test_one_slot_means_one_request_at_a_time(home: Path, engine: Engine) -> None:
    save_service(home)
    with serve(engine) as url, run_gateway(home) as gateway:
        save_replica(home, url, slots=1)
        wait_phase(gateway, "READY", ready=1)
        bodies = [{"wait": 0.1, "stream": n % 2 == 0} for n in range(6)]
        codes = []
        threads = [
            threading.Thread(target=lambda body=body: codes.append(gateway.post(body).status_code))
            for body in bodies
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert codes == [200] * 6
    spans = sorted((seen.began_at, seen.worked_until) for seen in engine.seen)
    assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(spans))


def test_a_file_system_that_hangs_stops_nothing(home: Path, engine: Engine) -> None:
    """A read that never returns: what is known is served, and the gateway still ends."""
    save_service(home)
    with serve(engine) as url, run_gateway(home) as gateway:
        save_replica(home, url)
        wait_phase(gateway, "READY", ready=1)
        record = home / "services/m/replicas/0/endpoint.json"
        record.unlink()
        os.mkfifo(record)
        time.sleep(3)
        assert [gateway.post({}).status_code for _ in range(5)] == [200] * 5
        assert gateway.terminate() == 0


def test_a_state_directory_that_is_gone_stops_nothing(home: Path, engine: Engine) -> None:
    save_service(home)
    with serve(engine) as url, run_gateway(home) as gateway:
        save_replica(home, url)
        wait_phase(gateway, "READY", ready=1)
        away = home.rename(home.parent / "away")
        time.sleep(3)
        assert not home.exists()
        answer = gateway.post({})
        assert answer.status_code == 200
        away.rename(home)
        time.sleep(3)
        assert gateway.post({}).status_code == 200


def test_a_revoked_key_ends_while_it_runs(gateway: Running, home: Path) -> None:
    assert gateway.post({}).status_code == 200
    key_store.revoke(directory.keys_path(home), "tester")
    wait_until(lambda: gateway.post({}).status_code == 401)


def test_a_key_made_while_it_runs_counts(gateway: Running, home: Path) -> None:
    gateway.key, _ = key_store.add(directory.keys_path(home), "second")
    wait_until(lambda: gateway.post({}).status_code == 200)


@pytest.mark.parametrize("spoil", ["mode", "text"])
def test_a_keys_file_that_may_not_be_used_lets_nobody_in(
    gateway: Running, home: Path, spoil: str
) -> None:
    path = directory.keys_path(home)
    good = path.read_text()
    if spoil == "mode":
        path.chmod(0o644)
    else:
        path.write_text("keys: [")
    answer = wait_until(lambda: (found := gateway.post({})).status_code != 200 and found)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "keys_unusable"
    files.write_text(path, good)
    wait_until(lambda: gateway.post({}).status_code == 200)
    log = gateway.log.read_text()
    assert ("chmod" in log or "open to others" in log) if spoil == "mode" else "not YAML" in log


def test_the_address_of_a_node_that_answers_is_found_and_remembered(
    home: Path, engine: Engine
) -> None:
    """Its name is unknown here, and another of its addresses leads nowhere."""
    save_service(home)
    with serve(engine) as url, run_gateway(home) as gateway:
        unknown = f"http://no-such-node.invalid:{url.rpartition(':')[2]}"
        save_replica(home, unknown, addresses=("127.0.0.2", "127.0.0.1"))
        wait_phase(gateway, "READY", 1)
        assert [gateway.post({}).status_code for _ in range(2)] == [200, 200]
        save_replica(home, unknown, job_id="2", addresses=("127.0.0.3",))
        wait_until(lambda: gateway.post({}).status_code == 502)
        told = gateway.log.read_text()
        assert "cannot be reached: tried no-such-node.invalid: " in told
        assert "127.0.0.3: " in told


def test_an_adapter_is_a_model_at_the_replicas_of_its_base(home: Path, engine: Engine) -> None:
    directory.save_spec(home, ServiceSpec("m", "vllm", "vllm", "org/x", adapters=("sql",)))
    with (
        serve(engine) as url,
        run_gateway(home, {"m": url}, models={"m": {"max_tokens": 10}}) as it,
    ):
        save_replica(home, url)
        wait_until(lambda: it.post({"model": "sql"}).status_code == 200)
        with it.client() as client:
            listed = {one["id"]: one for one in client.get("/v1/models").json()["data"]}
        assert it.metrics().count('replicas{model="sql"') == 0
        refused = it.post({"model": "sql", "max_tokens": 11})
        narrow, _ = key_store.add(directory.keys_path(home), "narrow", models=("m",))
        limited = Running(it.process, it.port, narrow, it.log)
        wait_until(lambda: limited.post({"model": "m"}).status_code == 200)
        assert limited.post({"model": "sql"}).status_code == 403
    assert listed["sql"]["parent"] == "m"
    assert "parent" not in listed["m"]
    assert engine.seen[-1].body["model"] == "m"
    assert {one.body["model"] for one in engine.seen} == {"m", "sql"}
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_tokens")
