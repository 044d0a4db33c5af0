"""The Slurm contract on the lab's real Slurm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("tests.contract.slurm_suite")

from tests.contract.clusters import LabCluster  # noqa: E402
from tests.contract.slurm_suite import *  # noqa: E402, F403 - the tests

if TYPE_CHECKING:
    from tests.lab.cluster import Cluster


@pytest.fixture
def slurm(cluster: Cluster) -> LabCluster:
    return LabCluster(cluster.lab)


def test_accounting_knows_what_left_the_queue(slurm: LabCluster, accounting: None) -> None:
    """The queue keeps an ended job for minutes, so the accounting is asked directly."""
    found = slurm.python(
        """
from hpc.slurm import queue
ended, stopped, busy = call(functools.partial(os._exit, 3)), sleep(), sleep()
until(ended, 'FAILED'); until(stopped, 'RUNNING'); jobs.cancel([stopped]); until(stopped, 'FAILED')
until(busy, 'RUNNING')
ids = [ended.job_id, stopped.job_id, busy.job_id, '999999']
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    found = queue._accounting(ids)
    if [found[i].state.value for i in ids[:2] if i in found] == ['FAILED', 'FAILED']:
        break
    time.sleep(1)
jobs.cancel([busy])
tell([slurm.has_accounting(), *map(found.get, ids[:3]), ids[3] in found])
"""
    )
    answers, ended, stopped, busy, phantom = found
    assert answers is True
    assert (ended["reason"], ended["exit_code"]) == ("exit status 3", 3)
    assert stopped["reason"].startswith("cancelled by uid")
    assert busy["state"] == "UNKNOWN"
    assert phantom is False


def test_without_accounting_sacct_is_no_obstacle(slurm: LabCluster, no_accounting: None) -> None:
    has, found = slurm.python("tell([slurm.has_accounting(), slurm.statuses([unknown('999999')])])")
    assert has is False
    assert found["/999999"]["state"] == "GONE"
