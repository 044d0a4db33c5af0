"""Slurm's words as ours: recorded output of real releases, and what sites make of it."""

from __future__ import annotations

import calendar
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.model import JobState, JobStatus
from hpc.slurm import command, just_submitted, options, queue, sinfo, states

RECORDED = Path(__file__).parents[3] / "golden/slurm"


RECORDED_QUEUE = tuple(field for field in queue.QUEUE_FIELDS if field != "Name")
RECORDED_PAST = queue.ACCOUNTING_FIELDS[:-1]
RELEASES = sorted(path.name for path in RECORDED.iterdir())


def recorded(release: str, name: str) -> str:
    """Return what the lab's Slurm printed, see tests/lab/slurmlab/recorder.py."""
    return (RECORDED / release / name).read_text()


def recorded_queue(release: str) -> dict[str, JobStatus]:
    return queue._by_id(recorded(release, "squeue.txt"), RECORDED_QUEUE)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    ("job_id", "state", "reason", "code"),
    [
        ("1", JobState.DONE, None, 0),
        ("2", JobState.FAILED, "exit status 3", 3),
        ("5", JobState.FAILED, "reached its walltime", None),
        ("6", JobState.FAILED, "cancelled", None),
        ("7", JobState.FAILED, "cancelled", None),
        ("9", JobState.PENDING, "held by its user (JobHeldUser)", None),
        ("10", JobState.RUNNING, None, None),
        (
            "12",
            JobState.PENDING,
            "never starts: its walltime is over the partition's limit (PartitionTimeLimit)",
            None,
        ),
        ("14", JobState.PENDING, "waits for another job (Dependency)", None),
        ("15", JobState.PENDING, "waits for its begin time (BeginTime)", None),
        ("16", JobState.PENDING, "waits for its begin time (BeginTime)", None),
        ("17_0", JobState.RUNNING, None, None),
        ("17", JobState.RUNNING, None, None),
        ("17_1", JobState.PENDING, "waits for free resources (Resources)", None),
        ("17_5", JobState.PENDING, "waits for free resources (Resources)", None),
    ],
)
def test_a_recorded_queue_is_read(
    release: str, job_id: str, state: JobState, reason: str | None, code: int | None
) -> None:
    found = recorded_queue(release)[job_id]
    assert (found.state, found.reason, found.exit_code) == (state, reason, code)


@pytest.mark.parametrize("release", RELEASES)
def test_a_recorded_queue_tells_how_often_a_job_was_requeued(release: str) -> None:
    found = recorded_queue(release)
    assert (found["10"].restarts, found["16"].restarts, found["17_1"].restarts) == (0, 1, 0)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("job_id", ["3", "4"])
def test_a_job_that_was_killed_may_have_lacked_memory(release: str, job_id: str) -> None:
    told = "killed by signal 9, perhaps for lack of memory"
    assert recorded_queue(release)[job_id].reason == told


@pytest.mark.parametrize("release", RELEASES)
def test_the_recorded_last_words_name_the_cause(release: str) -> None:
    assert states.exit_reason(recorded(release, "overmemory.err")) == "out of memory"
    assert states.exit_reason(recorded(release, "timeout.err")) == "reached its walltime"


@pytest.mark.parametrize(
    "line",
    [
        "error: exceeded memory limit of 4 streams",
        "[2026-11-30T01:11:50.123] INFO exceeded memory limit, retrying",
        "requests cancelled DUE TO TIME LIMIT",
    ],
)
def test_words_of_an_engine_are_not_slurms(line: str) -> None:
    assert states.exit_reason(line) is None


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    ("job_id", "state", "reason"),
    [
        ("1", JobState.DONE, None),
        ("2", JobState.FAILED, "exit status 3"),
        ("5", JobState.FAILED, "reached its walltime"),
        ("7", JobState.FAILED, "cancelled by uid 2001"),
        ("17_0", JobState.RUNNING, None),
    ],
)
def test_a_recorded_accounting_is_read(
    release: str, job_id: str, state: JobState, reason: str | None
) -> None:
    found = queue._by_id(recorded(release, "sacct.txt"), RECORDED_PAST)[job_id]
    assert (found.state, found.reason) == (state, reason)


@pytest.mark.parametrize("release", RELEASES)
def test_a_lost_controller_is_named_by_every_program(release: str) -> None:
    pattern = r"^# (\w+), slurmctld (\w+): .*\n((?:[^#].*\n)+)"
    calls = re.findall(pattern, recorded(release, "down.txt"), re.MULTILINE)
    assert len(calls) == 6
    for program, kind, stderr in calls:
        expected = "nable to contact slurm controller" if kind == "down" else "imed out"
        assert expected in command.said(stderr), program


@pytest.mark.parametrize("release", RELEASES)
def test_patience_outlasts_what_slurms_programs_need_to_give_up(release: str) -> None:
    pattern = r"^# (\w+), slurmctld down: .* ([\d.]+) s$"
    took = re.findall(pattern, recorded(release, "down.txt"), re.MULTILINE)
    assert len(took) == 3
    for program, seconds in took:
        patience = queue.CANCEL_S if program == "scancel" else command.TIMEOUT_S
        assert float(seconds) + 3 < patience, program


@pytest.mark.parametrize("release", RELEASES)
def test_more_gpus_than_a_node_has_are_refused(release: str) -> None:
    told = command.said(recorded(release, "refused.txt")).lower()
    assert "requested node configuration is not available" in told


def test_a_job_that_only_the_accounting_thinks_alive_is_unknown() -> None:
    alive = queue._settled(JobStatus(JobState.RUNNING))
    assert alive.state is JobState.UNKNOWN
    assert queue._settled(JobStatus(JobState.DONE)).state is JobState.DONE


def test_recorded_times_are_utc_and_words_for_none_are_none() -> None:
    found = recorded_queue("22.05.8")
    assert found["10"].start_at == calendar.timegm((2026, 11, 30, 1, 13, 17))
    assert found["10"].end_at == calendar.timegm((2026, 11, 30, 2, 13, 17))
    assert found["9"].start_at is None  # N/A
    assert found["15"].start_at == calendar.timegm((2026, 11, 30, 2, 13, 17))  # expected
    assert found["15"].end_at is None


def test_only_what_is_there_is_found() -> None:
    found = recorded_queue("22.05.8")
    assert "17_6" not in found
    assert "99" not in found


def test_noise_on_stdout_is_no_job() -> None:
    """Federations print a heading, and some sites greet their users from a wrapper."""
    text = "CLUSTER: alpha\n\nWelcome!|a|b|c|d|e|f\n7|RUNNING|N/A|N/A|c1|0|0|None|\n8|RUNNING\n"
    assert set(queue._by_id(text, RECORDED_QUEUE)) == {"7"}


def test_an_array_is_as_alive_as_its_most_alive_job() -> None:
    row = "7_{}|{}|N/A|N/A||0|0|None|\n"
    text = row.format(0, "COMPLETED") + row.format(1, "RUNNING") + row.format("[2-9]", "PENDING")
    assert queue._by_id(text, RECORDED_QUEUE)["7"].state is JobState.RUNNING
    assert queue._by_id(text, RECORDED_QUEUE)["7_9"].state is JobState.PENDING


def test_a_reason_may_hold_the_delimiter() -> None:
    row = "7|PENDING|N/A|N/A||0|0|hpc-serve-m-0-1f|ReqNodeNotAvail, UnavailableNodes:c[1-2]|x|\n"
    found = queue._by_id(row, queue.QUEUE_FIELDS)
    assert found["7"].reason == (
        "waits for a node that is not available: down, drained or reserved"
        " (ReqNodeNotAvail, UnavailableNodes:c[1-2]|x)"
    )


@pytest.mark.parametrize(
    ("word", "state", "reason"),
    [
        ("CANCELLED by 1000", JobState.FAILED, "cancelled by uid 1000"),
        ("CANCELLED+", JobState.FAILED, "cancelled"),
        ("COMPLETING", JobState.ENDING, None),
        ("CONFIGURING", JobState.PENDING, "its nodes are booting"),
        ("NODE_FAIL", JobState.FAILED, "a node failed"),
        ("OUT_OF_MEMORY", JobState.FAILED, "out of memory"),
        ("PREEMPTED", JobState.FAILED, "preempted by another job"),
        ("REQUEUED", JobState.PENDING, "requeued"),
        ("REQUEUE_HOLD", JobState.PENDING, "held after a requeue"),
        ("REVOKED", JobState.UNKNOWN, "it runs on another cluster of the federation"),
        ("SUSPENDED", JobState.RUNNING, "suspended"),
        ("TIMEOUT", JobState.FAILED, "reached its walltime"),
        ("NEW_IN_2030", JobState.UNKNOWN, "Slurm says NEW_IN_2030"),
        ("", JobState.UNKNOWN, "Slurm says nothing"),
    ],
)
def test_states(word: str, state: JobState, reason: str | None) -> None:
    found = states.status(word)
    assert (found.state, found.reason) == (state, reason)


@pytest.mark.parametrize(
    ("code", "reason", "text"),
    [
        ("3:0", "", "exit status 3"),
        ("0:15", "", "killed by signal 15"),
        ("0:53", "", states.NO_OUTPUT_TEXT),
        ("256", "NonZeroExitCode", "exit status 1"),
        ("9", "JobLaunchFailure", "killed by signal 9, perhaps for lack of memory"),
        ("", "", "it failed"),
        (
            "0:0",
            "BadConstraints",
            "never starts: no node satisfies what it asks for (BadConstraints)",
        ),
    ],
)
def test_failures(code: str, reason: str, text: str) -> None:
    assert states.status("FAILED", code=code, reason=reason).reason == text


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("c1", ("c1",)),
        ("c[1-3,7],gpu01", ("c1", "c2", "c3", "c7", "gpu01")),
        ("n[008-010]", ("n008", "n009", "n010")),
        ("r[1-2]n[0-1]-ib", ("r1n0-ib", "r1n1-ib", "r2n0-ib", "r2n1-ib")),
        ("", ()),
        ("(null)", ()),
        ("None assigned", ()),
    ],
)
def test_node_lists(text: str, nodes: tuple[str, ...]) -> None:
    assert states.expand_nodes(text) == nodes


@given(st.text(max_size=40))
def test_no_node_list_breaks_the_reader(text: str) -> None:
    states.expand_nodes(text)
    states.array_elements(text)


@pytest.mark.parametrize("text", ["N/A", "NONE", "Unknown", "19:39:47", "Tomorr 10:00", ""])
def test_other_words_than_times_are_no_time(text: str) -> None:
    assert states.when(text) is None


def test_a_job_missing_right_after_its_submission_is_not_gone() -> None:
    gone = JobStatus(JobState.GONE)
    assert just_submitted(gone, 1000.0, now=1010.0)
    assert not just_submitted(gone, 1000.0, now=1031.0)
    assert not just_submitted(JobStatus(JobState.DONE), 1000.0, now=1010.0)


def test_an_element_that_its_array_lacks_will_not_appear() -> None:
    found = queue._by_id("7_1|RUNNING|N/A|N/A|c1|0|0|None|\n", RECORDED_QUEUE)
    dropped = queue._missing("7_2", found)
    assert dropped.state is JobState.GONE
    assert not just_submitted(dropped, 1000.0, now=1010.0)
    assert just_submitted(queue._missing("8_2", found), 1000.0, now=1010.0)


@pytest.mark.parametrize("release", RELEASES)
def test_a_recorded_sinfo_is_read(release: str) -> None:
    lines = recorded(release, "sinfo.txt").splitlines()
    cpu, gpu, tiny, preempt = (sinfo._parse(line) for line in lines)
    assert cpu == sinfo.Partition(
        name="cpu",
        default=True,
        max_minutes=1440,
        default_minutes=60,
        nodes=2,
        cpus=4,
        mem_mb=16000,
        gpus=2,
        gpu_types=("h100",),
    )
    assert gpu is not None
    assert tiny is not None
    assert preempt is not None
    assert (gpu.default, gpu.max_minutes, gpu.default_minutes) == (False, 2880, 60)
    assert (tiny.max_minutes, tiny.default_minutes, preempt.name) == (2, 1, "preempt")


def test_a_partition_may_have_no_limit_and_no_default() -> None:
    found = sinfo._parse("gpu|up|infinite|n/a|2|4|4000|gpu:h100:2")
    assert found is not None
    assert (found.max_minutes, found.default_minutes) == (0, None)


@pytest.mark.parametrize(
    ("gres", "gpus", "types"),
    [
        ("(null)", 0, ()),
        ("gpu:2", 2, ()),
        ("gpu:a100:4(S:0-3),craynetwork:4", 4, ("a100",)),
        ("gpu:a100", 1, ("a100",)),
        ("gpu:a100_1g.5gb:3,gpu:a100:1", 1, ("a100",)),
        ("gpu:nvidia_h100_80gb_hbm3_1g.10gb:7(S:0-1)", 0, ()),
        ("gpu:h100:2(S:0,2),shard:h100:16,gpu:3090:1", 3, ("h100", "3090")),
        ("vgpu:4", 0, ()),
        ("gpu:grid_t4-2q:4,mps:200", 0, ()),
    ],
)
def test_gpus_of_a_partition(gres: str, gpus: int, types: tuple[str, ...]) -> None:
    found = sinfo._parse(f"p|down|30:00|n/a|12|64+|512000+|{gres}")
    assert found is not None
    assert (found.gpus, found.gpu_types, found.cpus, found.up) == (gpus, types, 64, False)
    assert found.max_minutes == 30


@pytest.mark.parametrize(
    ("gres", "parts"),
    [
        ("gpu:a100_1g.5gb:3,gpu:a100:1", ("a100_1g.5gb",)),
        ("gpu:h100:2,shard:h100:16", ("h100",)),
        ("gpu:1g.10gb:7,gpu:3g.40gb:2", ("1g.10gb", "3g.40gb")),
        ("shard:8", ("shard",)),
        ("vgpu:4,mps:200", ("vgpu", "mps")),
        ("gpu:nvidia_a40-8q:6", ("nvidia_a40-8q",)),
        ("gpu:l40s:4", ()),
    ],
)
def test_parts_of_gpus_are_told_apart(gres: str, parts: tuple[str, ...]) -> None:
    found = sinfo._parse(f"p|up|infinite|n/a|12|64|512000|{gres}|idle")
    assert found is not None
    assert found.gpu_parts == parts


@pytest.mark.parametrize(
    ("state", "away"),
    [
        ("idle", 0), ("mixed", 0), ("allocated+", 0), ("idle~", 0), ("planned", 0), ("maint", 0),
        ("down*", 3), ("drained", 3), ("draining@", 3), ("fail", 3), ("idle*", 3), ("unknown", 3),
    ],
)  # fmt: skip
def test_nodes_that_take_no_jobs_are_counted(state: str, away: int) -> None:
    found = sinfo._parse(f"p|up|infinite|n/a|3|64|512000|(null)|{state}")
    assert found is not None
    assert (found.nodes, found.away) == (3, away)


def test_nodes_that_take_no_jobs_give_no_size() -> None:
    rows = [
        "p|up|infinite|n/a|2|128|512000|gpu:h100:8|drained",
        "p|up|infinite|n/a|10|64|256000|gpu:a100:4|mixed",
        "p|up|infinite|n/a|1|256|900000|(null)|down*",
    ]
    one, two, three = (sinfo._parse(row) for row in rows)
    assert one is not None
    assert two is not None
    assert three is not None
    both = sinfo._merge(sinfo._merge(one, two), three)
    assert (both.nodes, both.away, both.cpus, both.gpus) == (13, 3, 64, 4)
    assert both.gpu_types == ("a100",)


def test_groups_of_nodes_make_one_partition() -> None:
    rows = [
        "p|up|infinite|n/a|10|64|256000|gpu:a100:4",
        "p|up|infinite|n/a|2|128|512000|gpu:h100:8",
    ]
    one, other = (sinfo._parse(row) for row in rows)
    assert one is not None
    assert other is not None
    both = sinfo._merge(one, other)
    assert (both.nodes, both.cpus, both.gpus, both.gpu_types) == (12, 128, 8, ("a100", "h100"))


def test_options_are_hidden_and_where_slurm_is_stays() -> None:
    env = dict.fromkeys(
        [
            "SBATCH_PARTITION",
            "SLURM_JOB_ID",
            "SUBMITIT_EXECUTOR",
            "SLURM_CONF",
            "SLURM_JWT",
            "PATH",
        ],
        "x",
    )
    assert options(env) == ["SBATCH_PARTITION", "SLURM_JOB_ID", "SUBMITIT_EXECUTOR"]


@pytest.mark.parametrize(
    "name",
    [
        *("SQUEUE_ACCOUNT", "SQUEUE_ALL", "SQUEUE_ARRAY", "SQUEUE_CLUSTERS", "SQUEUE_FEDERATION"),
        *("SQUEUE_FORMAT", "SQUEUE_FORMAT2", "SQUEUE_LICENSES", "SQUEUE_LOCAL", "SQUEUE_NAMES"),
        *("SQUEUE_PARTITION", "SQUEUE_PRIORITY", "SQUEUE_QOS", "SQUEUE_SIBLING", "SQUEUE_SORT"),
        *("SQUEUE_STATES", "SQUEUE_USERS", "SACCT_FEDERATION", "SACCT_FORMAT", "SACCT_LOCAL"),
        *("SINFO_ALL", "SINFO_FEDERATION", "SINFO_FORMAT", "SINFO_LOCAL", "SINFO_PARTITION"),
        *("SINFO_SORT", "SCONTROL_ALL", "SCONTROL_FEDERATION", "SCONTROL_FUTURE"),
        *("SCONTROL_LOCAL", "SCONTROL_SIBLING", "SCANCEL_ACCOUNT", "SCANCEL_BATCH", "SCANCEL_CTLD"),
        *("SCANCEL_FULL", "SCANCEL_HURRY", "SCANCEL_INTERACTIVE", "SCANCEL_NAME"),
        *("SCANCEL_PARTITION", "SCANCEL_QOS", "SCANCEL_STATE", "SCANCEL_USER", "SCANCEL_VERBOSE"),
        *("SCANCEL_WCKEY", "SLURM_CLUSTERS", "SLURM_DEBUG_FLAGS", "SLURM_JSON", "SLURM_YAML"),
        *("SBATCH_CLUSTERS", "SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_ARRAY_INX"),
        *("SBATCH_OUTPUT", "SBATCH_WAIT", "SBATCH_EXPORT", "SLURM_JOB_ID", "SLURM_MEM_PER_NODE"),
    ],
)
def test_no_option_of_the_callers_environment_reaches_slurm(name: str) -> None:
    assert command.environment({name: "x", "PATH": "/bin"}).keys() == (
        command.environment({"PATH": "/bin"}).keys()
    )
    assert options({name: "x"}) == [name]


@pytest.mark.parametrize(
    ("name", "users", "ours"),
    [
        ("SLURM_TIME_FORMAT", "relative", "standard"),
        ("SLURM_TIME_FORMAT", "%s", "standard"),
        ("SLURM_BITSTR_LEN", "8", "0"),
        ("TZ", "Asia/Kolkata", "UTC"),
        ("LC_ALL", "de_DE.UTF-8", "C"),
        ("SLURM_CONF", "/etc/slurm/b.conf", "/etc/slurm/b.conf"),
        ("SLURM_CONF_SERVER", "ctld:6817", "ctld:6817"),
        ("SLURM_JWT", "token", "token"),
    ],
)
def test_output_is_what_we_can_read_and_slurm_is_where_the_caller_says(
    name: str, users: str, ours: str
) -> None:
    assert command.environment({name: users})[name] == ours


@pytest.mark.parametrize(
    ("stderr", "text"),
    [
        (
            "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
            "unable to contact slurm controller (connect failure)",
        ),
        ("squeue: error: Invalid user: nobodyx\n\n", "invalid user: nobodyx"),
        ("a: error: x 1\na: error: x 1\na: error: x 2\n", "x 1; x 2"),
        ("", ""),
    ],
)
def test_complaints_lose_their_prefixes(stderr: str, text: str) -> None:
    assert command.said(stderr) == text
