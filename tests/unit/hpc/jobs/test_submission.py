"""What is sent to Slurm, and what is made of its refusals."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from submitit.core.utils import JobPaths

from hpc.errors import ConfigError
from hpc.jobs import submission
from hpc.model import JobRequest, Resources, ServiceSpec
from hpc.processes import own_python
from hpc.state import private

ERROR = "sbatch: error: "
FAILED = f"{ERROR}Batch job submission failed: "
SPEC = ServiceSpec("tiny", "llamacpp", "llama-server", "/m.gguf", resources=Resources(time_min=480))


def test_the_command_runs_our_own_program_with_the_folder_and_the_users_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "_users", 0o027)
    words = shlex.split(submission.task_command(tmp_path / "it's a folder"))
    own = own_python.argv("hpc.jobs.run_task", options=("-u",))
    assert words == [*own, "--umask=027", f"{tmp_path}/it's a folder"]


def test_a_script_names_job_logs_and_signal(tmp_path: Path) -> None:
    lines = submission.script(SPEC, tmp_path, 3).splitlines()
    jobs = f"{tmp_path}/services/tiny/jobs"
    assert "#SBATCH --job-name=hpc-serve-tiny-3" in lines
    assert f"#SBATCH --output={jobs}/%j_0_log.out" in lines
    assert f"#SBATCH --error={jobs}/%j_0_log.err" in lines
    assert "#SBATCH --signal=B:USR2@90" in lines
    assert "#SBATCH --requeue" in lines
    assert f"exec {submission.task_command(Path(jobs))}" in lines


def test_a_job_that_serves_nothing_is_not_requeued(tmp_path: Path) -> None:
    text = submission.plain_script(
        JobRequest("build", Resources(), setup=("module load x",)), tmp_path
    )
    assert "#SBATCH --no-requeue" in text
    assert "module load x" in text


def test_an_array_names_its_logs_as_submitit_does(tmp_path: Path) -> None:
    lines = submission.plain_script(
        JobRequest("batch", Resources(), count=3), tmp_path
    ).splitlines()
    theirs = JobPaths(tmp_path, job_id="7_2")
    assert "#SBATCH --array=0-2" in lines
    (output,) = (line.partition("=")[2] for line in lines if "--output" in line)
    assert output.replace("%A", "7").replace("%a", "2") == str(theirs.stdout)
    assert not any(
        "--array" in line
        for line in submission.plain_script(JobRequest("b", Resources()), tmp_path)
    )


def test_a_sites_template_without_arrays_is_no_way_to_submit_one(tmp_path: Path) -> None:
    (tmp_path / "batch.sbatch.j2").write_text("#!/bin/sh\nexec {{ job.command }}\n")
    assert "exec" in submission.plain_script(
        JobRequest("b", Resources()), tmp_path, templates=tmp_path
    )
    with pytest.raises(ConfigError, match="leave out the array of a job that runs 3 times"):
        submission.plain_script(JobRequest("b", Resources(), count=3), tmp_path, templates=tmp_path)


@pytest.mark.parametrize("name", ["100%j", "back\\slash"])
def test_a_folder_that_slurm_would_expand_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Slurm expands the"):
        submission.script(SPEC, tmp_path / name, 0)


@pytest.mark.parametrize(
    ("stderr", "text"),
    [
        (
            f"{ERROR}invalid partition specified: nosuch\n{FAILED}Invalid partition name\n",
            "invalid partition specified: nosuch",
        ),
        (
            f"{FAILED}Requested node configuration is not available\n",
            "requested node configuration is not available",
        ),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit\n", "QOSMaxSubmitJobPerUserLimit"),
        (
            f"{ERROR}Please name an account.\n{ERROR}See the wiki.\n{FAILED}Unspecified error\n",
            "please name an account; See the wiki",
        ),
        (
            f"{ERROR}AssocMaxSubmitJobLimit\n{FAILED}Job violates accounting/QOS policy (limits)\n",
            "job violates accounting/QOS policy (limits) (AssocMaxSubmitJobLimit)",
        ),
        ("", "it did not say why"),
    ],
)
def test_a_refusal_keeps_the_words_that_tell_most(stderr: str, text: str) -> None:
    assert submission._refusal(stderr) == text
