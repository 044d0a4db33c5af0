"""Where jobs run, and which GPUs they get here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hpc.errors import ConfigError, SubmitError
from hpc.jobs import api as jobs
from hpc.jobs import local
from hpc.slurm import command

if TYPE_CHECKING:
    from pathlib import Path


def test_jobs_run_on_slurm_where_its_programs_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HPC_SERVE_CLUSTER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(command, "FOLDERS", ())
    assert jobs.default_cluster() == "local"
    for name in ("sbatch", "squeue", "scancel"):
        (tmp_path / name).touch(mode=0o755)
    assert jobs.default_cluster() == "slurm"
    monkeypatch.setenv("HPC_SERVE_CLUSTER", "local")
    assert jobs.default_cluster() == "local"


@pytest.mark.parametrize(
    ("variable", "value", "sign"),
    [
        ("SLURM_CONF", "/etc/x.conf", "SLURM_CONF is set"),
        ("SLURM_JOB_ID", "7", "SLURM_JOB_ID is set"),
        ("SBATCH_ACCOUNT", "me", "SBATCH_ACCOUNT is set"),
        ("MODULEPATH", "/no/such:{}", "{}/slurm is there"),
        ("FOLDER", "{}", "{}/slurm is there"),
    ],
)
def test_a_login_node_without_slurms_programs_starts_nothing(
    variable: str, value: str, sign: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm's programs are often behind a module, and a login node is no place for a model."""
    monkeypatch.delenv("HPC_SERVE_CLUSTER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "sbatch").touch(mode=0o755)
    (tmp_path / "slurm").mkdir()
    monkeypatch.setattr(command, "FOLDERS", ())
    if variable == "FOLDER":
        monkeypatch.setattr(command, "FOLDERS", (f"{tmp_path}/slurm",))
    else:
        monkeypatch.setenv(variable, value.format(tmp_path))
    with pytest.raises(ConfigError) as caught:
        jobs.default_cluster()
    told = f"Slurm's programs are not on PATH (squeue, scancel), but {sign.format(tmp_path)}: "
    assert str(caught.value).startswith(f"{told}nothing is started on this machine")
    assert "HPC_SERVE_CLUSTER=local" in str(caught.value.hint)
    monkeypatch.setenv("HPC_SERVE_CLUSTER", "local")
    assert jobs.default_cluster() == "local"


def test_the_variable_allows_two_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPC_SERVE_CLUSTER", "pbs")
    with pytest.raises(ConfigError, match="HPC_SERVE_CLUSTER='pbs' is not allowed; allowed: slurm"):
        jobs.default_cluster()


def test_replicas_of_one_machine_get_gpus_of_their_own() -> None:
    env = {"CUDA_VISIBLE_DEVICES": "0,1,GPU-a,GPU-b,4"}
    assert local.pick_gpus(2, 0, env) == ("0", "1")
    assert local.pick_gpus(2, 1, env) == ("GPU-a", "GPU-b")
    assert local.pick_gpus(0, 9, {}) == ()
    with pytest.raises(SubmitError, match="replica 2 needs 2 GPU"):
        local.pick_gpus(2, 2, env)


def test_hidden_gpus_are_not_given_out() -> None:
    with pytest.raises(SubmitError, match="shows 0"):
        local.pick_gpus(1, 0, {"CUDA_VISIBLE_DEVICES": ""})
