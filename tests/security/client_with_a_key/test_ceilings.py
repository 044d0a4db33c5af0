"""A client with a key makes no engine work more than the ceilings of the key and the model."""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpc.keys.limits import KeyLimits
from tests.contract.gateway.engines import serve
from tests.contract.gateway.programs import run_gateway
from tests.security.client_with_a_key.readers import CHAT, READERS, RESPONSES, TEXT
from tests.security.client_with_a_key.working_engine import WorkingEngine, key_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.gateway.programs import Running

CEILING = 10
MESSAGES = [{"role": "user", "content": "hi"}]
PLAIN: dict[str, dict[str, Any]] = {
    CHAT: {"messages": MESSAGES},
    TEXT: {"prompt": "hi"},
    RESPONSES: {"input": "hi"},
}


@pytest.fixture(scope="module")
def worker() -> WorkingEngine:
    """Return the engine of this module."""
    return WorkingEngine()


@pytest.fixture(scope="module")
def capped(
    tmp_path_factory: pytest.TempPathFactory, worker: WorkingEngine
) -> Iterator[dict[str, Running]]:
    """Run a gateway; yield users whose ceiling is that of the key, or of the model."""
    home = tmp_path_factory.mktemp("ceilings") / "home"
    models = {"capped": {"max_tokens": CEILING}}
    with (
        serve(worker) as url,  # type: ignore[arg-type]
        run_gateway(home, {"m": url, "capped": url}, models=models) as gateway,
    ):
        yield {
            "m": key_with(home, gateway, KeyLimits(max_tokens=CEILING)),
            "capped": gateway,
            "prompts": key_with(home, gateway, KeyLimits(max_prompt_tokens=60)),
            "pictures": key_with(home, gateway, KeyLimits(max_prompt_tokens=3000)),
        }


def allowed(worker: WorkingEngine, user: Running, path: str, body: bytes) -> int | None:
    """Return the most tokens that any engine reads in what arrives; None where it is refused."""
    before = len(worker.bodies)
    head = {"authorization": f"Bearer {user.key}", "content-type": "application/json"}
    with httpx.Client(base_url=user.url, headers=head, trust_env=False, timeout=60) as client:
        status = client.post(path, content=body).status_code
    if status == 400:
        assert len(worker.bodies) == before
        return None
    assert status == 200, status
    return max(reader(*worker.bodies[-1]) for reader in READERS)


MIXED = ("[5,[1,2]]", "[[1,2],5]", "[[1],5,[2]]", "[[1,2],[3], 5]", "[[[1],[2]]]", "[[],[],[]]")
"""Lists of prompts that are numbers, and lists of numbers, in one."""

CASES = [
    (CHAT, '"max_completion_tokens":200.0'),
    (CHAT, '"max_completion_tokens":"200"'),
    (CHAT, '"max_completion_tokens":true'),
    (CHAT, '"max_completion_tokens":-1'),
    (CHAT, '"max_completion_tokens":0'),
    (CHAT, '"max_completion_tokens":1e2'),
    (CHAT, '"max_completion_tokens":1e400'),
    (CHAT, f'"max_completion_tokens":1{"0" * 400}'),
    (CHAT, '"max_completion_tokens":0,"max_tokens":5'),
    (CHAT, '"max_completion_tokens":null,"max_tokens":200'),
    (CHAT, '"max_completion_tokens":5,"max_tokens":200'),
    (CHAT, '"max_tokens":[5]'),
    (CHAT, '"max_tokens":{}'),
    (CHAT, '"max_tokens":5,"n_predict":100000'),
    (CHAT, '"n_predict":-1'),
    (CHAT, '"max_tokens":5,"max_new_tokens":100000'),
    (CHAT, '"max\\u005ftokens":200'),
    (CHAT, '"max_tokens":200,"max_tokens":5'),
    (CHAT, '"max_tokens":5,"max_tokens":200'),
    (CHAT, '"Max_Tokens":200'),
    (CHAT, '"MAX_COMPLETION_TOKENS":200,"max_tokens":5'),
    (CHAT, '"maxTokens":200'),
    (CHAT, '"max-tokens":200'),
    (CHAT, '"max_tokens\\u0000":200'),
    (CHAT, '"\uff4dax_tokens":200'),
    (CHAT, '"max_to\u212aens":200'),
    (CHAT, '"max_token\u017f":200'),
    (CHAT, '"n":16'),
    (CHAT, '"n":"16"'),
    (CHAT, '"n":16.0'),
    (CHAT, '"N":16,"max_tokens":10'),
    (CHAT, '"n_cmpl":16'),
    (CHAT, '"n":4,"max_tokens":5'),
    (CHAT, '"n":16,"use_beam_search":true'),
    (TEXT, '"max_completion_tokens":5,"max_tokens":200'),
    (TEXT, '"max_completion_tokens":5'),
    (TEXT, '"max_tokens":null'),
    (TEXT, '"best_of":16'),
    (TEXT, '"prompt":["a","b","c"],"max_tokens":10'),
    (TEXT, f'"prompt":[{",".join(30 * ["[1,2]"])}]'),
    (TEXT, f'"prompt":[{",".join(30 * [chr(34) + "a" + chr(34)])}]'),
    (TEXT, '"prompt":["a","b"],"n":3,"max_tokens":5'),
    (TEXT, '"prompt":[1,"a",[2,3]],"max_tokens":5'),
    *((TEXT, f'"prompt":{prompt},"max_tokens":5') for prompt in MIXED),
    (RESPONSES, '"max_tokens":5'),
    (RESPONSES, '"max_tokens":5,"max_output_tokens":100000'),
    (RESPONSES, '"max_output_tokens":5,"n_predict":100000'),
    (RESPONSES, '"Max_Output_Tokens":100000'),
]


@pytest.mark.parametrize("model", ["m", "capped"])
@pytest.mark.parametrize(("path", "more"), [(path, "") for path in PLAIN] + CASES)
def test_no_engine_may_work_more_than_the_ceiling(
    capped: dict[str, Running], worker: WorkingEngine, path: str, more: str, model: str
) -> None:
    plain = json.dumps({"model": model, **PLAIN[path]})
    body = plain[:-1] + ("," + more if more else "") + "}"
    most = allowed(worker, capped[model], path, body.encode())
    assert most is None or most <= CEILING


@pytest.mark.parametrize(
    ("path", "more", "written"),
    [
        (CHAT, {}, {"max_tokens": 10}),
        (CHAT, {"max_completion_tokens": 7}, {"max_tokens": 7}),
        (CHAT, {"max_completion_tokens": None, "max_tokens": 7}, {"max_tokens": 7}),
        (CHAT, {"max_completion_tokens": 7, "max_tokens": 9}, {"max_tokens": 7}),
        (CHAT, {"n": 2}, {"max_tokens": 5, "n": 2}),
        (CHAT, {"n_predict": 4}, {"max_tokens": 4}),
        (TEXT, {"max_tokens": 10, "max_completion_tokens": 5}, {"max_tokens": 10}),
        (TEXT, {"prompt": ["a", "b"]}, {"max_tokens": 5, "prompt": ["a", "b"]}),
        (RESPONSES, {}, {"max_output_tokens": 10}),
        (RESPONSES, {"max_output_tokens": 3}, {"max_output_tokens": 3}),
    ],
)
def test_an_allowed_request_has_one_length_for_all_engines(
    capped: dict[str, Running],
    worker: WorkingEngine,
    path: str,
    more: dict[str, Any],
    written: dict[str, Any],
) -> None:
    body = {"model": "m", **PLAIN[path], "temperature": 0.5}
    assert capped["m"].post({**body, **more, "messages": MESSAGES}, path).status_code == 200
    expected = {**body, **written, "messages": MESSAGES}
    assert json.loads(worker.bodies[-1][1]) == expected


def test_an_ollama_client_is_held_to_the_ceiling(
    capped: dict[str, Running], worker: WorkingEngine
) -> None:
    for options, status in (
        ({}, 200),
        ({"num_predict": 5, "num_ctx": 100_000}, 200),
        ({"num_predict": -1}, 200),
        ({"num_predict": 11}, 400),
        ({"num_predict": "200"}, 400),
        ({"num_predict": 200.0}, 400),
    ):
        body = {"stream": False, "options": options, "max_tokens": 500, "n": 9}
        refused = capped["m"].post(body, "/api/chat").status_code == 400
        assert refused == (status == 400)
        assert max(reader(*worker.bodies[-1]) for reader in READERS) <= CEILING


def test_an_anthropic_client_is_held_to_the_ceiling(
    capped: dict[str, Running], worker: WorkingEngine
) -> None:
    for options, status in (
        ({"max_tokens": 10}, 200),
        ({"max_tokens": 10, "n": 9, "max_completion_tokens": 500, "best_of": 4}, 200),
        ({"max_tokens": 11}, 400),
        ({"max_tokens": "9"}, 400),
        ({"max_tokens": 9.0}, 400),
        ({}, 400),
    ):
        for stream in (False, True):
            body = {"model": "m", "messages": MESSAGES, "stream": stream, **options}
            before = len(worker.bodies)
            with capped["m"].client() as client:
                refused = client.post("/v1/messages", json=body).status_code == 400
            assert refused == (status == 400)
            assert len(worker.bodies) == before + (status == 200)
            if status == 200:
                assert max(reader(*worker.bodies[-1]) for reader in READERS) <= CEILING


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (TEXT, {"prompt": list(range(61))}),
        (TEXT, {"prompt": [[1] * 31, [2] * 31]}),
        (TEXT, {"prompt": ["x" * 124, "y" * 124]}),
        ("/v1/embeddings", {"input": [1] * 61}),
        ("/v1/embeddings", {"input": [[1] * 31] * 2}),
        ("/v1/rerank", {"query": "q" * 40, "documents": ["d"] * 30}),
        (RESPONSES, {"input": "x" * 250}),
    ],
)
def test_a_prompt_counts_in_whatever_form(
    capped: dict[str, Running], worker: WorkingEngine, path: str, body: dict[str, Any]
) -> None:
    before = len(worker.bodies)
    with capped["prompts"].client() as client:
        answer = client.post(path, content=json.dumps({"model": "m", **body}))
        short = {key: [1] * 9 if key != "query" else "q" for key in body}
        assert client.post(path, json={"model": "m", **short}).status_code == 200
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert len(worker.bodies) == before + 1


NAMES = [
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "num_predict"),
    *("n", "n_cmpl", "best_of", "max_new_tokens", "prompt", "temperature"),
]
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.integers(-2, 200),
    st.sampled_from([200.0, 1e3, "200", " 200 ", True, None, [], {}, 10**30, 0.5]),
    st.lists(st.sampled_from(["a", 5, [1, 2]]), max_size=4),
)


@st.composite
def spelled(draw: st.DrawFn) -> str:
    """Return the name of a field in some spelling."""
    name = draw(st.sampled_from(NAMES))
    kind = draw(st.sampled_from(["plain"] * 6 + ["upper", "title", "wide", "escaped", "camel"]))
    if kind == "wide":
        return chr(ord(name[0]) + 0xFEE0) + name[1:]
    if kind == "camel":
        first, *rest = name.split("_")
        return first + "".join(map(str.title, rest))
    if kind == "escaped":
        return f"\\u{ord(name[0]):04x}" + name[1:]
    return {"upper": name.upper(), "title": name.title()}.get(kind, name)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(sorted(PLAIN)),
    model=st.sampled_from(["m", "capped"]),
    fields=st.lists(st.tuples(spelled(), VALUES), max_size=5),
)
def test_no_spelling_makes_an_engine_work_more(
    capped: dict[str, Running],
    worker: WorkingEngine,
    path: str,
    model: str,
    fields: list[tuple[str, Any]],
) -> None:
    parts = [json.dumps({"model": model, **PLAIN[path]})[1:-1]]
    parts += [f'"{name}":{json.dumps(value)}' for name, value in fields]
    most = allowed(worker, capped[model], path, ("{" + ",".join(parts) + "}").encode())
    assert most is None or most <= CEILING


def test_a_picture_counts_by_its_pixels_and_hides_no_text(
    capped: dict[str, Running], worker: WorkingEngine
) -> None:
    """A picture of 1 MB passes a ceiling of 3,000 tokens; text in its place does not."""
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 1400, 1050)
    photo, words = (base64.b64encode(head + bytes(750_000)).decode(), "obey me " * 2000)

    def openai(data: str, **more: str) -> dict[str, Any]:
        part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + data}}
        return {"messages": [{"role": "user", "content": [{**part, **more}]}]}

    source = {"type": "base64", "media_type": "image/png", "data": photo}
    claude = {"max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "image"}]}]}
    claude["messages"][0]["content"][0]["source"] = source  # type: ignore[index]
    ollama = {"messages": [{"role": "user", "content": "?", "images": [photo]}], "stream": False}
    for path, body, fits in (
        (CHAT, openai(photo), True),
        ("/v1/messages", claude, True),
        ("/api/chat", ollama, True),
        (CHAT, openai(words), False),
        (CHAT, openai(base64.b64encode(words.encode()).decode()), False),
        (CHAT, openai(photo, text=words), False),
        (CHAT, openai(photo, type="text", text="?"), False),
        (CHAT, {"messages": MESSAGES, "tools": [photo]}, False),
    ):
        before = len(worker.bodies)
        with capped["pictures"].client() as client:
            status = client.post(path, json={"model": "m", **body}).status_code
        assert (status != 400) is fits, (path, status)
        assert len(worker.bodies) == before + fits
