"""The submission of a script: a job's id, by the job's name where sbatch fails to tell the id."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc.errors import CommandError, CommandTimeout, SubmitError
from hpc.processes import programs
from hpc.slurm import command, queue
from hpc.slurm.command import said, without_options
from hpc.slurm.sinfo import this_cluster

if TYPE_CHECKING:
    from pathlib import Path

SUBMIT_S = 180.0
"""Seconds for sbatch: a site's plugins may be slow, and slurmctld gets several tries."""
SEEK_S = 20.0
"""Seconds until a job must be in the queue whose sbatch got no answer."""
SEEK_EVERY_S = 2.0

_ID = re.compile(
    r"(?P<id>\d+)(;(?P<cluster>\S+))?"
    r"|Submitted batch job (?P<id2>\d+)( on cluster (?P<cluster2>\S+))?"  # of a site's wrapper
)
_UNANSWERED = re.compile(
    r"timed out|zero bytes|send/recv|(send|receive|shutdown) failure|unexpected message"
    r"|communication|connection reset|broken pipe|not connected|temporarily unavailable"
    r"|header lengths|insane message|standby mode",
    re.IGNORECASE,
)
"""Complaints after which slurmctld may have taken the job, from Slurm's slurm_errno.c."""
_CLUSTERS = re.compile(
    r"^#SBATCH\s+(--clusters?[= ]|-M\s*)\s*[\"']?(?P<names>[^\s\"']+)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job in Slurm's queue.

    Attributes:
        job_id: its id; of an array, the array's.
        cluster: name of the cluster that holds the job, or "" if unknown.
        named: whether sbatch was told the name, as Slurm's other programs must be.
    """

    job_id: str
    cluster: str
    named: bool = False


def submit(script: Path, name: str) -> Submitted:
    """Submit a script as a job with a unique name.

    The clusters of the script, a site's template included, win over those of the environment.

    Args:
        script: the batch script.
        name: name of the job, shared with no other; it replaces the script's.

    Raises:
        CommandError: Slurm refused the job; ``stderr`` says why.
        SubmitError: nobody knows whether Slurm took the job.
    """
    clusters = _clusters(script.read_text(encoding="utf-8")) or command.clusters(os.environ)
    named = [f"--clusters={clusters}"] if clusters else []
    argv = ["sbatch", "--parsable", f"--job-name={name}", *named, str(script)]
    env = without_options(os.environ)
    try:
        result = programs.run(argv, timeout_s=SUBMIT_S, env=env, check=False)
    except CommandTimeout as error:
        return _seek(name, clusters, str(error))
    told = said(result.stderr)
    if result.returncode == 0:
        found = ids_in(result.stdout)
        if len(found) == 1:
            return found[0] if found[0].named else _placed(found[0].job_id, clusters)
        return _seek(name, clusters, f"its output was {_first_line(result.stdout)!r}")
    if result.returncode < 0 or not told or _UNANSWERED.search(told):
        return _seek(name, clusters, told or f"its exit status was {result.returncode}")
    raise CommandError(f"sbatch: {told}", returncode=result.returncode, stderr=result.stderr)


def ids_in(stdout: str) -> list[Submitted]:
    """Return the jobs in sbatch's output, each alone on a line between notes of the site."""
    lines = (_ID.fullmatch(line.strip()) for line in stdout.splitlines())
    made = [
        Submitted(found["id"] or found["id2"], cluster, named=bool(cluster))
        for found in lines
        if found
        for cluster in [found["cluster"] or found["cluster2"] or ""]
    ]
    return list(dict.fromkeys(made))


def _clusters(text: str) -> str:
    """Return the clusters of a script's options, the last of several, or ""."""
    return ([found["names"] for found in _CLUSTERS.finditer(text)] or [""])[-1]


def _placed(job_id: str, clusters: str) -> Submitted:
    """Return a job with the cluster, where sbatch told the id alone."""
    several = "," in clusters or clusters == "all"
    return Submitted(job_id, "" if several else clusters or this_cluster(), named=bool(clusters))


def _seek(name: str, clusters: str, trouble: str) -> Submitted:
    """Return the job of a name, once Slurm shows it.

    Raises:
        SubmitError: no such job appears, or Slurm does not answer.
    """
    deadline = time.monotonic() + SEEK_S
    answered = False
    while True:
        for cluster in clusters.split(","):
            with suppress(CommandError):
                found = queue.ids_of(name, cluster)
                answered = True
                if found:
                    return _placed(found[0], cluster)
        if time.monotonic() > deadline:
            raise _lost(name, trouble, answered=answered)
        time.sleep(SEEK_EVERY_S)


def _lost(name: str, trouble: str, *, answered: bool) -> SubmitError:
    told = f"sbatch did not say whether Slurm took the job: {trouble}"
    if answered:
        return SubmitError(
            f"{told}; no job of the name {name} is in the queue",
            hint="try again: should the job appear late, it ends by itself and serves nothing",
        )
    return SubmitError(
        f"{told}; nor does squeue answer",
        hint=f"look later: squeue --name={name}; such a job ends by itself and serves nothing",
    )


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")
