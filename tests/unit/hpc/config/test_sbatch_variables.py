"""sbatch's variables of the submitting shell: settings, or told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hpc import config
from hpc.config import sbatch_variables
from hpc.errors import ConfigError
from hpc.model import Resources

if TYPE_CHECKING:
    from pathlib import Path

VARIABLES = {
    "SBATCH_ACCOUNT": "proj42",
    "SBATCH_PARTITION": "cpu",
    "SBATCH_QOS": "long",
    "SBATCH_CONSTRAINT": "ib",
    "SBATCH_TIMELIMIT": "90",
    "SBATCH_RESERVATION": "course",
}
MODELS = "models: [{name: m, backend: vllm, model: org/x, resources: {partition: gpu}}]\n"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an own folder with a models.yaml, below the shell's variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HPC_SERVE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HPC_SERVE_SITE", str(tmp_path / "site.yaml"))
    (tmp_path / "site.yaml").write_text("resources: {qos: normal, extra: {nice: 5}}\n")
    (tmp_path / "models.yaml").write_text(MODELS)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def test_they_fill_what_nobody_else_says() -> None:
    found = config.load(flags={"account": "other"}).services["m"].resources

    assert (found.account, found.partition, found.qos) == ("other", "gpu", "normal")
    assert (found.constraint, found.time_min) == ("ib", 90)
    assert found.extra == {"reservation": "course", "nice": "5"}


@pytest.mark.parametrize(
    ("shell", "clusters"),
    [
        ({"SLURM_CLUSTERS": "alpha"}, "alpha"),
        ({"SBATCH_CLUSTERS": "beta", "SLURM_CLUSTERS": "alpha"}, "beta"),
    ],
)
def test_the_shells_clusters_are_settings_as_for_sbatch(
    shell: dict[str, str], clusters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    used = config.load().services["m"].resources
    assert used.extra["clusters"] == clusters
    assert not any("CLUSTERS" in told for told in sbatch_variables.unused(used, shell))


def test_a_bad_value_is_told_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_TIMELIMIT", "soon")
    with pytest.raises(ConfigError, match="SBATCH_TIMELIMIT: 'soon' is not a Slurm time"):
        config.load()


def test_what_has_no_effect_is_told_in_a_line() -> None:
    used = Resources(partition="gpu", account="proj42", time_min=90)
    shell = {**VARIABLES, "SBATCH_GRES": "gpu:1", "SBATCH_EXCLUSIVE": "", "SBATCH_OUTPUT": "o"}
    for name in ("SBATCH_QOS", "SBATCH_CONSTRAINT", "SBATCH_RESERVATION"):
        del shell[name]

    assert sbatch_variables.unused(used, shell) == (
        "SBATCH_PARTITION=cpu has no effect, as the service's own is gpu",
        "SBATCH_GRES, SBATCH_OUTPUT of this shell: no effect; write options under resources",
    )
    assert sbatch_variables.unused(used, {"SLURM_JOB_ID": "3", "SBATCH_TIMELIMIT": "1:30:00"}) == ()
