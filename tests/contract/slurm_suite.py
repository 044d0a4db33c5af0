"""What hpc.slurm, hpc.jobs.submission and hpc.jobs promise of a cluster.

The tests are taken over by a module for each cluster, which says what the fixture `slurm` is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.clusters import Cluster


def test_a_job_that_ended_well_is_done(slurm: Cluster) -> None:
    """Its times are right even where the user lives half an hour off the clock."""
    before = time.time()
    found = slurm.python(
        "tell(until(sleep(1), 'DONE'))", env={"TZ": "Asia/Kolkata", "SLURM_TIME_FORMAT": "relative"}
    )
    assert found["state"] == "DONE"
    assert found["exit_code"] == 0
    assert len(found["nodes"]) == 1
    assert before - 2 <= found["start_at"] <= found["end_at"] <= time.time() + 2


def test_a_job_that_failed_tells_its_exit_status(slurm: Cluster) -> None:
    found = slurm.python("tell(until(call(functools.partial(os._exit, 3)), 'FAILED'))")
    assert (found["state"], found["exit_code"]) == ("FAILED", 3)
    assert found["reason"] == "exit status 3"


def test_a_running_job_tells_node_and_walltime(slurm: Cluster) -> None:
    found = slurm.python("h = sleep(); found = until(h, 'RUNNING'); jobs.cancel([h]); tell(found)")
    assert found["state"] == "RUNNING"
    assert found["nodes"]
    assert found["end_at"] - found["start_at"] == 600
    assert found["exit_code"] is None


def test_a_fresh_job_is_pending_or_further(slurm: Cluster) -> None:
    found = slurm.python("h = sleep(); found = jobs.statuses([h]); jobs.cancel([h]); tell(found)")
    assert {answer["state"] for answer in found.values()} <= {"PENDING", "RUNNING"}


def test_a_held_job_says_why_it_waits(slurm: Cluster) -> None:
    found = slurm.python(
        "h = sleep(extra={'hold': ''}); time.sleep(1); found = until(h, 'PENDING');"
        "jobs.cancel([h]); tell(found)"
    )
    assert found["state"] == "PENDING"
    assert found["reason"] == "held by its user (JobHeldUser)"


def test_unknown_jobs_are_gone(slurm: Cluster) -> None:
    found = slurm.python(
        "tell(slurm.statuses([unknown(i) for i in ['999999', 'junk', '-1', '999999']]))"
    )
    assert {job_id: answer["state"] for job_id, answer in found.items()} == {
        "/999999": "GONE",
        "/junk": "GONE",
        "/-1": "GONE",
    }


def test_unknown_jobs_do_not_hide_known_ones(slurm: Cluster) -> None:
    found = slurm.python(
        "h = sleep(); until(h, 'RUNNING'); found = slurm.statuses([unknown('999999'), h]);"
        "jobs.cancel([h]); tell([found['/999999'], found[h.key]])"
    )
    assert [answer["state"] for answer in found] == ["GONE", "RUNNING"]


def test_a_job_is_found_by_its_name_and_a_number_alone_is_known_or_not(slurm: Cluster) -> None:
    known, ids, job_id, name, cluster = slurm.python(
        """
from hpc.slurm import queue
h = sleep(extra={'hold': ''})
made = jobs.submit(time.sleep, JobRequest('ar', Resources(extra={'hold': ''}), count=3), root)
known = [not queue._says_unknown([job], '') for job in (unknown('999999'), h, made[2])]
ids = [queue.ids_of(job.name) for job in (h, made[0], unknown('999999'))]
jobs.cancel([h, *made])
tell([known, ids, [h.job_id, made[0].job_id.partition('_')[0]], h.name, h.slurm_cluster])
"""
    )
    assert known == [False, True, True]
    assert ids == [[job_id[0]], [job_id[1]], []]
    assert name.startswith("hpc-serve-test-")
    assert cluster


def test_a_cancelled_job_says_so_and_may_be_cancelled_again(slurm: Cluster) -> None:
    found = slurm.python(
        "h = sleep(); until(h, 'RUNNING'); jobs.cancel([h]); found = until(h, 'FAILED');"
        "jobs.cancel([h]); jobs.cancel([unknown('999999')]); tell(found)"
    )
    assert found["state"] == "FAILED"
    assert found["reason"].startswith("cancelled")
    assert found["exit_code"] is None


def test_drain_cancels_what_waits_and_asks_what_runs(slurm: Cluster) -> None:
    """Submitit takes the SIGTERM in this task, so that it goes on running.

    scancel itself may take minutes to signal jobs that wait or start; drain names none to it.
    """
    waiting, running, log = slurm.python(
        """
held, busy = sleep(extra={'hold': ''}), sleep()
until(busy, 'RUNNING')
time.sleep(3)
from hpc.slurm import queue
queue.CANCEL_S = 90  # of the scancel that drain would wait for
started = time.monotonic()
jobs.drain([held, busy])
assert time.monotonic() - started < 60
log = lambda: jobs.logs(busy)[1].read_text()
deadline = time.monotonic() + 120
while 'Bypassing signal SIGTERM' not in log() and time.monotonic() < deadline:
    time.sleep(0.2)
found, log = jobs.statuses([held, busy]), log()
jobs.cancel([busy])
tell([found[held.key], found[busy.key], log])
"""
    )
    assert waiting["reason"].startswith("cancelled")
    assert running["state"] == "RUNNING"
    assert "Bypassing signal SIGTERM" in log


def test_the_signal_before_the_walltime_requeues_a_checkpointed_job(slurm: Cluster) -> None:
    state, restarts, log = slurm.python(
        TASK
        + """
(h,) = submission.to_slurm(task, folder=root / 'jobs' / 'again', minutes=10, restarts=1,
    text=submission.plain_script(JobRequest('again', Resources(mem_mb=100)),
        root / 'jobs' / 'again')
    .replace('--no-requeue', '--requeue'))
wait(lambda: begun([h]) == [1])
subprocess.run(['scancel', '--signal=USR2', '--batch', h.job_id], check=True)
wait(lambda: jobs.statuses([h])[h.key].restarts == 1)
found = jobs.statuses([h])[h.key]
jobs.cancel([h])
tell([found.state, found.restarts, log(h)])
"""
    )
    assert state in {"PENDING", "RUNNING", "ENDING"}
    assert restarts == 1
    assert "Calling checkpoint method" in log


TASK = """
from submitit.helpers import FunctionSequence
task = FunctionSequence(verbose=True)
task.add(time.sleep, 60)
def several(task, count, name="several", **asked):
    asked = {"cpus": 1, "mem_mb": 100, "time_min": 10} | asked
    return jobs.submit(task, JobRequest(name, Resources(**asked), restarts=1, count=count), root)
def states(handles):
    return [found.state.value for found in jobs.statuses(handles).values()]
def log(handle):
    return ''.join(path.read_text() for path in jobs.logs(handle) if path.exists())
def begun(handles):
    return [log(handle).count('Starting from') for handle in handles]
def wait(holds):
    deadline = time.monotonic() + 120
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.2)
"""


def test_an_array_is_one_submission_and_each_element_a_job(slurm: Cluster) -> None:
    ids, names, found, told = slurm.python(
        TASK
        + """
made = several(functools.partial(os.getenv, 'SLURM_ARRAY_TASK_ID'), 3, f'three{os.getpid()}')
wait(lambda: states(made) == ['DONE'] * 3)
from submitit.slurm.slurm import SlurmJob
told = [SlurmJob(h.folder, h.job_id).result() for h in made]
tell([[h.job_id for h in made], sorted(os.listdir(made[0].folder)), states(made), told])
"""
    )
    array = ids[0].partition("_")[0]
    assert ids == [f"{array}_{n}" for n in range(3)]
    assert (found, told) == (["DONE"] * 3, ["0", "1", "2"])
    ends = ["0_log.err", "0_log.out", "0_result.pkl", "submitted.pkl"]
    assert names == sorted([f"{array}_submission.sh", *(f"{n}_{end}" for n in ids for end in ends)])


def test_one_element_is_cancelled_and_one_requeued(slurm: Cluster) -> None:
    """The last one, which Slurm knows by the number of its array too.

    Slurm may end scontrol, which runs inside the job, together with it: the requeue counts, and not
    what submitit has written of it.
    """
    begun, after, reason, restarts, log = slurm.python(
        TASK
        + """
made = several(task, 3, f'hurt{os.getpid()}')
wait(lambda: begun(made) == [1] * 3)
jobs.cancel(made[:1])
subprocess.run(['scancel', '--signal=USR2', '--batch', made[2].job_id], check=True)
found = lambda n: jobs.statuses(made)[made[n].key]
wait(lambda: found(2).restarts == 1 and found(0).state.value == 'FAILED')
tell([begun(made), states(made), found(0).reason, found(2).restarts, log(made[2])])
jobs.cancel(made)
"""
    )
    assert begun[:2] == [1, 1]
    assert after[:2] == ["FAILED", "RUNNING"]
    assert after[2] in {"PENDING", "RUNNING", "ENDING"}
    assert reason.startswith("cancelled")
    assert restarts == 1
    assert "Calling checkpoint method" in log


def test_a_long_list_of_elements_that_wait_is_read_to_its_end(slurm: Cluster) -> None:
    """Slurm forgets elements cancelled as they wait; that is not "not there yet"."""
    even, odd, reason = slurm.python(
        TASK
        + """
made = several(task, 60, extra={'hold': ''})
slurm.cancel(made[1::2])
found = jobs.statuses(made)
jobs.cancel(made)
even, odd = ([found[h.key] for h in made[n::2]] for n in (0, 1))
tell([list({one.state for one in even}), list({one.state for one in odd}), odd[0].reason])
"""
    )
    assert (even, odd) == (["PENDING"], ["GONE"])
    assert reason.startswith("Slurm dropped it from its array")


def test_drain_takes_elements_that_wait_and_asks_those_that_run(slurm: Cluster) -> None:
    took, found, log = slurm.python(
        TASK
        + """
made = several(task, 12)
wait(lambda: begun(made)[0] == 1)
from hpc.slurm import queue
queue.CANCEL_S = 90
began = time.monotonic()
jobs.drain(made)
took = time.monotonic() - began
wait(lambda: 'SIGTERM' in log(made[0]))
tell([took, states(made), log(made[0])])
jobs.cancel(made)
"""
    )
    assert took < 60, "drain waits for scancel, which signals what waits or starts"
    assert "PENDING" not in found
    assert found[0] == "RUNNING"
    assert "Bypassing signal SIGTERM" in log


def test_a_refused_array_leaves_nothing(slurm: Cluster) -> None:
    fault, left = slurm.python(
        TASK
        + """
fault = attempt(several, task, 2000, 'many')
tell([fault, os.listdir(root / 'jobs' / 'many')])
"""
    )
    assert fault == ["SubmitError", "Slurm refused the job: invalid job array specification"]
    assert left == []


@pytest.mark.parametrize("kind", ["down", "silent"])
def test_without_an_answer_everything_is_unknown(slurm: Cluster, kind: str) -> None:
    handle = slurm.python("h = sleep(); until(h, 'RUNNING'); tell(h)")
    ask = f"h = JobHandle(**{handle}); started = time.monotonic();"
    with slurm.outage(kind):
        found, fault, took = slurm.python(
            ask + "found = slurm.statuses([h, unknown('999999')]);"
            "took = time.monotonic() - started; tell([found, attempt(slurm.partitions), took])"
        )
    after = slurm.python(ask + "found = until(h, 'RUNNING'); jobs.cancel([h]); tell(found)")
    assert {answer["state"] for answer in found.values()} == {"UNKNOWN"}
    assert found[f"{handle['folder']}/{handle['job_id']}"]["reason"].startswith(
        "Slurm did not answer: squeue"
    )
    assert fault[0] == "SchedulerError"
    assert took < 60, "squeue has no limit of time"
    assert after["state"] == "RUNNING"


def test_a_refusal_is_slurms_own_sentence_and_leaves_nothing(slurm: Cluster) -> None:
    partition, clock, left = slurm.python(
        "tell([attempt(sleep, name='refused', partition='nosuch'),"
        "attempt(sleep, name='refused', time_min=None, extra={'time': 'soon'}),"
        "os.listdir(root / 'jobs' / 'refused')])"
    )
    refused = "Slurm refused the job: invalid "
    assert partition == ["SubmitError", f"{refused}partition specified: nosuch"]
    assert clock[0] == "SubmitError"
    assert clock[1].startswith(f"{refused}--time specification")
    assert left == []


def test_submitting_to_nobody_fails_and_leaves_nothing(slurm: Cluster) -> None:
    with slurm.outage("down"):
        fault, left = slurm.python(
            "tell([attempt(sleep, name='lost'), os.listdir(root / 'jobs' / 'lost')])"
        )
    assert fault[0] == "SubmitError"
    assert "unable to contact slurm controller" in fault[1].lower()
    assert left == []


def test_options_of_the_callers_environment_do_not_leak(slurm: Cluster) -> None:
    found, log, kept = slurm.python(
        """
h = sleep(0, setup=['env'])
found = until(h, 'DONE')
tell([found, jobs.logs(h)[0].read_text(), dict(os.environ)])
""",
        env={
            "SBATCH_PARTITION": "nosuch",
            "SBATCH_REQUEUE": "1",
            "SLURM_MEM_PER_GPU": "7",
            "SUBMITIT_PREEMPT_SIGNAL": "USR1",
            "SQUEUE_FORMAT": "%j",
            "SINFO_FORMAT": "%j",
            "MINE": "kept",
        },
    )
    assert found["state"] == "DONE"
    names = {line.partition("=")[0] for line in log.splitlines()}
    assert not names & {"SBATCH_PARTITION", "SLURM_MEM_PER_GPU", "SUBMITIT_PREEMPT_SIGNAL"}
    assert "MINE" in names
    assert kept["SBATCH_PARTITION"] == "nosuch"


SPEC = (
    "spec = ServiceSpec('tiny', 'llamacpp', 'llama-server', '/m.gguf', container='none',"
    "resources=Resources(mem_mb=100, time_min=5), setup=('export GREETING=\"a b\"',));"
)


def test_what_render_shows_is_what_slurm_gets(slurm: Cluster) -> None:
    """The job itself fails, since nobody wrote down the service it is to serve."""
    job_id, shown, kept, found = slurm.python(
        SPEC
        + """
from hpc.config import Site
h = jobs.submit_replica(spec, root, 3, cluster='slurm', site=Site())
kept = pathlib.Path(h.folder, f'{h.job_id}_submission.sh').read_text()
tell([h.job_id, submission.script(spec, root, 3), kept, until(h, 'FAILED')])
"""
    )
    assert slurm.received(job_id).strip() == shown.strip()
    assert kept == shown
    assert found["reason"] == "exit status 1"


def test_files_of_a_job_are_named_by_it(slurm: Cluster) -> None:
    job_id, names = slurm.python(
        "h = sleep(0, name=f'files{os.getpid()}'); until(h, 'DONE');"
        "tell([h.job_id, sorted(os.listdir(h.folder))])"
    )
    ends = ["0_log.err", "0_log.out", "0_result.pkl", "submission.sh", "submitted.pkl"]
    assert names == [f"{job_id}_{end}" for end in ends]


def test_partitions_tell_limits_and_gpus(slurm: Cluster) -> None:
    found = {row["name"]: row for row in slurm.python("tell(slurm.partitions())")}
    assert [name for name, row in found.items() if row["default"]] == ["cpu"]
    assert found["cpu"]["max_minutes"] == 24 * 60
    assert found["cpu"]["default_minutes"] == 60
    assert found["gpu"]["gpus"] == 2
    assert found["gpu"]["gpu_types"] == ["h100"]
    assert found["gpu"]["nodes"] == 2
    assert found["gpu"]["up"] is True
