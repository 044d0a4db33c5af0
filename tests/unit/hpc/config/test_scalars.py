"""Scalars of YAML as their authors mean them: text keeps its spelling, yes and no are options."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hpc import config
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from hpc.model import ServiceSpec


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HPC_SERVE_HOME", str(tmp_path / "home"))


def spec_of(folder: Path, lines: str, site: str = "") -> ServiceSpec:
    """Return the service of a model with further lines."""
    text = f"models:\n- name: m\n  backend: vllm\n  model: org/m\n{lines}"
    (folder / "models.yaml").write_text(text)
    (folder / "config/hpc-serve").mkdir(parents=True, exist_ok=True)
    (folder / "config/hpc-serve/site.yaml").write_text(site)
    return config.load(models_file=str(folder / "models.yaml")).services["m"]


@pytest.mark.parametrize(
    "spelled",
    ["3090", "0123", "1e10", "on", "Yes", "no", "2026-01-01", "12:30", "0x1f", "1_000", ".5", "-1"],
)
def test_text_keeps_its_spelling(tmp_path: Path, spelled: str) -> None:
    lines = f"""\
  revision: {spelled}
  env: {{A: {spelled}, {spelled}: a}}
  resources: {{partition: {spelled}, account: {spelled}, qos: {spelled}, gpu_type: {spelled}}}
"""
    if not spelled[0].isalpha():
        lines = lines.replace(f", {spelled}: a", "")

    spec = spec_of(tmp_path, lines)

    asked = spec.resources
    assert {spec.revision, spec.env["A"], asked.partition, asked.account} == {spelled}
    assert (asked.qos, asked.gpu_type) == (spelled, spelled)


def test_a_name_may_look_like_a_number_or_a_truth(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(
        "models:\n"
        "- {name: 3090, backend: vllm, model: org/m}\n"
        "- {name: on, backend: vllm, model: 123}\n"
        "gateway: {aliases: {8: on, yes: 3090}}\n"
    )

    loaded = config.load(models_file=str(tmp_path / "models.yaml"))

    assert set(loaded.services) == {"3090", "on"}
    assert loaded.services["on"].model == "123"
    assert dict(loaded.gateway.aliases) == {"8": "on", "yes": "3090"}


def test_nothing_is_no_text(tmp_path: Path) -> None:
    assert (
        spec_of(tmp_path, "  resources: {partition: null, account: ~, qos: }\n").resources.qos
        is None
    )
    with pytest.raises(ConfigError, match="name"):
        config.load(models_file=_file(tmp_path, "models: [{name: ~, backend: vllm, model: a}]"))


def test_sbatch_options_without_a_value_and_unset_ones(tmp_path: Path) -> None:
    site = "resources: {extra: {exclusive: yes, reservation: maintenance, nice: 100}}\n"
    lines = "  resources: {extra: {reservation: no, contiguous: true, time-min: 10}}\n"

    spec = spec_of(tmp_path, lines, site)

    assert spec.resources.extra == {
        "exclusive": "",
        "nice": "100",
        "contiguous": "",
        "time-min": "10",
    }


def test_one_text_may_stand_for_a_list(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path, "  binds: /scratch\n  apptainer_args: --cleanenv\n  setup: module load x\n"
    )

    assert (spec.binds, spec.apptainer_args, spec.setup) == (
        ("/scratch",),
        ("--cleanenv",),
        ("module load x",),
    )


@pytest.mark.parametrize(
    ("said", "count", "kind"),
    [("a100:2", "2", "a100"), ("gpu:h100:4", "4", "h100"), ("v100", "1", "v100")],
)
def test_gpus_with_a_type_name_the_other_key(
    tmp_path: Path, said: str, count: str, kind: str
) -> None:
    with pytest.raises(ConfigError, match=f"write gpus: {count} and gpu_type: {kind}"):
        spec_of(tmp_path, f"  resources: {{gpus: {said}}}\n")


def test_a_list_where_text_is_wanted_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"models\.yaml:5: models\.resources\.partition"):
        spec_of(tmp_path, "  resources: {partition: [gpu], account: 5}\n")


def _file(folder: Path, text: str) -> str:
    (folder / "models.yaml").write_text(text)
    return str(folder / "models.yaml")
