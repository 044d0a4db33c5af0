"""The output of this lab's Slurm, recorded for unit tests: one scenario, the same on every release.

The numbers of the jobs are those of a lab that has just started: 1 is the first of them.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from .host import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from .lab import Lab

FORMAT = "JobArrayID:|,State:|,StartTime:|,EndTime:|,NodeList:|,exit_code:|,RestartCnt:|,Reason:|"
SQUEUE = ["squeue", "--local", "--all", "--noheader", "--states=all", f"--Format={FORMAT}"]
SACCT = ["sacct", "--noheader", "--parsable2", "--allocations"]
SACCT_FORMAT = "--format=JobID,State,Start,End,NodeList,ExitCode"
SINFO = ["sinfo", "--local", "--noheader", "--exact", "--format=%P|%a|%l|%L|%D|%c|%m|%G"]
SCANCEL = ["scancel", "--state=PENDING", "9"]  # with --state it asks twice
UTC = {"TZ": "UTC", "LC_ALL": "C", "SLURM_TIME_FORMAT": "standard", "SLURM_BITSTR_LEN": "0"}
GREEDY = "python3 -c 'import time; kept = bytearray(300 * 2**20); time.sleep(60)'"
ENDED = (
    "--wrap=true",
    "--wrap=exit 3",
    "--wrap=kill -9 $$",
    f"--mem=50M --wrap={GREEDY}",
    "--time=1 --wrap=sleep 300",
    "--hold --wrap=true",  # 6, cancelled as it waits
    "--wrap=sleep 300",  # 7, cancelled as it runs
    "--partition=gpu --gres=gpu:3 --wrap=true",  # nodes have two; refused
)
"""Options of jobs that are over when the queue is recorded; the first is job 1."""
ALIVE = (
    "--hold --wrap=true",
    "--wrap=sleep 300",
    "--time=UNLIMITED --wrap=sleep 300",
    "--partition=tiny --time=30 --wrap=true",
    "--nodes=3 --wrap=true",
    "--dependency=afterok:{first} --wrap=true",
    "--begin=now+1hour --wrap=true",
    "--requeue --wrap=sleep 300",  # requeued as it runs
    "--cpus-per-task=4 --array=0-5%2 --wrap=sleep 300",
)
"""Options of jobs that run or wait when the queue is recorded."""


def record(lab: Lab, folder: Path) -> None:
    """Play the scenario in a lab that has just started with accounting; takes two minutes.

    Args:
        lab: it, with no job before.
        folder: where a folder named by Slurm's version gets a file for each program.
    """
    version = lab.run("login", ["sinfo", "--version"]).stdout.split()[1]
    target = folder / version
    target.mkdir(parents=True, exist_ok=True)
    refused = [_submit(lab, options) for options in ENDED]
    wait_until(lambda: " 7 RUNNING" in _states(lab), "job 7 runs", timeout=120)
    lab.run("login", ["scancel", "6", "7"])
    wait_until(lambda: " 5 TIMEOUT" in _states(lab), "job 5 is out of time", timeout=180)
    (target / "overmemory.err").write_text(lab.run("login", ["cat", "4.err"]).stdout)
    (target / "timeout.err").write_text(lab.run("login", ["cat", "5.err"]).stdout)
    refused += _leave_alive(lab)
    for name, argv in (("squeue", SQUEUE), ("sacct", [*SACCT, SACCT_FORMAT]), ("sinfo", SINFO)):
        text = lab.run("login", argv, env=UTC).stdout
        (target / f"{name}.txt").write_text("".join(_stripped(text)))
    (target / "refused.txt").write_text("".join(refused))
    (target / "down.txt").write_text("".join(_without_controller(lab)))
    lab.run("login", ["scancel", "--user=owner"])


def _leave_alive(lab: Lab) -> list[str]:
    first = int(
        lab.run("login", ["sh", "-c", "squeue -ha -t all -o %A | sort -n | tail -1"]).stdout
    )
    refused = [_submit(lab, text.format(first=first + 2)) for text in ALIVE]
    running = lab.run("login", ["sh", "-c", "squeue -h -t R -o %A | sort -n"]).stdout.split()
    again = str(first + 8)
    wait_until(lambda: f" {again} RUNNING" in _states(lab), f"{running}, {again}", timeout=120)
    lab.run("login", ["scontrol", "requeue", again])
    time.sleep(8)  # KillWait and a turn of the scheduler
    return refused


def _submit(lab: Lab, options: str) -> str:
    """Submit a job, and return what Slurm says where it refuses."""
    plain, _, command = options.partition("--wrap=")
    argv = ["sbatch", "--mem=100M", "--output=%j.out", "--error=%j.err", *plain.split()]
    return lab.run("login", [*argv, f"--wrap={command}"], check=False).stderr


def _states(lab: Lab) -> str:
    return lab.run("login", ["squeue", "-ha", "-t", "all", "-o", " %A %T"]).stdout


def _stripped(text: str) -> list[str]:
    return [f"{line.rstrip()}\n" for line in text.splitlines()]


def _without_controller(lab: Lab) -> list[str]:
    """Return what each program says without slurmctld, and with one that hangs, and how late."""
    told = []
    lab.stop("login", "slurmctld")
    told += [_complaint(lab, "down", argv) for argv in (SQUEUE, SINFO, SCANCEL)]
    lab.start("login", "slurmctld")
    lab.run("login", ["sh", "-c", "until sinfo; do sleep 0.2; done"])
    lab.signal("login", "slurmctld", signal.SIGSTOP)
    told += [_complaint(lab, "silent", argv) for argv in (SQUEUE, SINFO, SCANCEL)]
    lab.signal("login", "slurmctld", signal.SIGCONT)
    lab.run("login", ["sh", "-c", "until sinfo; do sleep 0.2; done"])
    return told


def _complaint(lab: Lab, kind: str, argv: list[str]) -> str:
    began = time.monotonic()
    done = lab.run("login", argv, check=False, timeout=150)
    took = time.monotonic() - began
    return (
        f"# {argv[0]}, slurmctld {kind}: exit status {done.returncode}, {took:.1f} s\n{done.stderr}"
    )
