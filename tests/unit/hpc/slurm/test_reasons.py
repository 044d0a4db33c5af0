"""Slurm's reasons in plain words, and the ones that no waiting mends."""

from __future__ import annotations

import pytest

from hpc.model import JobState
from hpc.slurm import reasons, states

WAITING = """
Prolog Priority Dependency Resources PartitionNodeLimit PartitionDown PartitionInactive BeginTime
Licenses AssociationJobLimit AssociationResourceLimit Reservation ReqNodeNotAvail FrontEndDown
SchedDefer NodeDown QOSUsageThreshold QOSJobLimit QOSResourceLimit Cleaning QOSGrpCpuLimit
QOSGrpCPURunMinutesLimit QOSGrpJobsLimit QOSGrpMemLimit QOSGrpNodeLimit QOSGrpSubmitJobsLimit
QOSMaxCpuPerUserLimit QOSMaxJobsPerUserLimit QOSMaxNodePerUserLimit QOSMaxSubmitJobPerUserLimit
AssocGrpCpuLimit AssocGrpCPURunMinutesLimit AssocGrpJobsLimit AssocGrpMemLimit AssocGrpNodeLimit
AssocGrpSubmitJobsLimit AssocMaxJobsLimit AssocMaxSubmitJobLimit JobArrayTaskLimit
BurstBufferResources BurstBufferStageIn PowerNotAvail PowerReserved AssocGrpUnknown
AssocGrpUnknownRunMinutes AssocGrpMemRunMinutes AssocGrpNodeRunMinutes AssocGrpEnergy
AssocGrpEnergyRunMinutes AssocGrpGRES AssocGrpGRESRunMinutes AssocGrpLicense
AssocGrpLicenseRunMinutes AssocGrpBB AssocGrpBBRunMinutes QOSGrpUnknown QOSGrpUnknownRunMinutes
QOSMaxUnknownPerUser QOSGrpMemoryRunMinutes QOSMaxMemoryPerUser QOSGrpNodeRunMinutes QOSGrpEnergy
QOSGrpEnergyRunMinutes QOSMaxEnergyPerUser QOSGrpGRES QOSGrpGRESRunMinutes QOSMaxGRESPerUser
QOSGrpLicense QOSGrpLicenseRunMinutes QOSMaxLicensePerUser QOSGrpBB QOSGrpBBRunMinutes
QOSMaxBBPerUser MaxBBPerAccount MaxCpuPerAccount MaxEnergyPerAccount MaxGRESPerAccount
MaxNodePerAccount MaxLicensePerAccount MaxMemoryPerAccount MaxUnknownPerAccount MaxJobsPerAccount
MaxSubmitJobsPerAccount PartitionConfig AccountingPolicy FedJobLock AssocGrpBilling
AssocGrpBillingRunMinutes QOSGrpBilling QOSGrpBillingRunMinutes QOSMaxBillingPerUser
MaxBillingPerAccount Constraints
"""
BLOCKED = """
PartitionTimeLimit JobHeldAdmin JobHeldUser AssociationTimeLimit BadConstraints InvalidAccount
InvalidQOS QOSTimeLimit QOSNotAllowed AccountNotAllowed DependencyNeverSatisfied
QOSGrpCPUMinutesLimit QOSGrpWallLimit QOSMaxCpuPerJobLimit QOSMaxCpuMinutesPerJobLimit
QOSMaxNodePerJobLimit QOSMaxWallDurationPerJobLimit QOSMinCpuNotSatisfied AssocGrpCPUMinutesLimit
AssocGrpWallLimit AssocMaxCpuPerJobLimit AssocMaxCpuMinutesPerJobLimit AssocMaxNodePerJobLimit
AssocMaxWallDurationPerJobLimit JobHoldMaxRequeue BurstBufferOperation AssocGrpUnknownMinutes
AssocMaxUnknownPerJob AssocMaxUnknownPerNode AssocMaxUnknownMinutesPerJob AssocMaxCpuPerNode
AssocGrpMemMinutes AssocMaxMemPerJob AssocMaxMemPerNode AssocMaxMemMinutesPerJob
AssocGrpNodeMinutes AssocMaxNodeMinutesPerJob AssocGrpEnergyMinutes AssocMaxEnergyPerJob
AssocMaxEnergyPerNode AssocMaxEnergyMinutesPerJob AssocGrpGRESMinutes AssocMaxGRESPerJob
AssocMaxGRESPerNode AssocMaxGRESMinutesPerJob AssocGrpLicenseMinutes AssocMaxLicensePerJob
AssocMaxLicenseMinutesPerJob AssocGrpBBMinutes AssocMaxBBPerJob AssocMaxBBPerNode
AssocMaxBBMinutesPerJob QOSGrpUnknownMinutes QOSMaxUnknownPerJob QOSMaxUnknownPerNode
QOSMaxUnknownMinutesPerJob QOSMinUnknown QOSMaxCpuPerNode QOSGrpMemoryMinutes QOSMaxMemoryPerJob
QOSMaxMemoryPerNode QOSMaxMemoryMinutesPerJob QOSMinMemory QOSGrpNodeMinutes
QOSMaxNodeMinutesPerJob QOSMinNode QOSGrpEnergyMinutes QOSMaxEnergyPerJob QOSMaxEnergyPerNode
QOSMaxEnergyMinutesPerJob QOSMinEnergy QOSGrpGRESMinutes QOSMaxGRESPerJob QOSMaxGRESPerNode
QOSMaxGRESMinutesPerJob QOSMinGRES QOSGrpLicenseMinutes QOSMaxLicensePerJob
QOSMaxLicenseMinutesPerJob QOSMinLicense QOSGrpBBMinutes QOSMaxBBPerJob QOSMaxBBPerNode QOSMinBB
MaxMemPerLimit AssocGrpBillingMinutes AssocMaxBillingPerJob AssocMaxBillingPerNode
AssocMaxBillingMinutesPerJob QOSGrpBillingMinutes QOSMaxBillingPerJob QOSMaxBillingPerNode
QOSMaxBillingMinutesPerJob QOSMinBilling ReservationDeleted ReservationInvalid
"""


def test_a_reason_that_ends_by_itself_is_a_wait() -> None:
    for word in WAITING.split():
        found = states.status("PENDING", reason=word)
        assert str(found.reason).startswith("waits "), word
        assert str(found.reason).endswith(f" ({word})")
        assert not found.blocked, word


def test_a_reason_that_somebody_must_mend_blocks() -> None:
    for word in BLOCKED.split():
        found = states.status("PENDING", reason=word)
        assert str(found.reason).endswith(f" ({word})"), word
        assert found.blocked, word


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (
            "QOSMaxWallDurationPerJobLimit",
            "never starts: its walltime is over the limit of its QOS",
        ),
        (
            "AssocMaxGRESPerJob",
            "never starts: it asks for more GPUs (GRES) than its account allows",
        ),
        ("QOSMaxMemoryPerNode", "never starts: it asks for more memory on a node than its QOS"),
        ("QOSMinGRES", "never starts: it asks for less GPUs (GRES) than its QOS demands"),
        ("AssocGrpCPUMinutesLimit", "cannot start: the budget of its account is used up"),
        ("AssocGrpGRES", "waits until its account has GPUs (GRES) free, as other jobs end"),
        ("QOSMaxGRESPerUser", "waits until your other jobs release GPUs (GRES), which its QOS"),
        ("ReqNodeNotAvail, UnavailableNodes:c[1-3]", "waits for a node that is not available"),
        ("Nodes required for job are DOWN, DRAINED or reserved", "waits for nodes that are down"),
        ("launch failed requeued held", "held after a start that failed"),
        ("launch_failed_requeued_held", "held after a start that failed"),
        ("job_requeued_in_held_state", "held after a requeue"),
        ("SomethingOfNextYear", "SomethingOfNextYear"),
    ],
)
def test_texts(reason: str, text: str) -> None:
    told = reasons.explain(reason)
    assert told is not None
    assert told.startswith(text)
    assert told.endswith(f"({reason})") or told == reason


def test_a_state_that_says_held_is_not_hidden_by_its_reason() -> None:
    found = states.status("REQUEUE_HOLD", reason="BeginTime")
    assert (found.state, found.reason) == (JobState.PENDING, "held after a requeue")
    assert found.blocked
    assert not states.status("RUNNING", reason="JobHeldUser").blocked
