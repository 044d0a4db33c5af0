"""A Slurm of one machine: sbatch and its kin as real programs that run jobs as processes.

Output formats and complaints are those recorded from Slurm 22.05.8 and 24.11.5. Options that are
not known fail, so that nothing passes here that a real Slurm would refuse.

As a library, `FakeSlurm` sets one up in a folder; as a program, this file is every command.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = """\
Configuration data as of 2026-11-20T12:00:00
AccountingStorageEnforce = associations,limits
ClusterName             = {cluster}
KillWait                = 30 sec
"""
COMMANDS = (
    "sbatch", "squeue", "sacct", "sacctmgr", "scancel", "sinfo", "scontrol", "scrontab",
)  # fmt: skip
FOLDER = "FAKE_SLURM"
NODE = "fake1"
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL"}
SETTINGS: dict[str, Any] = {
    "controller": "up",  # or "down", or "silent", or "empty": squeue shows nothing, without a word
    "cluster": "fake",
    "siblings": {},  # folders of further clusters, by name, for --clusters
    "down_after": 0,  # submissions, after which the controller is down; 0 is never
    "sbatch_notes": [],  # lines that the site prints before sbatch's own
    "sbatch_lost": "",  # "taken" or "dropped": the job's fate at a submission without an answer
    "sbatch_appears_s": 0,  # until squeue shows such a job
    "accounting": False,
    "scrontab": False,
    "slots": 4,
    "max_submit": 1000,
    "min_job_age_s": 300,
    "associations": [],
    "users": [],
    "rules": [],
    "minute_s": 60,
    "partitions": {
        "cpu": "cpu*|up|1-00:00:00|1:00:00|2|4|16000|(null)",
        "gpu": "gpu|up|infinite|n/a|2|64|512000|gpu:h100:2(S:0-1)",
    },
}
MAX_ARRAY = 1001
KILL_WAIT_S = {"CANCELLED": 2, "TIMEOUT": 2, "REQUEUED": 10}
"""Seconds between SIGTERM and SIGKILL; a job that ends by itself may be on a busy machine."""
BITSTR = 64
"""Characters of an array's waiting elements that squeue shows where SLURM_BITSTR_LEN is not set."""
LIMIT = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
TIMED_OUT = "Socket timed out on send/recv operation"
DOWN = "Unable to contact slurm controller (connect failure)"


@dataclass(frozen=True)
class FakeSlurm:
    """One fake cluster in a folder."""

    folder: Path

    @classmethod
    def install(cls, folder: Path, **settings: Any) -> FakeSlurm:
        """Set one up; its programs lie in `bin`."""
        fake = cls(folder)
        (folder / "jobs").mkdir(parents=True)
        fake.bin.mkdir()
        for name in COMMANDS:
            path = fake.bin / name
            words = [sys.executable, "-S", "-E", str(Path(__file__).resolve()), name]
            path.write_text(
                f'#!/bin/sh\n{FOLDER}={shlex.quote(str(folder))} exec {shlex.join(words)} "$@"\n'
            )
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        fake.set(**{**SETTINGS, **settings})
        return fake

    @property
    def bin(self) -> Path:
        """The folder that belongs on PATH."""
        return self.folder / "bin"

    def set(self, **settings: Any) -> None:
        """Change settings of the cluster."""
        path = self.folder / "settings.json"
        now = json.loads(path.read_text()) if path.exists() else {}
        _replace(path, now | settings)

    def calls(self, program: str) -> list[list[str]]:
        """Return the arguments of every call of one program."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [argv[1:] for argv in map(json.loads, lines) if argv[0] == program]

    def job(self, job_id: str) -> dict[str, Any]:
        """Return the record of one job; an element of an array has a number of its own."""
        record: dict[str, Any] = json.loads((self.folder / "jobs" / f"{job_id}.json").read_text())
        return record

    def script(self, job_id: str) -> str:
        """Return what sbatch received."""
        return (self.folder / "jobs" / f"{job_id}.sh").read_text()

    def change(self, job_id: str, **values: Any) -> None:
        """Change the record of one job, as slurmctld might."""
        with _locked(self.folder):
            _replace(self.folder / "jobs" / f"{job_id}.json", self.job(job_id) | values)

    def jobs(self) -> list[dict[str, Any]]:
        """Return all records by id."""
        found = (json.loads(path.read_text()) for path in (self.folder / "jobs").glob("*.json"))
        return sorted(found, key=lambda job: int(job["id"]))

    def close(self) -> None:
        """End every job."""
        for job in self.jobs():
            self.change(job["id"], cancelled=True)
            for pid in (job["keeper"], job["pid"]):
                if pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)


def _replace(path: Path, value: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fail(message: str, code: int = 1) -> None:
    sys.stderr.write(f"{message}\n")
    sys.exit(code)


def _parser(*options: str, flags: tuple[str, ...] = ()) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for option in options:
        parser.add_argument(f"--{option}")
    for flag in flags:
        parser.add_argument(f"--{flag}", action="store_true")
    return parser


REFUSED = "sbatch: error: Batch job submission failed:"


def sbatch(fake: FakeSlurm, settings: dict[str, Any], argv: list[str]) -> None:
    """Take a script and start it when there is a slot."""
    parser = _parser("job-name", "clusters", flags=("parsable",))
    parser.add_argument("script", type=Path)
    args = parser.parse_args(argv)
    if settings["sbatch_lost"] == "dropped":
        _fail(f"{REFUSED} {TIMED_OUT}")
    if settings["controller"] != "up":
        _fail(f"{REFUSED} {DOWN}")
    text = args.script.read_text()
    options = _options(text) | ({"job-name": args.job_name} if args.job_name else {})
    numbers = _enqueue(fake, settings, text, options)
    _start(fake, numbers)
    if max(numbers) == settings["down_after"]:
        fake.set(controller="down")
    if settings["sbatch_lost"] == "taken":
        _fail(f"{REFUSED} {TIMED_OUT}")
    first = min(numbers)
    where = f";{settings['cluster']}" if args.clusters else ""
    told = f"{first}{where}" if args.parsable else f"Submitted batch job {first}"
    sys.stdout.write("".join(f"{line}\n" for line in [*settings["sbatch_notes"], told]))


def _options(text: str) -> dict[str, str]:
    """Return the options of a script, and those of the environment, which are stronger."""
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", text, re.MULTILINE)
    options = {name: shlex.split(value)[0] if value else "" for name, value in found}
    return options | {
        key.removeprefix("SBATCH_").lower(): value
        for key, value in os.environ.items()
        if key.startswith("SBATCH_")
    }


def _enqueue(
    fake: FakeSlurm, settings: dict[str, Any], text: str, options: dict[str, str]
) -> list[int]:
    """Record a job or the elements of an array, and return their numbers; or refuse them."""
    partition = options.get("partition", "cpu")
    if partition not in settings["partitions"]:
        sys.stderr.write(f"sbatch: error: invalid partition specified: {partition}\n")
        _fail(f"{REFUSED} Invalid partition name specified")
    if not re.fullmatch(r"[\d:-]+|UNLIMITED", options.get("time", "1")):
        _fail("sbatch: error: Invalid --time specification", 255)
    count = _elements(options["array"]) if "array" in options else 1
    if not 0 < count <= MAX_ARRAY:
        _fail(f"{REFUSED} Invalid job array specification")
    with _locked(fake.folder):
        alive = sum(job["state"] not in OVER for job in fake.jobs())
        if alive + count > settings["max_submit"]:
            sys.stderr.write("sbatch: error: AssocMaxSubmitJobLimit\n")
            _fail(f"{REFUSED} {LIMIT}")
        first = 1 + max((int(job["id"]) for job in fake.jobs()), default=0)
        # As in a real one, the last element to start has the number of the array.
        numbers = [*range(first + 1, first + count), first]
        shown = [f"{first}_{n}" for n in range(count)] if "array" in options else [str(first)]
        for number, name in zip(numbers, shown, strict=True):
            (fake.folder / "jobs" / f"{number}.sh").write_text(text)
            _replace(fake.folder / "jobs" / f"{number}.json", _record(str(number), name, options))
    return numbers


def _start(fake: FakeSlurm, numbers: list[int]) -> None:
    keeper = subprocess.Popen(
        [sys.executable, "-S", "-E", __file__, "keep", *map(str, numbers)],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for number in numbers:
        fake.change(str(number), keeper=keeper.pid)


def _elements(array: str) -> int:
    """Return how many jobs an option stands for; other forms than 0-N are not known."""
    found = re.fullmatch(r"0-(\d+)", array)
    return int(found[1]) + 1 if found else 0


def _record(job_id: str, shown: str, options: dict[str, str]) -> dict[str, Any]:
    array, _, index = shown.partition("_")
    named = {"%j": job_id, "%A": array, "%a": index}
    paths = [options["output"], options.get("error", options["output"])]
    for mark, value in named.items():
        paths = [path.replace(mark, value) for path in paths]
    return {
        "id": job_id,
        "shown": shown,
        "name": options["job-name"],
        "submitted": time.time(),
        "state": "PENDING",
        "reason": "JobHeldUser" if "hold" in options else "Priority",
        "start": None,
        "ran": False,
        "end": None,
        "code": 0,
        "cwd": str(Path.cwd()),
        "minutes": _minutes(options.get("time", "60")),
        "signal_s": int(options["signal"].partition("@")[2]) if "signal" in options else None,
        "stdout": paths[0],
        "stderr": paths[1],
        "environment": dict(os.environ),
        "held": "hold" in options,
        "begin": _moment(options["begin"]) if "begin" in options else 0,
        "cancelled": False,
        "requeue": False,
        "restarts": 0,
        "pid": 0,
        "keeper": 0,
    }


def _minutes(text: str) -> int:
    if text == "UNLIMITED":
        return 0
    days, _, clock = text.rpartition("-")
    hours, minutes, _ = clock.split(":") if ":" in clock else ("0", clock, "0")
    return int(days or 0) * 1440 + int(hours) * 60 + int(minutes)


def _moment(text: str) -> float:
    return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))


def keep(fake: FakeSlurm, settings: dict[str, Any], argv: list[str]) -> None:
    """Run jobs to their ends."""
    threads = [threading.Thread(target=_keep, args=(fake, settings, job_id)) for job_id in argv]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _keep(fake: FakeSlurm, settings: dict[str, Any], job_id: str) -> None:
    """Run one job to its end, again where it is requeued."""
    while True:
        while not _take_slot(fake, job_id):
            if fake.job(job_id)["cancelled"]:
                fake.change(job_id, state="CANCELLED", end=time.time())
                return
            time.sleep(0.05)
        state, code = _run(fake, settings, fake.job(job_id))
        job = fake.job(job_id)
        if job["requeue"] and not job["cancelled"]:
            again = {"requeue": False, "restarts": job["restarts"] + 1, "start": None, "pid": 0}
            fake.change(job_id, state="PENDING", reason="BeginTime", **again)
            continue
        fake.change(job_id, state=state, code=code, end=time.time(), pid=0)
        return


def _take_slot(fake: FakeSlurm, job_id: str) -> bool:
    if fake.job(job_id)["held"]:
        return False
    slots = json.loads((fake.folder / "settings.json").read_text())["slots"]
    with _locked(fake.folder):
        job = fake.job(job_id)
        busy = sum(other["state"] in {"RUNNING", "COMPLETING"} for other in fake.jobs())
        early = time.time() < job["begin"]
        free = busy < slots and not job["cancelled"] and not early
        if free:
            job |= {"state": "RUNNING", "start": time.time(), "reason": "None", "ran": True}
        else:
            job |= {"reason": "BeginTime" if early else "Resources"}
        _replace(fake.folder / "jobs" / f"{job_id}.json", job)
        return free


def _unwanted(job: dict[str, Any]) -> bool:
    return bool(job["cancelled"] or job["requeue"])


def _array_variables(shown: str) -> dict[str, str]:
    array, _, index = shown.partition("_")
    return {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": index} if index else {}


def _run(fake: FakeSlurm, settings: dict[str, Any], job: dict[str, Any]) -> tuple[str, int]:
    limit = job["minutes"] * settings["minute_s"] or 10**9
    env = job["environment"] | {
        "SLURM_JOB_ID": job["id"],
        **_array_variables(job["shown"]),
        **({"SLURM_RESTART_COUNT": str(job["restarts"])} if job["restarts"] else {}),
        "SLURMD_NODENAME": NODE,
        "SLURM_JOB_NODELIST": NODE,
        "SLURM_JOB_END_TIME": str(int(job["start"] + limit)),
    }
    with Path(job["stdout"]).open("a") as out, Path(job["stderr"]).open("a") as err:
        process = subprocess.Popen(
            ["bash", str(fake.folder / "jobs" / f"{job['id']}.sh")],
            start_new_session=True,
            cwd=job["cwd"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
    fake.change(job["id"], pid=process.pid)
    warned, ended_by = False, None
    while process.poll() is None:
        age = time.time() - job["start"]
        if (
            job["signal_s"]
            and not warned
            and age > limit - job["signal_s"] * settings["minute_s"] / 60
        ):
            process.send_signal(signal.SIGUSR2)
            warned = True
        if ended_by is None and (_unwanted(fake.job(job["id"])) or age > limit):
            cancelled = fake.job(job["id"])["cancelled"]
            ended_by = "TIMEOUT" if age > limit else "CANCELLED" if cancelled else "REQUEUED"
            fake.change(job["id"], state="COMPLETING")
            os.killpg(process.pid, signal.SIGTERM)
            killed_at = time.time() + KILL_WAIT_S[ended_by]
        if ended_by is not None and time.time() > killed_at:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    code = -process.returncode if process.returncode < 0 else process.returncode << 8
    ended_by = "CANCELLED" if ended_by == "REQUEUED" else ended_by  # if it is, after all
    return ended_by or ("FAILED" if code else "COMPLETED"), code


def squeue(fake: FakeSlurm, settings: dict[str, Any], argv: list[str]) -> None:
    """Print the rows asked for."""
    if settings["controller"] == "silent":
        time.sleep(100)  # longer than anybody should wait
        _fail(f"slurm_load_jobs error: {TIMED_OUT}")
    if settings["controller"] == "down":
        _fail(f"slurm_load_jobs error: {DOWN}")
    flags = ("local", "all", "noheader")
    args = _parser("user", "states", "Format", "clusters", "jobs", flags=flags).parse_args(argv)
    if settings["controller"] == "empty":
        return
    if args.jobs:
        known = [job for job in fake.jobs() if _shows(job, settings, everything=True)]
        if not _named(known, args.jobs):
            _fail("slurm_load_jobs error: Invalid job id specified")
        sys.stdout.write(f"{args.jobs} as squeue's default format has it\n")
        return
    for name, job in _rows(fake.jobs()):
        if _shows(job, settings, everything=args.states == "all"):
            cells = _cells(name, job)
            row = (part.partition(":") for part in args.Format.split(","))
            sys.stdout.write("".join(cells[field] + end for field, _, end in row) + "\n")


def _shows(job: dict[str, Any], settings: dict[str, Any], *, everything: bool) -> bool:
    now = time.time()
    if now - job["submitted"] < settings["sbatch_appears_s"]:
        return False
    fresh = everything and job["end"] and now - job["end"] <= settings["min_job_age_s"]
    return bool(job["state"] not in OVER or fresh)


def _cells(name: str, job: dict[str, Any]) -> dict[str, str]:
    started = job["start"] is not None
    ends = job["end"] or (job["start"] + job["minutes"] * 60 if started and job["minutes"] else 0)
    return {
        "JobArrayID": name,
        "State": job["state"],
        "StartTime": _clock(job["start"]) if started else "N/A",
        "EndTime": _clock(ends) if ends else "NONE" if started else "N/A",
        "NodeList": NODE if started else "",
        "exit_code": str(job["code"]),
        "RestartCnt": str(job["restarts"]),
        "Name": job["name"],
        "Reason": "NonZeroExitCode" if job["state"] == "FAILED" else job["reason"],
    }


def _rows(jobs: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a row for each job, but one for all elements of an array that wait.

    Of those that were cancelled as they waited only the array's number is left, as in a real one.
    """
    waiting: dict[str, list[dict[str, Any]]] = {}
    for job in jobs:
        array, _, index = job["shown"].partition("_")
        if index and job["state"] == "PENDING":
            waiting.setdefault(array, []).append(job)
        elif index and job["state"] == "CANCELLED" and not job["ran"]:
            if array == job["id"]:
                yield array, job
        else:
            yield job["shown"], job
    for array, found in waiting.items():
        expression = ",".join(_runs(sorted(int(job["shown"].partition("_")[2]) for job in found)))
        length = int(os.environ.get("SLURM_BITSTR_LEN", BITSTR)) or len(expression)
        whole = length >= len(expression)
        yield f"{array}_[{expression}]" if whole else f"{array}_[{expression[:length]}", found[0]


def _runs(numbers: list[int]) -> Iterator[str]:
    """Yield numbers as Slurm writes them: 1,2,3,5 is 1-3,5."""
    first = last = numbers[0]
    for number in [*numbers[1:], None]:
        if number != last + 1:
            yield str(first) if first == last else f"{first}-{last}"
            first = number if number is not None else first
        last = number if number is not None else last


def _named(jobs: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the jobs that scancel, sacct and scontrol mean: one, or all of an array."""
    return [job for job in jobs if name in {job["shown"], job["shown"].partition("_")[0]}]


def sacct(fake: FakeSlurm, settings: dict[str, Any], argv: list[str]) -> None:
    """Print what an accounting would have kept."""
    if not settings["accounting"]:
        _fail("Slurm accounting storage is disabled")
    flags = ("noheader", "parsable2", "allocations")
    args = _parser("format", "jobs", "starttime", "clusters", flags=flags).parse_args(argv)
    asked = args.jobs.split(",") if args.jobs else []
    for name, job in _rows(fake.jobs()):
        if name in asked:
            code = job["code"]
            by = f" by {os.getuid()}" if job["state"] == "CANCELLED" else ""
            cells = {
                "JobID": name,
                "State": job["state"] + by,
                "Start": _clock(job["start"]) if job["start"] else "None",
                "End": _clock(job["end"]) if job["end"] else "Unknown",
                "NodeList": NODE if job["start"] else "None assigned",
                "ExitCode": f"{code >> 8}:{code & 0x7F}",
                "JobName": job["name"],
            }
            sys.stdout.write("|".join(cells[field] for field in args.format.split(",")) + "\n")


def _clock(moment: float) -> str:
    if os.environ.get("SLURM_TIME_FORMAT") == "relative":
        return time.strftime("%H:%M:%S", time.localtime(moment))
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(moment))


def scancel(fake: FakeSlurm, settings: dict[str, Any], argv: list[str]) -> None:
    """Signal or end jobs."""
    parser = _parser("state", "signal", "clusters", flags=("batch",))
    parser.add_argument("ids", nargs="*")
    args = parser.parse_args(argv)
    failed = False
    for job_id in args.ids:
        fault = None if settings["controller"] == "up" else DOWN
        alive = [job for job in fake.jobs() if job["state"] not in OVER]
        known = _named(alive, job_id)
        if fault is None and not known:
            fault = "Invalid job id specified"
        if fault:
            sys.stderr.write(f"scancel: error: Kill job error on job id {job_id}: {fault}\n")
            failed = True
            continue
        for job in known:
            if not args.state or job["state"] == args.state:
                _end(fake, alive, job, args.signal)
    sys.exit(int(failed))


def _end(fake: FakeSlurm, alive: list[dict[str, Any]], job: dict[str, Any], name: str) -> None:
    if not name:
        with _locked(fake.folder):
            job = fake.job(job["id"])
            waits = job["state"] == "PENDING"
            over = {"state": "CANCELLED", "end": time.time()} if waits else {}
            _replace(fake.folder / "jobs" / f"{job['id']}.json", job | {"cancelled": True} | over)
        return
    if job["state"] == "PENDING":
        time.sleep(100)  # "Job is in transitional state, retrying"
    if job["pid"]:
        os.kill(job["pid"], getattr(signal, f"SIG{name}"))
    array, _, index = job["shown"].partition("_")
    if index and any(other["state"] == "PENDING" for other in _named(alive, array)):
        time.sleep(100)  # the same, though the signal was sent


def sinfo(fake: FakeSlurm, settings: dict[str, Any], argv: list[str]) -> None:
    """Print the partitions."""
    if settings["controller"] != "up":
        _fail(f"slurm_load_partitions: {DOWN}")
    args = _parser("format", flags=("local", "noheader", "exact")).parse_args(argv)
    if args.format != "%P|%a|%l|%L|%D|%c|%m|%G|%T":
        _fail(f"this fake does not know the format {args.format}")
    rows = settings["partitions"].values()
    sys.stdout.write("".join(f"{row}{'|idle' * (row.count('|') == 7)}\n" for row in rows))


def sacctmgr(fake: FakeSlurm, settings: dict[str, Any], argv: list[str]) -> None:
    """Print the user's associations and default account."""
    del fake
    if not settings["accounting"]:
        _fail("sacctmgr: error: slurm_persist_conn_open_without_init: failed to open persistent")
    if argv[:3] != ["--noheader", "--parsable2", "show"]:
        _fail(f"this fake does not know sacctmgr {argv}")
    sys.stdout.write("".join(f"{row}\n" for row in settings[argv[3]]))


def scontrol(fake: FakeSlurm, settings: dict[str, Any], argv: list[str]) -> None:
    """Requeue a job, as submitit does from inside it, or print settings."""
    if argv == ["show", "config"]:
        sys.stdout.write(CONFIG.format(cluster=settings["cluster"]))
        return
    if argv == ["--oneliner", "show", "partition"]:
        sys.stdout.write("".join(f"{row}\n" for row in settings["rules"]))
        return
    if argv[0] != "requeue":
        _fail(f"this fake does not know scontrol {argv[0]}")
    for job in _named(fake.jobs(), argv[1]):
        if job["state"] == "RUNNING":
            fake.change(job["id"], requeue=True)
        # One that runs inside the job which it requeues may be ended with it before it has its
        # answer, on real nodes under load too; here it always is, unless SIGTERM is ignored.
        inside = os.environ.get("SLURM_JOB_ID") == job["id"]
        while inside and fake.job(job["id"])["state"] == "RUNNING":
            time.sleep(0.02)


def scrontab(fake: FakeSlurm, settings: dict[str, Any], argv: list[str]) -> None:
    """Keep a table; starting what stands in it is left to the test."""
    path = fake.folder / "scrontab"
    if settings["controller"] != "up":
        _fail(f"scrontab: error: {DOWN}")
    if not settings["scrontab"]:
        _fail("scrontab: fatal: scrontab is disabled on this cluster")
    if argv == ["-l"]:
        if not path.exists():
            sys.stdout.write("no crontab for me\n")  # where Slurm writes it too
            sys.exit(1)
        sys.stdout.buffer.write(path.read_bytes())
        return
    if argv != ["-"]:
        _fail(f"this fake does not know scrontab {argv}")
    table = sys.stdin.buffer.read()
    text = table.decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not all(re.match(r"([\d*,/-]+ ){5}\S", line) for line in lines):
        sys.stdout.write("There are errors in your crontab.\n")
        _fail("scrontab: error: something is broken")
    path.write_bytes(table)


def _asked_cluster(argv: list[str]) -> str:
    """Return the value of --clusters on a command line, as one name."""
    found = [word.partition("=")[2] for word in argv if word.startswith("--clusters=")]
    return found[-1] if found else ""


def main() -> None:
    """Be the program that the first argument names."""
    name, *argv = sys.argv[1:]
    fake = FakeSlurm(Path(os.environ[FOLDER]))
    settings = json.loads((fake.folder / "settings.json").read_text())
    if name != "keep":
        with _locked(fake.folder), (fake.folder / "calls").open("a") as file:
            file.write(json.dumps([name, *argv]) + "\n")
    wanted = _asked_cluster(argv)
    if wanted and wanted != settings["cluster"]:
        if wanted not in settings["siblings"]:
            _fail(f"{name}: error: '{wanted}' can't be reached now, or it is an invalid entry")
        fake = FakeSlurm(Path(settings["siblings"][wanted]))
        os.environ[FOLDER] = str(fake.folder)  # of the keeper of its jobs
        settings = json.loads((fake.folder / "settings.json").read_text())
    globals()[name](fake, settings, argv)


if __name__ == "__main__":
    main()
