"""How a replica stands, by its own word and the scheduler's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_lite.catalog.models import (
    Model,
    ReplicaStatus,
    not_ready,
    phase_of,
    replica_status,
    speaks,
)
from hpc.model import Endpoint, JobHandle, JobState, JobStatus, Phase
from hpc.state import directory

NOW = 1_000_000.0
OLD = NOW - directory.STALE_S - 1
JOB = JobHandle("7", "slurm", "/jobs")
READY = Endpoint("m", 0, "m", "node1", 4000, Phase.READY, "7", NOW + 600, NOW)


@pytest.mark.parametrize(
    ("phase", "beat_at", "enough"),
    [
        (Phase.READY, NOW, True),
        (Phase.READY, NOW - directory.STALE_S, True),
        (Phase.READY, OLD, False),
        (Phase.READY, NOW + directory.STALE_S + 1, False),
        (Phase.LOADING, NOW, True),
        (Phase.DRAINING, NOW, True),
        (Phase.QUEUED, NOW, False),
        (Phase.STOPPED, NOW, False),
        (Phase.FAILED, NOW, False),
    ],
)
def test_who_speaks_for_itself_is_not_asked_after(
    phase: Phase, beat_at: float, enough: bool
) -> None:
    assert speaks(replace(READY, phase=phase, beat_at=beat_at), NOW) is enough


def test_a_replica_without_a_word_is_asked_after() -> None:
    assert not speaks(None, NOW)


@pytest.mark.parametrize(
    ("endpoint", "status", "phase", "stale"),
    [
        (None, JobStatus(JobState.PENDING), Phase.QUEUED, False),
        (None, JobStatus(JobState.RUNNING), Phase.STARTING, False),
        (None, JobStatus(JobState.GONE), Phase.FAILED, False),
        (None, JobStatus(JobState.DONE), Phase.STOPPED, False),
        (replace(READY, beat_at=OLD), JobStatus(JobState.RUNNING), Phase.READY, True),
        (replace(READY, beat_at=OLD), JobStatus(JobState.ENDING), Phase.DRAINING, True),
        (replace(READY, beat_at=OLD), JobStatus(JobState.GONE), Phase.FAILED, True),
        (replace(READY, beat_at=OLD), JobStatus(JobState.PENDING), Phase.QUEUED, False),
        (replace(READY, phase=Phase.QUEUED), JobStatus(JobState.RUNNING), Phase.STARTING, False),
        (replace(READY, phase=Phase.QUEUED), JobStatus(JobState.PENDING), Phase.QUEUED, False),
        (replace(READY, phase=Phase.FAILED), JobStatus(JobState.FAILED), Phase.FAILED, False),
    ],
)
def test_both_words_make_one_phase(
    endpoint: Endpoint | None, status: JobStatus, phase: Phase, stale: bool
) -> None:
    found = replica_status(0, endpoint, JOB, status, NOW)
    assert (found.phase, found.stale, found.job_id) == (phase, stale, "7")


@given(
    phase=st.sampled_from(Phase),
    age=st.floats(-1e6, 1e6),
    silent=st.sampled_from([None, JobStatus(JobState.UNKNOWN)]),
)
def test_no_answer_changes_nothing(phase: Phase, age: float, silent: JobStatus | None) -> None:
    endpoint = replace(READY, phase=phase, beat_at=NOW - age)
    for job in (None, JOB):
        found = replica_status(0, endpoint, job, silent, NOW)
        assert found.phase is phase_of(endpoint, NOW)
        assert found.stale is (found.phase is not phase)
    assert replica_status(0, None, JOB, silent, NOW) == ReplicaStatus(0, Phase.QUEUED, "7")


def test_a_job_that_waits_tells_why_and_until_when() -> None:
    status = JobStatus(JobState.PENDING, reason="Priority", start_at=NOW + 90)
    found = replica_status(0, None, JOB, status, NOW)
    assert (found.reason, found.start_at) == ("Priority", NOW + 90)
    assert replica_status(0, None, JOB, replace(status, start_at=NOW - 1), NOW).start_at is None


@pytest.mark.parametrize(
    ("eta", "retry"), [(0.5, b"1"), (61.2, b"62"), (120, b"120"), (86_400, b"120")]
)
def test_who_asks_for_a_model_that_waits_is_told_when_to_come_back(
    eta: float, retry: bytes
) -> None:
    members = (
        ReplicaStatus(0, Phase.QUEUED, "7", start_at=NOW + eta, reason="Resources"),
        ReplicaStatus(1, Phase.QUEUED, "8", start_at=NOW + eta + 1000),
        ReplicaStatus(2, Phase.FAILED, "9"),
    )
    error = not_ready("gpt", Model("m", Phase.QUEUED, 3, (), members), NOW)
    headers = dict(error.headers)
    assert error.status == 503
    assert headers[b"retry-after"] == retry
    assert headers[b"x-model-phase"] == b"QUEUED"
    assert error.message.startswith("the model 'gpt' is not ready: QUEUED; Resources; expected")
    assert error.message.endswith(headers[b"x-model-expected-start"].decode())


def test_an_expected_start_is_told_in_utc() -> None:
    members = (ReplicaStatus(0, Phase.QUEUED, "7", start_at=NOW + 0.5),)
    error = not_ready("m", Model("m", Phase.QUEUED, 1, (), members), NOW)
    assert error.message == (
        "the model 'm' is not ready: QUEUED; expected to start at 1970-01-12T13:46:41Z"
    )


def test_another_phase_is_told_as_it_is() -> None:
    members = (
        ReplicaStatus(0, Phase.LOADING, "7"),
        ReplicaStatus(1, Phase.QUEUED, "8", start_at=NOW + 9),
    )
    error = not_ready("m", Model("m", Phase.LOADING, 2, (), members), NOW)
    assert error.message == "the model 'm' is not ready: LOADING"
    assert b"x-model-expected-start" not in dict(error.headers)
    assert not_ready("m", None, NOW).status == 404
