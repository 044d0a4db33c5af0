"""The workers of a batch on Slurm: how many submissions they cost, and which of them go."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from hpc import slurm
from hpc.batch import control as batch_control
from hpc.batch import submit as batch_submit
from hpc.batch.folder import BatchFolder
from hpc.config import Site
from hpc.errors import StateError, SubmitError
from hpc.model import JobHandle, Resources, ServiceSpec
from hpc.state import directory
from tests.fakes.slurm import FakeSlurm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hpc.batch.model import BatchSpec

SITE = Site()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    """A cluster that is full, so that jobs wait until a test makes room."""
    made = FakeSlurm.install(tmp_path / "slurm", slots=0)
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    yield made
    made.close()


def submit(tmp_path: Path, workers: int) -> BatchSpec:
    lines = [json.dumps({"custom_id": f"r{n}", "prompt": "x"}) for n in range(20)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "m.gguf").touch()
    asked = batch_submit.BatchOptions(
        tmp_path / "in.jsonl", tmp_path / "out.jsonl", "tiny", workers, {"comment": "mine"}
    )
    engine = ServiceSpec(
        *("tiny", "llamacpp", "llama-server", str(tmp_path / "m.gguf")),
        container="none",
        resources=Resources(cpus=1, mem_mb=100, time_min=10),
    )
    return batch_submit.submit(tmp_path / "state", asked, engine=engine, cluster="slurm", site=SITE)


def states_of(tmp_path: Path, spec: BatchSpec) -> dict[str, str]:
    """Return the state of each job by its id."""
    found = batch_control.look(tmp_path / "state", spec.id)
    return {handle.job_id: answer.state.value for handle, answer in found.jobs}


def scale(tmp_path: Path, spec: BatchSpec, workers: int) -> int:
    return batch_control.scale(tmp_path / "state", spec.id, workers, cluster="slurm", site=SITE)


def test_a_hundred_workers_are_one_submission(tmp_path: Path, fake: FakeSlurm) -> None:
    spec = submit(tmp_path, 100)
    assert len(fake.calls("sbatch")) == 1
    assert states_of(tmp_path, spec) == {f"1_{n}": "PENDING" for n in range(100)}
    assert len(fake.calls("squeue")) == 1
    script = fake.script("1")
    assert "#SBATCH --array=0-99\n" in script
    assert "#SBATCH --comment=mine\n" in script
    pickles = (tmp_path / "state" / "jobs" / f"batch-{spec.id}").glob("1_*_submitted.pkl")
    assert len(list(pickles)) == 100


def test_one_worker_is_a_plain_job(tmp_path: Path, fake: FakeSlurm) -> None:
    spec = submit(tmp_path, 1)
    assert states_of(tmp_path, spec) == {"1": "PENDING"}
    assert "--array" not in fake.script("1")


def test_scale_submits_those_that_lack_and_takes_those_that_wait(
    tmp_path: Path, fake: FakeSlurm
) -> None:
    spec = submit(tmp_path, 3)
    assert scale(tmp_path, spec, 5) == 2
    assert len(fake.calls("sbatch")) == 2
    assert scale(tmp_path, spec, 6) == 1
    assert states_of(tmp_path, spec).keys() == {"1_0", "1_1", "1_2", "4_0", "4_1", "6"}
    fake.change("6", state="RUNNING", pid=0)
    assert scale(tmp_path, spec, 2) == -4
    found = states_of(tmp_path, spec)
    assert found.pop("6") == "RUNNING"
    assert sorted(found.values()).count("PENDING") == 1


def test_a_batch_whose_workers_wait_pauses_at_once_and_goes_on(
    tmp_path: Path, fake: FakeSlurm
) -> None:
    spec = submit(tmp_path, 3)
    batch_control.stop(tmp_path / "state", spec.id, word="pause")
    assert batch_control.look(tmp_path / "state", spec.id).state == "PAUSED"
    again = batch_control.resume(
        tmp_path / "state", spec.id, workers=None, cluster="slurm", site=SITE
    )
    assert again == 3
    assert len(fake.calls("sbatch")) == 2
    assert batch_control.look(tmp_path / "state", spec.id).state == "QUEUED"
    batch_control.stop(tmp_path / "state", spec.id, word="cancel")
    assert "PENDING" not in states_of(tmp_path, spec).values()


def test_a_refused_array_leaves_nothing(tmp_path: Path, fake: FakeSlurm) -> None:
    fake.set(max_submit=2)
    with pytest.raises(SubmitError, match="job submit limit"):
        submit(tmp_path, 3)
    assert fake.jobs() == []
    assert batch_control.ids(tmp_path / "state") == []
    assert [path for path in (tmp_path / "state" / "jobs").rglob("*") if path.is_file()] == []
    with pytest.raises(SubmitError, match="invalid job array") as told:
        submit(tmp_path, 2000)
    assert "MaxArraySize" in str(told.value.hint)


def test_workers_that_cannot_be_written_down_are_cancelled(tmp_path: Path, fake: FakeSlurm) -> None:
    spec = submit(tmp_path, 2)
    folder = directory.batch_dir(tmp_path / "state", spec.id)
    taken = BatchFolder(folder).job("3_1")
    taken.mkdir()  # where the second of the next two goes
    with pytest.raises(StateError):
        scale(tmp_path, spec, 4)
    assert {job["state"] for job in fake.jobs() if job["shown"].startswith("3_")} == {"CANCELLED"}
    assert slurm.statuses([JobHandle("1_0", "slurm", "")])["/1_0"].state.value == "PENDING"
