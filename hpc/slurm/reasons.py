"""Slurm's reasons for the wait of a job, in plain words. Pure.

The words are those of ``squeue`` (Slurm, src/common/job_state_reason.c), up to release 25.11. Their
limits follow one pattern, such as ``QOSMaxGRESPerUser``: owner, kind, resource, minutes, scope.
"""

from __future__ import annotations

import re

NEVER = "never starts: "
HELD = "held"
SPENT = "cannot start: "
BLOCKED = (NEVER, HELD, SPENT)
"""Beginnings of texts for jobs that start only after somebody changes the job or a limit."""

WORDS = {
    "Resources": "waits for free resources",
    "Priority": "waits behind jobs of higher priority",
    "Dependency": "waits for another job",
    "BeginTime": "waits for its begin time",
    "Reservation": "waits for its reservation",
    "Licenses": "waits for a licence",
    "Prolog": "waits for the prolog of its nodes",
    "Cleaning": "waits for the end of its last run",
    "SchedDefer": "waits for the scheduler's next round",
    "JobArrayTaskLimit": "waits for other elements of its array",
    "FedJobLock": "waits for another cluster of the federation",
    "BurstBufferResources": "waits for room in the burst buffer",
    "BurstBufferStageIn": "waits for files on the way into the burst buffer",
    "PowerNotAvail": "waits for electrical power",
    "PowerReserved": "waits for electrical power that is reserved",
    "QOSUsageThreshold": "waits until the use of its account is below the threshold of its QOS",
    "QOSJobLimit": "waits until fewer jobs of its QOS run",
    "QOSResourceLimit": "waits until other jobs of its QOS end",
    "AssociationJobLimit": "waits until fewer jobs of its account run",
    "AssociationResourceLimit": "waits until other jobs of its account end",
    "AccountingPolicy": "waits for a limit of its account or QOS",
    "Constraints": "waits for nodes with the features that it asks for",
    "ReqNodeNotAvail": "waits for a node that is not available: down, drained or reserved",
    "Nodes required": "waits for nodes that are down, drained or reserved",
    "NodeDown": "waits for a node that is down",
    "FrontEndDown": "waits for a front end that is down",
    "PartitionDown": "waits for its partition, which is down",
    "PartitionInactive": "waits for its partition, which is inactive",
    "PartitionNodeLimit": "waits for nodes of its partition, or is over its limits",
    "PartitionConfig": "waits for nodes of its partition: none that is up is large enough",
    "JobHeldUser": "held by its user",
    "JobHeldAdmin": "held by an administrator",
    "JobHoldMaxRequeue": "held after too many requeues",
    "BurstBufferOperation": "held, as the burst buffer failed",
    "ReservationDeleted": "held, as its reservation is gone",
    "ReservationInvalid": "never starts: its reservation is not valid",
    "launch failed requeued held": "held after a start that failed",
    "job requeued in held state": "held after a requeue",
    "user env retrieval failed requeued held": "held, as its user's environment was not found",
    "PartitionTimeLimit": "never starts: its walltime is over the partition's limit",
    "BadConstraints": "never starts: no node satisfies what it asks for",
    "DependencyNeverSatisfied": "never starts: the job it waits for failed",
    "AccountNotAllowed": "never starts: the partition refuses its account",
    "QOSNotAllowed": "never starts: the partition refuses its QOS",
    "InvalidAccount": "never starts: its account is not valid",
    "InvalidQOS": "never starts: its QOS is not valid",
    "MaxMemPerLimit": "never starts: it asks for more memory than a CPU or node may give",
    "QOSTimeLimit": "cannot start: the time of its QOS is used up",
    "AssociationTimeLimit": "cannot start: the time of its account is used up",
    "DeadLine": "never starts: its deadline passed",
    "RaisedSignal": "ended by a signal",
    "NonZeroExitCode": "exited with an error",
}
_RESOURCES = {
    "Cpu": "CPUs",
    "CPU": "CPUs",
    "Mem": "memory",
    "Memory": "memory",
    "Node": "nodes",
    "GRES": "GPUs (GRES)",
    "Billing": "billing units",
    "BB": "burst buffer",
    "Energy": "energy",
    "License": "licences",
    "Unknown": "resources",
}
_LIMIT = re.compile(
    r"(?P<owner>QOS|Assoc|(?=Max))(?P<kind>Grp|Max|Min)"
    r"(?P<of>SubmitJobs?|Jobs?|WallDuration|Wall|"
    + "|".join(sorted(_RESOURCES, reverse=True))
    + ")"
    r"(?P<minutes>RunMinutes|Minutes)?(?P<scope>PerJob|PerNode|PerUser|PerAccount)?"
    r"(Limit|NotSatisfied)?"
)
_NO_REASON = {"", "None", "(null)", "NonZeroExitCode"}


def explain(reason: str) -> str | None:
    """Return a reason in plain words, with Slurm's own word in parentheses; None is no reason."""
    plain = reason.strip()
    if plain in _NO_REASON:
        return None
    text = _text(plain)
    return f"{text} ({plain})" if text else plain


def blocks(text: str | None) -> bool:
    """Return whether a job with an explained reason starts only after somebody's action."""
    return text is not None and text.startswith(BLOCKED)


def _text(plain: str) -> str | None:
    # Some reasons are sentences, with spaces or with underscores, and a list of nodes behind.
    spaced = plain.replace("_", " ").removeprefix("(")
    sentence = next((word for word in WORDS if " " in word and spaced.startswith(word)), None)
    word = sentence or re.split(r"[,:( ]", plain, maxsplit=1)[0]
    limit = _LIMIT.fullmatch(word)
    return WORDS.get(word) or (_limit(limit) if limit else None)


def _limit(limit: re.Match[str]) -> str:
    """Return the text of a limit of a QOS or of an association (account, user, partition)."""
    owner = "its account" if limit["owner"] == "Assoc" else "its QOS"
    if limit["kind"] == "Grp":
        return _of_all(owner, limit["of"], limit["minutes"])
    if limit["of"] in _RESOURCES and limit["scope"] in {"PerUser", "PerAccount"}:
        whose = "your other jobs" if limit["scope"] == "PerUser" else "other jobs of its account"
        return f"waits until {whose} release {_RESOURCES[limit['of']]}, which {owner} limits"
    if limit["of"].startswith(("Job", "Submit")):
        whose = "jobs of its account" if limit["scope"] == "PerAccount" else "of your jobs"
        return f"waits until fewer {whose} are there, which {owner} limits"
    return NEVER + _of_one(owner, limit)


def _of_all(owner: str, of: str, minutes: str | None) -> str:
    """Return the text of a limit on all jobs of an owner together."""
    if of == "Wall":
        return f"{SPENT}the walltime of {owner} is used up"
    if of not in _RESOURCES:
        return f"waits until fewer jobs of {owner} are there"
    if minutes == "Minutes":
        return f"{SPENT}the budget of {owner} is used up: {_RESOURCES[of]} times minutes"
    left = f"has less {_RESOURCES[of]} times minutes ahead" if minutes else ""
    return f"waits until {owner} {left or f'has {_RESOURCES[of]} free, as other jobs end'}"


def _of_one(owner: str, limit: re.Match[str]) -> str:
    """Return the text of a limit on each job by itself."""
    if limit["of"].startswith("Wall"):
        return f"its walltime is over the limit of {owner}"
    resource = _RESOURCES[limit["of"]]
    if limit["kind"] == "Min":
        return f"it asks for less {resource} than {owner} demands"
    if limit["minutes"]:
        return f"its {resource} times its walltime are over the limit of {owner}"
    on = " on a node" if limit["scope"] == "PerNode" else ""
    return f"it asks for more {resource}{on} than {owner} allows a job"
