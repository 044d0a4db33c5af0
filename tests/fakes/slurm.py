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
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = """\
Configuration data as of 2026-11-20T12:00:00
AccountingStorageEnforce = associations,limits
KillWait                = 30 sec
"""
COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "sinfo", "scontrol", "scrontab")
FOLDER = "FAKE_SLURM"
NODE = "fake1"
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL"}
SETTINGS: dict[str, Any] = {
    "controller": "up",  # or "down", or "silent"
    "accounting": False,
    "scrontab": False,
    "slots": 4,
    "max_submit": 1000,
    "min_job_age_s": 300,
    "minute_s": 60,
    "partitions": {
        "cpu": "cpu*|up|1-00:00:00|1:00:00|2|4|16000|(null)",
        "gpu": "gpu|up|infinite|n/a|2|64|512000|gpu:h100:2(S:0-1)",
    },
}
LIMIT = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
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
        """Return the record of one job."""
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


def sbatch(fake: FakeSlurm, settings: dict[str, Any], argv: list[str]) -> None:
    """Take a script and start it when there is a slot."""
    refuse = "sbatch: error: Batch job submission failed:"
    if settings["controller"] != "up":
        _fail(f"{refuse} {DOWN}")
    text = Path(argv[-1]).read_text()
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", text, re.MULTILINE)
    options = {name: shlex.split(value)[0] if value else "" for name, value in found}
    options |= {
        key.removeprefix("SBATCH_").lower(): value
        for key, value in os.environ.items()
        if key.startswith("SBATCH_")
    }
    partition = options.get("partition", "cpu")
    if partition not in settings["partitions"]:
        sys.stderr.write(f"sbatch: error: invalid partition specified: {partition}\n")
        _fail(f"{refuse} Invalid partition name specified")
    if not re.fullmatch(r"[\d:-]+|UNLIMITED", options.get("time", "1")):
        _fail("sbatch: error: Invalid --time specification", 255)
    with _locked(fake.folder):
        if sum(job["state"] not in OVER for job in fake.jobs()) >= settings["max_submit"]:
            sys.stderr.write("sbatch: error: AssocMaxSubmitJobLimit\n")
            _fail(f"{refuse} {LIMIT}")
        job_id = str(1 + max((int(job["id"]) for job in fake.jobs()), default=0))
        (fake.folder / "jobs" / f"{job_id}.sh").write_text(text)
        record = {
            "id": job_id,
            "name": options["job-name"],
            "state": "PENDING",
            "reason": "Priority",
            "start": None,
            "end": None,
            "code": 0,
            "cwd": str(Path.cwd()),
            "minutes": _minutes(options.get("time", "60")),
            "signal_s": int(options["signal"].partition("@")[2]) if "signal" in options else None,
            "stdout": options["output"].replace("%j", job_id),
            "stderr": options.get("error", options["output"]).replace("%j", job_id),
            "environment": dict(os.environ),
            "held": "hold" in options,
            "begin": _moment(options["begin"]) if "begin" in options else 0,
            "cancelled": False,
            "requeue": False,
            "pid": 0,
            "keeper": 0,
        }
        _replace(fake.folder / "jobs" / f"{job_id}.json", record)
    keeper = subprocess.Popen(
        [sys.executable, __file__, "keep", job_id],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    fake.change(job_id, keeper=keeper.pid)
    sys.stdout.write(f"Submitted batch job {job_id}\n")


def _minutes(text: str) -> int:
    if text == "UNLIMITED":
        return 0
    days, _, clock = text.rpartition("-")
    hours, minutes, _ = clock.split(":") if ":" in clock else ("0", clock, "0")
    return int(days or 0) * 1440 + int(hours) * 60 + int(minutes)


def _moment(text: str) -> float:
    return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))


def keep(fake: FakeSlurm, settings: dict[str, Any], argv: list[str]) -> None:
    """Run one job to its end, again where it is requeued."""
    job_id = argv[0]
    while True:
        while not _take_slot(fake, job_id):
            if fake.job(job_id)["cancelled"]:
                fake.change(job_id, state="CANCELLED", end=time.time())
                return
            time.sleep(0.05)
        state, code = _run(fake, settings, fake.job(job_id))
        job = fake.job(job_id)
        if job["requeue"] and not job["cancelled"]:
            fake.change(job_id, state="PENDING", reason="BeginTime", requeue=False, start=None)
            continue
        fake.change(job_id, state=state, code=code, end=time.time(), pid=0)
        return


def _take_slot(fake: FakeSlurm, job_id: str) -> bool:
    slots = json.loads((fake.folder / "settings.json").read_text())["slots"]
    with _locked(fake.folder):
        job = fake.job(job_id)
        busy = sum(other["state"] in {"RUNNING", "COMPLETING"} for other in fake.jobs())
        early = time.time() < job["begin"]
        free = busy < slots and not job["held"] and not job["cancelled"] and not early
        if free:
            job |= {"state": "RUNNING", "start": time.time(), "reason": "None"}
        else:
            why = "BeginTime" if early else "Resources"
            job |= {"reason": "JobHeldUser" if job["held"] else why}
        _replace(fake.folder / "jobs" / f"{job_id}.json", job)
        return free


def _run(fake: FakeSlurm, settings: dict[str, Any], job: dict[str, Any]) -> tuple[str, int]:
    limit = job["minutes"] * settings["minute_s"] or 10**9
    env = job["environment"] | {
        "SLURM_JOB_ID": job["id"],
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
        if ended_by is None and (fake.job(job["id"])["cancelled"] or age > limit):
            ended_by = "TIMEOUT" if age > limit else "CANCELLED"
            fake.change(job["id"], state="COMPLETING")
            os.killpg(process.pid, signal.SIGTERM)
            killed_at = time.time() + 2
        if ended_by is not None and time.time() > killed_at:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    code = -process.returncode if process.returncode < 0 else process.returncode << 8
    return ended_by or ("FAILED" if code else "COMPLETED"), code


def squeue(fake: FakeSlurm, settings: dict[str, Any], argv: list[str]) -> None:
    """Print the rows asked for."""
    if settings["controller"] == "silent":
        time.sleep(20)
        _fail("slurm_load_jobs error: Socket timed out on send/recv operation")
    if settings["controller"] == "down":
        _fail(f"slurm_load_jobs error: {DOWN}")
    flags = ("local", "all", "noheader")
    args = _parser("user", "states", "Format", flags=flags).parse_args(argv)
    now = time.time()
    for job in fake.jobs():
        over = job["state"] in OVER
        if over and (args.states != "all" or now - job["end"] > settings["min_job_age_s"]):
            continue
        started = job["start"] is not None
        ends = job["end"] or (
            job["start"] + job["minutes"] * 60 if started and job["minutes"] else 0
        )
        cells = {
            "JobArrayID": job["id"],
            "State": job["state"],
            "StartTime": _clock(job["start"]) if started else "N/A",
            "EndTime": _clock(ends) if ends else "NONE" if started else "N/A",
            "NodeList": NODE if started else "",
            "exit_code": str(job["code"]),
            "Reason": "NonZeroExitCode" if job["state"] == "FAILED" else job["reason"],
        }
        row = (part.partition(":") for part in args.Format.split(","))
        sys.stdout.write("".join(cells[field] + end for field, _, end in row) + "\n")


def sacct(fake: FakeSlurm, settings: dict[str, Any], argv: list[str]) -> None:
    """Print what an accounting would have kept."""
    if not settings["accounting"]:
        _fail("Slurm accounting storage is disabled")
    flags = ("noheader", "parsable2", "allocations")
    args = _parser("format", "jobs", "starttime", flags=flags).parse_args(argv)
    asked = args.jobs.split(",") if args.jobs else []
    for job in fake.jobs():
        if job["id"] in asked:
            code = job["code"]
            by = f" by {os.getuid()}" if job["state"] == "CANCELLED" else ""
            cells = {
                "JobID": job["id"],
                "State": job["state"] + by,
                "Start": _clock(job["start"]) if job["start"] else "None",
                "End": _clock(job["end"]) if job["end"] else "Unknown",
                "NodeList": NODE if job["start"] else "None assigned",
                "ExitCode": f"{code >> 8}:{code & 0x7F}",
            }
            sys.stdout.write("|".join(cells[field] for field in args.format.split(",")) + "\n")


def _clock(moment: float) -> str:
    if os.environ.get("SLURM_TIME_FORMAT") == "relative":
        return time.strftime("%H:%M:%S", time.localtime(moment))
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(moment))


def scancel(fake: FakeSlurm, settings: dict[str, Any], argv: list[str]) -> None:
    """Signal or end jobs."""
    parser = _parser("state", "signal", flags=("batch",))
    parser.add_argument("ids", nargs="*")
    args = parser.parse_args(argv)
    failed = False
    for job_id in args.ids:
        fault = None if settings["controller"] == "up" else DOWN
        known = {job["id"]: job for job in fake.jobs() if job["state"] not in OVER}
        if fault is None and job_id not in known:
            fault = "Invalid job id specified"
        if fault:
            sys.stderr.write(f"scancel: error: Kill job error on job id {job_id}: {fault}\n")
            failed = True
            continue
        job = known[job_id]
        if args.state and job["state"] != args.state:
            continue
        if args.signal:
            if job["state"] == "PENDING":
                time.sleep(60)  # "Job is in transitional state, retrying"
            os.kill(job["pid"], getattr(signal, f"SIG{args.signal}"))
        else:
            fake.change(job_id, cancelled=True)
    sys.exit(int(failed))


def sinfo(fake: FakeSlurm, settings: dict[str, Any], argv: list[str]) -> None:
    """Print the partitions."""
    if settings["controller"] != "up":
        _fail(f"slurm_load_partitions: {DOWN}")
    args = _parser("format", flags=("local", "noheader", "exact")).parse_args(argv)
    if args.format != "%P|%a|%l|%L|%D|%c|%m|%G":
        _fail(f"this fake does not know the format {args.format}")
    sys.stdout.write("".join(f"{row}\n" for row in settings["partitions"].values()))


def scontrol(fake: FakeSlurm, settings: dict[str, Any], argv: list[str]) -> None:
    """Requeue a job, as submitit does from inside it, or print settings."""
    if argv == ["show", "config"]:
        sys.stdout.write(CONFIG)
        return
    if argv[0] != "requeue":
        _fail(f"this fake does not know scontrol {argv[0]}")
    fake.change(argv[1], requeue=True)


def scrontab(fake: FakeSlurm, settings: dict[str, Any], argv: list[str]) -> None:
    """Keep a table; starting what stands in it is left to the test."""
    path = fake.folder / "scrontab"
    if settings["controller"] != "up":
        _fail(f"scrontab: error: {DOWN}")
    if not settings["scrontab"]:
        _fail("scrontab: fatal: scrontab is disabled on this cluster")
    if argv == ["-l"]:
        if not path.exists():
            _fail("no crontab for me")
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


def main() -> None:
    """Be the program that the first argument names."""
    name, *argv = sys.argv[1:]
    fake = FakeSlurm(Path(os.environ[FOLDER]))
    settings = json.loads((fake.folder / "settings.json").read_text())
    if name != "keep":
        with _locked(fake.folder), (fake.folder / "calls").open("a") as file:
            file.write(json.dumps([name, *argv]) + "\n")
    globals()[name](fake, settings, argv)


if __name__ == "__main__":
    main()
