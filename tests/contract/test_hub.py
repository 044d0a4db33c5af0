"""Models of Hugging Face, looked up before their submission at a Hub on loopback."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from hpc.engines import hub
from hpc.engines.located import located
from hpc.errors import ConfigError, EngineError
from hpc.jobs import planning
from hpc.model import ServiceSpec
from tests.fakes.hub import TOKEN, FakeHub
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GGUF = (
    "README.md", "mmproj-F16.gguf", "X-Q8_0.gguf", "X-Q4_K_M.gguf", "X-UD-Q4_K_M.gguf",
    "IQ2/X-IQ2_XXS-00001-of-00002.gguf", "IQ2/X-IQ2_XXS-00002-of-00002.gguf",
)  # fmt: skip
FILES = {
    "org/x": ("config.json", "model.safetensors"),
    "org/closed": ("config.json", "model.safetensors"),
    "org/x-GGUF": GGUF,
    "org/torn-GGUF": ("a-00001-of-00002.gguf",),
    "org/lora": ("adapter_config.json", "adapter_model.safetensors"),
    "openai-community/gpt2": ("config.json", "model.safetensors"),
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    for limit in ("TIMEOUT_S", "PATIENCE_S"):  # a busy machine answers late
        monkeypatch.setattr(hub, limit, PATIENCE_S)
    made = FakeHub(dict(FILES), {"org/closed"}, {"gpt2": "openai-community/gpt2"})
    made.start()
    yield made
    made.close()


def look(fake: FakeHub, model: str, home: Path, **changes: Any) -> tuple[str, tuple[str, ...]]:
    """Return the located model and the notes."""
    engine = "llamacpp" if "GGUF" in model else "vllm"
    server = "llama-server" if engine == "llamacpp" else "vllm"
    more = changes.pop("environ", {})
    spec = ServiceSpec("m", engine, server, model, **changes)  # type: ignore[arg-type]
    # A proxy of the shell does not get between this machine and itself.
    shell = {"HOME": str(home), "HF_ENDPOINT": fake.url, **more}
    found, notes = located(spec, shell)
    return found.model, notes


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("org/x", "org/x"),
        ("gpt2", "gpt2"),
        ("org/x-GGUF:X-Q8_0.gguf", "org/x-GGUF:X-Q8_0.gguf"),
        ("org/x-GGUF:Q4_K_M", "org/x-GGUF:X-Q4_K_M.gguf"),
        ("org/x-GGUF:q8_0", "org/x-GGUF:X-Q8_0.gguf"),
        ("org/x-GGUF:UD-Q4_K_M", "org/x-GGUF:X-UD-Q4_K_M.gguf"),
        ("org/x-GGUF", "org/x-GGUF:X-Q4_K_M.gguf"),
        ("org/x-GGUF:latest", "org/x-GGUF:X-Q4_K_M.gguf"),
        ("org/x-GGUF:IQ2_XXS", "org/x-GGUF:IQ2/X-IQ2_XXS-00001-of-00002.gguf"),
    ],
)
def test_what_the_hub_has_is_found(fake: FakeHub, tmp_path: Path, model: str, found: str) -> None:
    assert look(fake, model, tmp_path) == (found, ())
    assert look(fake, model, tmp_path, revision="v1") == (found, ())


@pytest.mark.parametrize(
    ("model", "told", "hint"),
    [
        ("org/typo", "there is no model org/typo at 127.0.0.1", "check the name"),
        ("typo", "there is no model typo at 127.0.0.1", "HF_TOKEN"),
        ("org/x-GGUF:Q3_K_S", "org/x-GGUF of 'm' has no Q3_K_S", "has: IQ2/X-IQ2_XXS-00001"),
        ("org/x-GGUF:typo.gguf", "org/x-GGUF of 'm' has no typo.gguf", "X-Q8_0.gguf"),
        ("org/torn-GGUF:a-00001-of-00002.gguf", "has no a-00002-of-00002.gguf", "has: a-"),
        ("org/lora", "org/lora of 'm' holds no model that vLLM loads", "name the repository"),
        ("org/closed", "org/closed of 'm' is open only to accounts", "/org/closed, and set HF"),
    ],
)
def test_what_the_hub_has_not_is_refused(
    fake: FakeHub, tmp_path: Path, model: str, told: str, hint: str
) -> None:
    with pytest.raises(EngineError, match=told) as caught:
        look(fake, model, tmp_path)
    assert hint in str(caught.value.hint)


def test_names_that_lead_out_of_the_repository_are_passed_over(
    fake: FakeHub, tmp_path: Path
) -> None:
    odd = ("../../a-Q4_K_M.gguf", "/a-Q4_K_M.gguf", "-a-Q4_K_M.gguf", "a\n-Q4_K_M.gguf")
    fake.repositories["org/odd-GGUF"] = (*odd, 3, "in/the-longest-name-Q4_K_M.gguf")  # type: ignore[assignment]
    found = "org/odd-GGUF:in/the-longest-name-Q4_K_M.gguf"
    assert look(fake, "org/odd-GGUF", tmp_path) == (found, ())


def test_a_revision_that_is_not_there_is_refused(fake: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="org/x of 'm' has no revision v9"):
        look(fake, "org/x", tmp_path, revision="v9")


def test_the_token_opens_a_gated_model_and_goes_nowhere_else(fake: FakeHub, tmp_path: Path) -> None:
    login = tmp_path / ".cache/huggingface/token"
    login.parent.mkdir(parents=True)
    login.write_text(TOKEN)

    assert look(fake, "org/closed", tmp_path) == ("org/closed", ())
    assert {signed for _, _, signed in fake.seen} == {f"Bearer {TOKEN}"}
    fake.seen.clear()
    with pytest.raises(EngineError, match="open only to accounts"):
        look(fake, "org/closed", tmp_path, environ={"HF_TOKEN": "hf_stranger"})
    assert not any(TOKEN in str(one) for one in fake.seen)


@pytest.mark.parametrize("status", [404, 407, 429, 502, 200])
def test_an_answer_that_is_not_the_hubs_says_nothing(
    fake: FakeHub, tmp_path: Path, status: int
) -> None:
    fake.status = status

    model, notes = look(fake, "org/typo", tmp_path)

    assert model == "org/typo"
    assert notes == (f"{fake.url} gave no answer here: org/typo was not looked up",)


def test_a_hub_out_of_reach_is_no_error(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "PATIENCE_S", 0.2)
    fake.silent = threading.Event()
    assert look(fake, "org/typo", tmp_path)[1] == (
        f"{fake.url} gave no answer here: org/typo was not looked up",
    )
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert look(fake, "org/x-GGUF:Q4_K_M", tmp_path, environ=nowhere)[0] == "org/x-GGUF:Q4_K_M"


def test_a_proxy_of_the_shell_does_not_get_what_is_for_this_machine(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert look(fake, "org/x", tmp_path) == ("org/x", ())


def test_a_models_own_variables_count(fake: FakeHub, tmp_path: Path) -> None:
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    own = {"HF_ENDPOINT": fake.url, "HF_TOKEN": TOKEN}

    assert look(fake, "org/closed", tmp_path, environ=nowhere, env=own) == ("org/closed", ())


def test_offline_nothing_is_asked(fake: FakeHub, tmp_path: Path) -> None:
    offline = {"HF_HUB_OFFLINE": "1"}
    assert look(fake, "org/typo", tmp_path, environ=offline)[1] == (
        "HF_HUB_OFFLINE: org/typo was not looked up",
    )
    (tmp_path / ".cache/huggingface/hub").mkdir(parents=True)
    with pytest.raises(EngineError, match=r"org/typo are not whole in .*, and HF_HUB_OFFLINE"):
        look(fake, "org/typo", tmp_path, environ=offline)
    assert fake.seen == []


def test_whole_weights_are_not_looked_up(fake: FakeHub, tmp_path: Path) -> None:
    for repo, files in (("org--kept", FILES["org/x"]), ("org--kept-GGUF", GGUF)):
        folder = tmp_path / ".cache/huggingface/hub" / f"models--{repo}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs/main").write_text("c0ffee")
        for name in (*files, "tokenizer.json"):
            (folder / "snapshots/c0ffee" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "snapshots/c0ffee" / name).write_text("x")

    assert look(fake, "org/kept", tmp_path) == ("org/kept", ())
    assert look(fake, "org/kept-GGUF:Q8_0", tmp_path) == ("org/kept-GGUF:X-Q8_0.gguf", ())
    assert fake.seen == []


def test_a_submission_names_the_file_that_the_server_needs(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", fake.url)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    spec = ServiceSpec("m", "llamacpp", "llama-cpp-python", "org/x-GGUF:Q8_0", container="none")

    made = planning.planned(spec, cluster="local")

    assert made.spec.model == "org/x-GGUF:X-Q8_0.gguf"
    assert made.launch.env["MODEL_NAME"] == "org/x-GGUF:X-Q8_0.gguf"
    fake.seen.clear()
    with pytest.raises(ConfigError, match="port is set by hpc-serve"):
        planning.planned(replace(spec, engine_args={"port": 1}), cluster="local")
    assert fake.seen == []
