"""The Slurm contract on a fake Slurm of this machine, whose jobs are real processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from hpc.slurm import scrontab

pytest.register_assert_rewrite("tests.contract.slurm_suite")

from tests.contract.clusters import FakeCluster  # noqa: E402
from tests.contract.slurm_suite import *  # noqa: E402, F403 - the tests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[FakeCluster]:
    made = FakeCluster.start(tmp_path)
    yield made
    made.stop()


def test_the_fake_clusters_accounting_is_asked_about_what_left_the_queue(
    slurm: FakeCluster,
) -> None:
    ended = slurm.python("h = call(functools.partial(os._exit, 3)); until(h, 'FAILED'); tell(h)")
    stopped = slurm.python("h = sleep(); jobs.cancel([h]); until(h, 'FAILED'); tell(h)")
    slurm.fake.set(min_job_age_s=-1)
    ask = f"tell(jobs.statuses([JobHandle(**h) for h in ({ended}, {stopped})]))"
    without = slurm.python(ask.replace("**h", "**{**h, 'submitted_at': 0}"))
    assert [answer["state"] for answer in without.values()] == ["GONE", "GONE"]
    fresh = slurm.python(ask)
    assert [answer["reason"] for answer in fresh.values()] == ["just submitted"] * 2
    slurm.fake.set(accounting=True)
    first, second = slurm.python(ask).values()
    assert (first["state"], first["reason"]) == ("FAILED", "exit status 3")
    assert second["reason"].startswith("cancelled by uid")


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("echo 'no crontab for ada'; exit 1", ""),
        ("echo 'no crontab for ada' >&2; exit 1", ""),
        ("echo 'scrontab: no crontab for ada' >&2; exit 1", ""),
        ("echo 'no crontab for ada'", ""),
        ("echo '# no crontab for ada'", "# no crontab for ada\n"),
        ("echo 'scrontab: fatal: scrontab is disabled on this cluster' >&2; exit 1", None),
        ("echo 'no crontab for ada'; echo '0 4 * * 0 /bin/true'", "no crontab for ada\n0 4"),
    ],
)
def test_a_user_without_a_scrontab_is_told_from_a_site_without(
    program: str, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scrontab").write_text(f"#!/bin/sh\n{program}\n")
    (tmp_path / "scrontab").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    told = scrontab.read()
    assert told is None if found is None else str(told).startswith(found)


def test_two_hundred_jobs_cost_one_squeue(slurm: FakeCluster) -> None:
    slurm.python(
        "h = sleep(0); tell(jobs.statuses([JobHandle(str(n), 'slurm', '') for n in range(1, 201)]))"
    )
    assert len(slurm.fake.calls("squeue")) == 1
    assert len(slurm.fake.calls("sacct")) == 1


def test_the_walltime_ends_a_job_with_notice(slurm: FakeCluster) -> None:
    """Minutes of this fake last two seconds; submitit counts real ones and gives up at once."""
    slurm.fake.set(minute_s=2)
    found, log = slurm.python(
        "h = call(functools.partial(time.sleep, 60), time_min=3); found = until(h, 'FAILED');"
        "tell([found, jobs.logs(h)[1].read_text()])"
    )
    assert found["state"] == "FAILED"
    assert "Job not requeued because: timed-out" in log
