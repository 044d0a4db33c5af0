"""When models.yaml is read again, and what of it comes into force."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from gateway_lite.catalog import models_file
from gateway_lite.catalog.models_file import ModelsFile, compare
from hpc import config
from hpc.errors import ConfigError
from hpc.model import GatewayRecord, Reload
from hpc.state import directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ONE = {"a": "http://h:1"}
TWO = {"a": "http://h:2", "b": "http://h:1"}


def written(models: dict[str, str]) -> str:
    entries = [{"name": n, "backend": "vllm", "backend_url": url} for n, url in models.items()]
    return json.dumps({"models": entries})


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setattr(models_file, "SETTLE_S", 0.05)
    monkeypatch.setattr(models_file, "RETRY_S", 0.05)
    path = tmp_path / "models.yaml"
    path.write_text(written(ONE))
    return path


@pytest.fixture
def models(file: Path, tmp_path: Path) -> ModelsFile:
    return ModelsFile(config.load(models_file=str(file), home=str(tmp_path / "home")))


def settle(models: ModelsFile) -> bool:
    """Look, wait for as long as the file must stay the same, and look again."""
    news = models.refresh()
    time.sleep(0.06)
    return models.refresh() or news


def names(models: ModelsFile) -> list[str]:
    return [backend.name for backend in models.backends]


def test_compare_tells_what_comes_goes_and_changes() -> None:
    change = compare({"a": 1, "b": 1, "c": 1}, {"b": 2, "c": 1, "e": 1, "d": 1})
    assert (change.added, change.removed, change.changed) == (("d", "e"), ("a",), ("b",))
    assert change.changes == "added d, e; removed a; changed b"
    assert compare({"a": 1}, {"a": 1}).changes == ""


def test_services_come_and_go_by_their_jobs(models: ModelsFile, file: Path) -> None:
    service = "{name: run, backend: llamacpp, model: org/m-GGUF:m.gguf}"
    file.write_text(f"models: [{service}]\n")
    models.weigh(["a"])
    assert settle(models)
    assert (models.outcome.added, models.outcome.not_submitted) == ((), ("run",))
    assert models.outcome.changes == ("added, served after 'hpc-serve submit': run; removed a")
    models.weigh(["run"])
    file.write_text("models: []\n")
    assert settle(models)
    assert (models.outcome.removed, models.outcome.still_served) == ((), ("run",))
    assert models.outcome.changes == ("removed from the file, served until 'hpc-serve stop': run")
    file.write_text(f"models: [{service}]\n")
    assert settle(models)
    assert (models.outcome.added, models.outcome.not_submitted) == (("run",), ())


def test_an_edit_counts_when_it_has_settled(models: ModelsFile, file: Path) -> None:
    assert not settle(models)
    file.write_text(written(TWO))
    assert not models.refresh()
    assert names(models) == ["a"]
    assert settle(models)
    assert names(models) == ["a", "b"]
    assert (models.outcome.added, models.outcome.changed) == (("b",), ("a",))
    assert models.outcome.refused is None
    assert not settle(models)


def test_the_policy_comes_and_goes_with_the_file(models: ModelsFile, file: Path) -> None:
    settle(models)
    before = models.digest
    policy = {"gateway": {"aliases": {"gpt": "a"}, "routing": "round_robin"}}
    file.write_text(json.dumps({**json.loads(written(ONE)), **policy}))
    assert settle(models)
    assert models.policy.aliases == {"gpt": "a"}
    assert models.outcome.changed == ("gateway settings",)
    assert (models.outcome.added, models.outcome.removed) == ((), ())
    assert len(models.digest) == 12
    assert models.digest != before
    file.write_text(json.dumps({**json.loads(written(ONE)), "gateway": {"aliases": {"a": "b"}}}))
    assert settle(models)
    assert "which an alias would hide" in (models.outcome.refused or "")
    assert models.policy.aliases == {"gpt": "a"}
    file.write_text(written(ONE))
    assert settle(models)
    assert models.policy.aliases == {}
    assert models.digest == before


def test_what_holds_for_one_model_is_a_change_of_that(models: ModelsFile, file: Path) -> None:
    settle(models)
    file.write_text(written(ONE).replace('"name"', '"max_tokens": 7, "name"'))
    assert settle(models)
    assert models.outcome.changed == ("a",)
    assert models.policy.models["a"].max_tokens == 7


def test_what_leads_nowhere_is_told_until_it_does_not(
    models: ModelsFile, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = {"gateway": {"aliases": {"gpt": "a", "old": "gone", "new": "later"}}}
    file.write_text(json.dumps({**json.loads(written(ONE)), **policy}))
    settle(models)
    gone = "the alias 'old' stands for 'gone', which nobody serves"
    models.weigh({"later"})
    models.weigh({"later"})
    assert models.outcome.warnings == (gone,)
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == [f"{file}: {gone}"]
    file.write_text("models: [")
    settle(models)
    assert models.outcome.refused is not None
    assert models.outcome.warnings == (gone,)
    models.weigh({"later", "gone"})
    assert list(models.outcome.warnings) == []
    assert models.outcome.refused is not None


def test_patterns_that_cannot_be_searched_for_are_refused(
    models: ModelsFile, file: Path, tmp_path: Path
) -> None:
    settle(models)
    bad = {"gateway": {"redact": {"patterns": {"all": "a*"}}}}
    file.write_text(json.dumps({**json.loads(written(ONE)), **bad}))
    assert settle(models)
    assert f"{file}: gateway.redact: the pattern 'all'" in (models.outcome.refused or "")
    with pytest.raises(ConfigError, match=r"gateway\.redact: the pattern 'all' cannot be used"):
        ModelsFile(config.load(models_file=str(file), home=str(tmp_path / "home")))


def test_who_asks_need_not_wait(models: ModelsFile, file: Path) -> None:
    file.write_text(written(TWO))
    asked_at = time.time()
    assert models.refresh(asked=True)
    assert names(models) == ["a", "b"]
    assert models.outcome.read_at >= asked_at


def test_who_asks_is_told_also_when_nothing_is_new(models: ModelsFile, file: Path) -> None:
    file.write_text(written(TWO))
    settle(models)
    taken_at, asked_at = models.outcome.taken_at, time.time()
    assert models.refresh(asked=True)
    assert models.outcome.read_at >= asked_at
    assert (models.outcome.taken_at, models.outcome.added) == (taken_at, ("b",))


def test_an_edit_between_start_and_the_first_look_is_found(models: ModelsFile, file: Path) -> None:
    file.write_text(written(TWO))
    assert settle(models)
    assert names(models) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no models; to serve none"),
        ("# models\nversion: 1\n", "no models; to serve none"),
        (written(TWO)[:-9], "expected"),
        ("models:\n- name: a\n  backend: vlm\n", ":3: models.backend: input should be"),
        ("models:\n- name: a\n  backend: vllm\n  nmae: b\n", "unknown key 'models.nmae'"),
        (
            "models:\n- name: a\n  backend: vllm\n  model: m\n  revision: !!timestamp 2026-13-45\n",
            "month must be",
        ),
        ("models: \xff", "cannot read"),
    ],
)
def test_a_bad_edit_is_refused_and_the_last_good_goes_on(
    models: ModelsFile, file: Path, text: str, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    settle(models)
    file.write_bytes(text.encode("latin-1"))
    assert settle(models)
    assert str(file) in (models.outcome.refused or "")
    assert sentence in (models.outcome.refused or "")
    assert names(models) == ["a"]
    for _ in range(3):
        assert not settle(models)
    assert len(caplog.records) == 1
    file.write_text(written(ONE))
    assert settle(models)
    assert (models.outcome.refused, models.outcome.refused_at) == (None, None)


def test_a_file_that_goes_is_not_an_empty_one(models: ModelsFile, file: Path) -> None:
    settle(models)
    file.unlink()
    assert not models.refresh()
    file.write_text(written(TWO))
    assert settle(models)
    assert names(models) == ["a", "b"]
    file.unlink()
    assert settle(models)
    assert names(models) == ["a", "b"]
    assert models.outcome.refused == f"there is no models file {file}"


def test_a_file_half_written_is_not_read(
    models: ModelsFile, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(models)
    monkeypatch.setattr(models_file, "SETTLE_S", 5.0)
    whole = written(TWO)
    for size in range(0, len(whole), 20):
        file.write_text(whole[:size])
        assert not models.refresh()
        assert not models.refresh()
    file.write_text(whole)
    monkeypatch.setattr(models_file, "SETTLE_S", 0.05)
    assert settle(models)
    assert names(models) == ["a", "b"]
    assert models.outcome.refused is None


def test_none_at_all_can_be_said(models: ModelsFile, file: Path) -> None:
    file.write_text("models: []\n")
    assert settle(models)
    assert names(models) == []
    assert models.outcome.removed == ("a",)


def test_a_refusal_ends_when_the_site_file_is_mended(
    models: ModelsFile, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("gateway_prot: 1\n")
    monkeypatch.setenv("HPC_SERVE_SITE", str(site))
    file.write_text(written(TWO))
    assert settle(models)
    assert "gateway_prot" in (models.outcome.refused or "")
    site.write_text("gateway_port: 1\n")
    assert settle(models)
    assert names(models) == ["a", "b"]


def test_a_state_directory_that_is_gone_is_not_made_anew(models: ModelsFile, file: Path) -> None:
    settle(models)
    home = file.parent / "home"
    home.rmdir()
    file.write_text(written(TWO))
    assert settle(models)
    assert "state directory" in (models.outcome.refused or "")
    assert not home.exists()
    home.mkdir()
    assert settle(models)
    assert names(models) == ["a", "b"]


def test_a_file_of_which_only_the_inode_is_new_is_read(models: ModelsFile, file: Path) -> None:
    settle(models)
    before = file.stat()
    other = file.with_name("new")
    other.write_text(written({"a": "http://h:3"}))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    assert file.stat().st_size == before.st_size
    assert settle(models)
    assert models.outcome.changed == ("a",)


def test_a_file_that_appears_later_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_file, "SETTLE_S", 0.05)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    models = ModelsFile(config.load(home=str(tmp_path / "home")))
    assert not settle(models)
    (tmp_path / "hpc-serve").mkdir()
    (tmp_path / "hpc-serve/models.yaml").write_text(written(ONE))
    assert settle(models)
    assert names(models) == ["a"]


@pytest.mark.parametrize("change", [lambda d: d.pop("reload"), lambda d: d["reload"].update(x=1)])
def test_a_record_of_another_version_can_be_read(
    tmp_path: Path, change: Callable[[dict[str, object]], object]
) -> None:
    outcome = Reload(read_at=1.0, added=("a",), refused="no", refused_at=2.0)
    record = GatewayRecord("h", "127.0.0.1", 1, 2, 3.0, 4.0, "0.1", reload=outcome)
    directory.save_gateway(tmp_path, record)
    assert directory.load_gateway(tmp_path, "h") == record
    path = directory.gateway_dir(tmp_path, "h") / "gateway.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    found = directory.load_gateway(tmp_path, "h")
    assert found is not None
    assert found.reload in (outcome, Reload())
