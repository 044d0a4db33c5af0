"""What models.yaml may say to the gateway, and what each mistake is answered with."""

from __future__ import annotations

import re
from pathlib import Path

import certifi
import pytest

from hpc import config
from hpc.errors import ConfigError
from hpc.gateway_policy import CachePolicy, GatewayPolicy, ModelPolicy, ModelRule, RedactPolicy

PAGES = sorted((Path(__file__).parents[4] / "docs").glob("*.md"))
FLAGS = re.DOTALL | re.MULTILINE
HEAD = """\
models:
  - {name: big, backend: vllm, model: org/big}
  - {name: small, backend: llamacpp, model: /s.gguf}
"""
WHOLE = """\
models:
  - name: big
    backend: vllm
    model: org/big
    fallback: small
    max_tokens: 4096
    max_prompt_tokens: 100000
  - name: small
    backend: vllm
    backend_url: http://h:1
    routing: round_robin
    revision: a1
    fallback: [big, gpt]
gateway:
  aliases: {gpt: big2, "org/name:8b": small}
  rules:
    - use: big
      models: [small]
      keys: alice
      headers: {X-Team: 7, x-any: ""}
      prompt_tokens_over: 0
      max_tokens_over: 10
  routing: least_outstanding
  cors: [https://lab.example, "https://notes.example"]
  cache: {mib: 8, ttl: 60, vectors: false}
  redact:
    kinds: [email]
    patterns: {staff: 'S\\d{6}'}
    answers: true
  anonymous: true
"""


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HPC_SERVE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HPC_SERVE_SITE", raising=False)


def loaded(tmp_path: Path, text: str) -> config.Config:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    return config.load(models_file=str(path))


def test_all_that_can_be_said_arrives(tmp_path: Path) -> None:
    found = loaded(tmp_path, WHOLE)
    assert found.gateway == GatewayPolicy(
        aliases={"gpt": "big2", "org/name:8b": "small"},
        rules=(
            ModelRule(
                use="big",
                models=("small",),
                keys=("alice",),
                headers={"x-team": "7", "x-any": ""},
                prompt_tokens_over=0,
                max_tokens_over=10,
            ),
        ),
        routing="least_outstanding",
        cors=("https://lab.example", "https://notes.example"),
        cache=CachePolicy(8, 60.0, vectors=False),
        redact=RedactPolicy(("email",), {"staff": r"S\d{6}"}, answers=True),
        anonymous=True,
        models={
            "big": ModelPolicy(("small",), None, 4096, 100000),
            "small": ModelPolicy(("big", "gpt"), "round_robin"),
        },
    )
    assert found.backends[0].revision == "a1"


def test_nothing_said_is_nothing_done(tmp_path: Path) -> None:
    assert loaded(tmp_path, HEAD).gateway == GatewayPolicy()
    assert config.load().gateway == GatewayPolicy()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gateway:\n  alias: {}\n", ":5: unknown key 'gateway.alias' (did you mean 'aliases'?); "),
        ("gateway:\n  aliases:\n    a: big\n    small: big\n", ":7: gateway.aliases.small: there"),
        ("gateway:\n  aliases:\n    a: big\n    b: a\n", ":7: gateway.aliases.b: 'a' is an alias"),
        ("gateway:\n  aliases:\n    a: a\n", ":6: gateway.aliases.a: 'a' is an alias itself"),
        ("gateway:\n  aliases:\n    a b: big\n", ":6: gateway.aliases.a b: 'a b' is not a name"),
        ("gateway:\n  rules:\n  - use: big\n", ":6: gateway.rules: a rule needs a condition: one"),
        ("gateway:\n  rules:\n  - {keys: [a]}\n", ":6: the key 'gateway.rules.use' is missing"),
        (
            "gateway:\n  rules:\n  - use: big\n    keys: [a]\n  - use: big\n    model: small\n",
            ":9: unknown key 'gateway.rules.model' (did you mean 'models'?); ",
        ),
        (
            "gateway:\n  rules:\n  - use: big\n    headers: {Authorization: k}\n",
            ":7: gateway.rules.headers.Authorization: name a key under 'keys'",
        ),
        (
            'gateway:\n  rules:\n  - use: big\n    headers: {x: "a\\nb"}\n',
            ":7: gateway.rules.headers.x: 'a\\nb' is not a value of a header",
        ),
        ("gateway:\n  routing: random\n", ":5: gateway.routing: input should be 'prefix', 'least"),
        (
            "gateway:\n  anonymous: true\n  cors: [https://lab.example, '*']\n",
            ":4: gateway: anonymous: true with cors: ['*'] would let every web page",
        ),
        ("gateway:\n  cors: [lab.example]\n", ":5: gateway.cors: 'lab.example' is not an origin"),
        ("gateway:\n  cache: {mib: 0}\n", ":5: gateway.cache.mib: input should be greater than"),
        ("gateway:\n  redact: {}\n", ":5: gateway.redact: name what to hide, under 'kinds'"),
        ("gateway:\n  redact:\n    kinds: [mail]\n", ":6: gateway.redact.kinds: input should be"),
        (
            "gateway:\n  redact:\n    patterns:\n      a: '('\n",
            ":7: gateway.redact.patterns.a: '(' is not a regular expression",
        ),
        ("gateway:\n  anonymous: perhaps\n", ":5: gateway.anonymous: input should be a valid bool"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, HEAD + text)
    assert str(caught.value).startswith(f"{tmp_path / 'models.yaml'}{said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("fallback: [small, big]", ":2: models.fallback: the model 'big' cannot be its"),
        ("fallback: [small, gpt]", ":2: models.fallback: the model 'big' cannot be its own"),
        ("fallback: [small, small]", ":2: models.fallback: 'small' is given twice"),
        ("fallback: [small, tiny]", ":2: models.fallback: 'tiny' is given twice"),
        ("max_tokens: 0", ":2: models.max_tokens: input should be greater than or equal to 1"),
        ("routing: any", ":2: models.routing: input should be 'prefix'"),
    ],
)  # fmt: skip
def test_a_mistake_in_an_entry_is_found_at_its_line(tmp_path: Path, more: str, said: str) -> None:
    text = HEAD.replace("org/big", f"org/big, {more}")
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, f"{text}gateway: {{aliases: {{gpt: big, tiny: small}}}}\n")
    assert str(caught.value).startswith(f"{tmp_path / 'models.yaml'}{said}")


def test_what_may_be_served_elsewhere_is_no_mistake(tmp_path: Path) -> None:
    text = HEAD.replace("org/big", "org/big, fallback: [small, elsewhere]").replace(
        "/s.gguf", "/s.gguf, fallback: [big]"
    )
    text += "gateway:\n  aliases: {a: submitted}\n  rules: [{use: other, models: [unknown]}]\n"
    policy = loaded(tmp_path, text).gateway
    assert policy.models["small"].fallback == ("big",)
    assert policy.aliases == {"a": "submitted"}


CLIENTS = "clients.md"
"""The page whose YAML is of other programs."""


def examples() -> list[tuple[str, str]]:
    return [
        (page.name, found)
        for page in PAGES
        if page.name != CLIENTS
        for found in re.findall(r"^```yaml\n(.*?)^```", page.read_text("utf-8"), FLAGS)
    ]


def test_the_page_on_the_gateway_has_an_example() -> None:
    assert "gateway.md" in dict(examples())


@pytest.mark.parametrize(("page", "text"), examples())
def test_every_example_of_a_models_file_loads(page: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "site-ca.pem").write_bytes(Path(certifi.where()).read_bytes())
    found = loaded(tmp_path, text)
    assert found.services or found.backends or found.gateway != GatewayPolicy(), page
