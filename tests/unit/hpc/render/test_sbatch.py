"""Batch scripts: recorded text, hostile values, shell syntax."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from hpc import render
from hpc.errors import ConfigError
from hpc.model import Resources, ServiceSpec
from hpc.render import SbatchJob
from tests.golden.compare import assert_golden

if TYPE_CHECKING:
    from pathlib import Path

SMALL = Resources()
FULL = Resources(
    partition="gpu",
    account="proj42",
    qos="normal",
    constraint="a100|h100",
    gpus=2,
    gpu_type="h100",
    cpus=8,
    mem_mb=65536,
    time_min=480,
    extra={"exclusive": "", "reservation": "my room"},
)
JOB = SbatchJob(
    command="/venv/bin/python -u /hpc/processes/run_module.py hpc.jobs.run_task /home/a/jobs",
    folder="/home/a/jobs",
    stdout="/home/a/jobs/%j_0_log.out",
    stderr="/home/a/jobs/%j_0_log.err",
    job_name="hpc-serve-mistral-0",
)
HOSTILE = [
    "a b",
    "it's",
    'say "x"',
    "back\\slash",
    "#hash",
    "$(touch x)",
    "`x`",
    ";rm",
    "*",
    "-x",
    "ü",
]


def spec(**changes: Any) -> ServiceSpec:
    base = ServiceSpec("mistral", "vllm", "vllm", "org/mistral", image="/i.sif")
    return replace(base, **changes)


def sbatch_reads(script: str) -> list[str]:
    """Read directives as sbatch does (Slurm, src/sbatch/opt.c, ``_get_argument``)."""
    found = []
    for line in script.splitlines():
        if line.startswith("#SBATCH"):
            found += sbatch_words(line.removeprefix("#SBATCH"))
        elif line.strip() and not line.lstrip().startswith("#"):
            break
    return found


def sbatch_words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    lexer.escapedquotes = "\"'"
    return list(lexer)


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("vllm", spec(resources=FULL, setup=("module load apptainer", "ulimit -a"))),
        ("llamacpp", spec(engine="llamacpp", server="llama-server", resources=SMALL)),
    ],
)
def test_recorded_scripts(name: str, made: ServiceSpec) -> None:
    assert_golden(f"{name}.sbatch", render.sbatch(made, JOB))


def test_recorded_batch_script() -> None:
    job = replace(JOB, stdout="/b/%A_%a.out", stderr="/b/%A_%a.err", array="0-9%4", signal_s=120)

    assert_golden("batch.sbatch", render.script("batch", job, Resources(cpus=2, time_min=0)))


def test_recorded_gateway_script() -> None:
    job = replace(JOB, command="hpc-serve gateway run", job_name="hpc-serve-gateway", requeue=False)

    assert_golden("gateway.sbatch", render.script("gateway", job, Resources(partition="cpu")))


@pytest.mark.parametrize("value", HOSTILE)
def test_directives_survive_hostile_values(value: str) -> None:
    job = replace(JOB, stdout=f"/h/{value}/%j.out", job_name=value)
    made = spec(resources=replace(FULL, partition=value, extra={"comment": value}))

    words = sbatch_reads(render.sbatch(made, job))

    assert f"--output=/h/{value}/%j.out" in words
    assert {f"--job-name={value}", f"--partition={value}", f"--comment={value}"} <= set(words)


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "x\0"])
@pytest.mark.parametrize("field", ["stdout", "stderr", "job_name"])
def test_a_line_break_in_a_directive_is_refused(field: str, value: str) -> None:
    change: dict[str, Any] = {field: value}
    with pytest.raises(ConfigError, match="cannot hold a line break"):
        render.sbatch(spec(), replace(JOB, **change))


@pytest.mark.parametrize("option", ["a b", "x\n--y", "--mem", "", "Z"])
def test_what_is_no_option_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match="no sbatch option"):
        render.sbatch(spec(resources=Resources(extra={option: "x"})), JOB)


@pytest.mark.parametrize(
    "option",
    [
        "output",
        "signal",
        "nodes",
        "N",
        "ntasks",
        "n",
        "ntasks-per-node",
        "outp",
        "wait",
        "quiet",
        "test-only",
        "a",
        "job-name",
        "J",
        "array",
        "arr",
    ],
)
def test_options_that_hpc_serve_sets_are_refused_with_the_reason(option: str) -> None:
    with pytest.raises(ConfigError, match=f"resources.extra: {option} is set by hpc-serve: "):
        render.sbatch(spec(resources=Resources(extra={option: "2"})), JOB)


@pytest.mark.parametrize(
    ("option", "key"),
    [
        *(("partition", "partition"), ("p", "partition"), ("mem", "mem"), ("time", "time")),
        *(("gre", "gpus"), ("cpus-per-task", "cpus"), ("accou", "account"), ("qos", "qos")),
    ],
)
def test_an_option_that_stands_in_the_script_already_is_refused(option: str, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{option} stands beside resources.{key}"):
        render.sbatch(spec(resources=replace(FULL, extra={option: "x"})), JOB)


def test_other_options_are_taken() -> None:
    extra = {"gres": "nvme:1", "mem-per-cpu": "2G", "gres-flags": "x", "time-min": "5", "qos": "a"}

    words = sbatch_reads(render.sbatch(spec(resources=Resources(extra=extra)), JOB))

    assert {f"--{option}={value}" for option, value in extra.items()} <= set(words)
    with pytest.raises(ConfigError, match="write nodelist, the long option, for w"):
        render.sbatch(spec(resources=Resources(extra={"w": "c1"})), JOB)


def test_a_users_template_wins_and_may_build_on_ours(tmp_path: Path) -> None:
    mine = '{% extends "base.sbatch.j2" %}{% block limits %}\numask 077\n{% endblock %}'
    (tmp_path / "vllm.sbatch.j2").write_text(mine)

    text = render.sbatch(spec(), JOB, tmp_path)

    assert "umask 077" in text
    assert "#SBATCH --job-name=hpc-serve-mistral-0" in text


@pytest.mark.parametrize("body", ["{{ nothing }}", "{% if %}", '{% extends "gone.j2" %}'])
def test_a_faulty_template_is_one_clear_error(body: str, tmp_path: Path) -> None:
    (tmp_path / "vllm.sbatch.j2").write_text(body)

    with pytest.raises(ConfigError, match=r"cannot render vllm\.sbatch\.j2: "):
        render.sbatch(spec(), JOB, tmp_path)
