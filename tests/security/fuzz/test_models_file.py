"""models.yaml of any content: a configuration, or one sentence that names the file."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc import config
from hpc.errors import ConfigError
from tests.security.fuzz.budget import fuzzing

if TYPE_CHECKING:
    from pathlib import Path

SOUND: dict[str, Any] = {
    "version": 1,
    "models": [
        {
            "name": "m",
            "backend": "vllm",
            "model": "org/m",
            "aliases": ["x"],
            "resources": {"gpus": 1, "mem": "8G", "time": "1:00:00", "extra": {"a": "b"}},
            "engine_args": {"max-model-len": 100},
            "env": {"A": "b"},
            "setup": ["true"],
        },
        {"name": "s", "backend": "vllm", "backend_url": "http://127.0.0.1:1", "api_key_env": "A"},
    ],
    "gateway": {
        "cors": ["https://a.example"],
        "rules": [{"model": "m", "min_prompt_tokens": 5, "use": "s"}],
        "cache": {"ttl": 5},
        "redact": {"email": True},
    },
}
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["\0", "../..", "$(x)", "a: b", "1e400", "yes", "~", "\ud800", "9" * 5000])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=6) | st.sampled_from(["name", "model"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a folder in an environment without a user's configuration."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("HPC_SERVE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def judge(folder: Path, text: str | bytes) -> None:
    """Load a models.yaml, and check the sentence of a refusal."""
    file = folder / "models.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(ConfigError):
        config.load(models_file=str(file))
        return
    with pytest.raises(ConfigError, match=r"models\.yaml"):
        config.load(models_file=str(file))


def places(node: Any) -> list[tuple[Any, Any]]:
    """Return each container and key of a nested value."""
    keys = (
        list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
    )
    return [each for key in keys for each in ((node, key), *places(node[key]))]


@fuzzing
@given(st.data())
def test_one_changed_value(alone: Path, data: st.DataObject) -> None:
    told = json.loads(json.dumps(SOUND))
    where, key = data.draw(st.sampled_from(places(told)))
    where[key] = data.draw(VALUES)
    judge(alone, json.dumps(told))


@fuzzing
@given(st.binary(max_size=200))
def test_any_bytes(alone: Path, data: bytes) -> None:
    judge(alone, data)


@fuzzing
@given(st.data())
def test_a_cut_or_a_flipped_byte(alone: Path, data: st.DataObject) -> None:
    whole = json.dumps(SOUND, indent=1).encode()
    at = data.draw(st.integers(0, len(whole) - 1))
    judge(
        alone,
        whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + data.draw(st.integers(0, 9)) :],
    )


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]\n",
        "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n",
        "!!python/object/apply:os.system ['true']\n",
        "models: !!binary aGVsbG8=\n",
        "? [a]\n: b\n",
        "models: [" * 3000,
        "{" * 3000,
        "--- 1\n--- 2\n",
        "%YAML 9.9\n--- {}\n",
        "version: 1\nversion: 1\n",
        "models: 2026-01-01\n",
        "<<: 1\n",
        "models: [{<<: [1]}]\n",
    ],
)
def test_yamls_own_traps(alone: Path, text: str) -> None:
    judge(alone, text)
