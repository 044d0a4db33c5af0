"""Requests in Anthropic's form become chats in OpenAI's form."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import CompletionCreateParams
from pydantic import TypeAdapter

from gateway_lite.errors import ApiError
from gateway_lite.features.anthropic.requests import COUNT, translate
from gateway_lite.wire.error_forms import MESSAGES

PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
PICTURE = {
    "type": "image_url",
    "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="},
}
HELLO = [{"role": "user", "content": "hi"}]
ADD = {"name": "add", "description": "adds", "input_schema": {"type": "object"}}


def chat(path: str = MESSAGES, **fields: Any) -> dict[str, Any]:
    """Return the chat that a request becomes."""
    asked = {"model": "m", "max_tokens": 9, "messages": HELLO, **fields}
    made = translate(path, json.dumps(asked).encode())
    assert made.path == "/v1/chat/completions"
    told: dict[str, Any] = json.loads(made.body)
    TypeAdapter(CompletionCreateParams).validate_python(told)
    return told


def messages(*given: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chat(messages=given, **fields)["messages"]
    return found


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [*blocks]}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("be brief", "be brief"),
        ([text("be"), text("brief")], "be\n\nbrief"),
        ([{**text("be brief"), "cache_control": {"type": "ephemeral"}}], "be brief"),
        ([text("x-anthropic-billing-header: cch=1a2b;"), text("be brief")], "be brief"),
        ([], None),
        (None, None),
    ],
)
def test_the_system_prompt_comes_first(system: Any, expected: str | None) -> None:
    first = [] if expected is None else [{"role": "system", "content": expected}]
    assert chat(system=system)["messages"] == [*first, *HELLO]


def test_user_blocks_become_parts() -> None:
    assert messages(user(text("a"), text("b"))) == [{"role": "user", "content": "a\nb"}]
    assert messages(user(text("a"), {"type": "image", "source": PNG})) == [
        {"role": "user", "content": [text("a"), PICTURE]}
    ]
    link = {"type": "image", "source": {"type": "url", "url": "https://x.org/a.png"}}
    assert messages(user(link))[0]["content"] == [
        {"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}
    ]
    plain = {"type": "text", "media_type": "text/plain", "data": "words"}
    document = {"type": "document", "title": "T", "source": plain}
    assert messages(user(document, text("?"))) == [{"role": "user", "content": "T\nwords\n?"}]
    found = {"type": "search_result", "title": "T", "source": "S", "content": [text("c")]}
    assert messages(user(found)) == [{"role": "user", "content": "T\nS\nc"}]


def test_a_tool_loop_keeps_its_order() -> None:
    call = {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1, "b": "ü"}}
    result = {
        "type": "tool_result",
        "tool_use_id": "t1",
        "content": [text("3"), {"type": "image", "source": PNG}],
    }
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    hidden = {"type": "redacted_thinking", "data": "zzz"}
    empty = {"type": "tool_result", "tool_use_id": "t2", "is_error": True}
    made = messages(
        *HELLO,
        {"role": "assistant", "content": [thought, hidden, text("I "), text("add"), call]},
        user(result, empty, text("go on")),
    )
    assert made[1] == {
        "role": "assistant",
        "content": "I add",
        "reasoning": "hm",
        "reasoning_content": "hm",
        "tool_calls": [
            {
                "id": "t1",
                "type": "function",
                "function": {"name": "add", "arguments": '{"a":1,"b":"ü"}'},
            }
        ],
    }
    assert made[2:] == [
        {"role": "tool", "tool_call_id": "t1", "content": "3"},
        {"role": "tool", "tool_call_id": "t2", "content": ""},
        {"role": "user", "content": [PICTURE, text("go on")]},
    ]
    alone = messages(*HELLO, {"role": "assistant", "content": [call]}, user(result))
    assert alone[1]["content"] is None


def test_turns_of_one_role_are_joined_and_reminders_stay_in_place() -> None:
    made = messages(
        *HELLO,
        {"role": "user", "content": "there"},
        {"role": "assistant", "content": "yes"},
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "go on"},
    )
    reminder = "<system-reminder>\nbe brief\n</system-reminder>"
    assert made == [
        {"role": "user", "content": "hi\nthere"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": f"{reminder}\ngo on"},
    ]


def test_a_begun_answer_is_continued() -> None:
    made = chat(messages=[*HELLO, {"role": "assistant", "content": "{"}])
    assert made["continue_final_message"] is True
    assert made["add_generation_prompt"] is False
    assert "continue_final_message" not in chat()


def test_settings_have_openais_names() -> None:
    made = chat(
        temperature=0.2,
        top_p=0.9,
        top_k=5,
        stop_sequences=["END"],
        metadata={"user_id": "u1"},
        stream=True,
        service_tier="auto",
        n=9,
        best_of=4,
    )
    given = {"model": "m", "messages": HELLO, "max_tokens": 9, "temperature": 0.2, "top_p": 0.9}
    renamed = {"top_k": 5, "stop": ["END"], "user": "u1"}
    assert made == given | renamed | {"stream": True, "stream_options": {"include_usage": True}}
    assert chat(stream=False) == {"model": "m", "messages": HELLO, "max_tokens": 9}


def test_tools_and_their_choice_have_openais_form() -> None:
    function = {"name": "add", "description": "adds", "parameters": {"type": "object"}}
    for choice, expected in (
        (None, {}),
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "add", "disable_parallel_tool_use": True},
            {
                "tool_choice": {"type": "function", "function": {"name": "add"}},
                "parallel_tool_calls": False,
            },
        ),
    ):
        made = chat(tools=[{**ADD, "cache_control": {}}], tool_choice=choice)
        assert made.pop("tools") == [{"type": "function", "function": function}]
        assert made == {"model": "m", "messages": HELLO, "max_tokens": 9, **expected}
    assert "tools" not in chat(tools=[])


def test_thinking_effort_and_form_of_the_answer() -> None:
    switches = {"enable_thinking": False, "thinking": False}
    assert chat(thinking={"type": "disabled"})["chat_template_kwargs"] == switches
    enabled = chat(thinking={"type": "enabled", "budget_tokens": 2000})
    assert enabled["chat_template_kwargs"] == {"enable_thinking": True, "thinking": True}
    assert "chat_template_kwargs" not in chat(thinking={"type": "adaptive"})
    form = {"type": "json_schema", "schema": {"type": "object"}}
    made = chat(output_config={"effort": "max", "format": form})
    assert made["reasoning_effort"] == "high"
    schema = {"name": "answer", "schema": {"type": "object"}}
    assert made["response_format"] == {"type": "json_schema", "json_schema": schema}


def test_a_count_asks_for_one_token_of_the_same_chat() -> None:
    made = chat(COUNT, system="be brief", tools=[ADD], max_tokens=None, stream=True)
    assert made["max_tokens"] == 1
    assert "stream" not in made
    same = chat(system="be brief", tools=[ADD])
    assert {**made, "max_tokens": 9} == same


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": "hi"}, "'messages' must be a list"),
        ({"messages": [3]}, "messages.0 is no object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 3}]}, "'messages.0.content' must be"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "'messages.0.content'"),
        ({"messages": [user({"type": "text", "text": None})]}, "messages.0: 'text' must be"),
        ({"messages": [user({"type": "image", "source": {"type": "file"}})]}, "'base64' or 'url'"),
        ({"messages": [user({"type": "image"})]}, "'base64' or 'url'"),
        ({"messages": [user({"type": "document", "source": PNG})]}, "documents of text only"),
        ({"messages": [user({"type": "server_tool_use"})]}, "'server_tool_use' are not served"),
        ({"system": [{"type": "image", "source": PNG}]}, "'system' takes text blocks"),
        ({"system": 3}, "'system' must be"),
        ({"tools": "add"}, "'tools' must be a list"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0 needs"),
        ({"tools": [ADD], "tool_choice": {"type": "some"}}, "'tool_choice' must be"),
        ({"tools": [ADD], "tool_choice": "auto"}, "'tool_choice' must be an object"),
        ({"thinking": "on"}, "'thinking' must be an object"),
        ({"mcp_servers": [{"url": "https://x.org"}]}, "'mcp_servers' are not served"),
        ({"model": ""}, "names no model"),
        ({"model": 3}, "names no model"),
        ({"max_tokens": True}, "'max_tokens' is needed"),
    ],
)
def test_a_wrong_field_gets_one_sentence(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError, match=re.escape(words)):
        chat(**fields)


KINDS = st.sampled_from(
    (
        *("text", "image", "document", "search_result", "tool_use", "tool_result", "thinking"),
        *("base64", "url", "content", "auto", "any", "tool", "enabled", "json_schema", "user"),
        *("assistant", "system", "custom"),
    )
)
NAMES = st.sampled_from(
    (
        *("type", "role", "content", "text", "source", "data", "media_type", "url", "id", "name"),
        *("input", "tool_use_id", "thinking", "title", "input_schema", "format", "effort"),
    )
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | KINDS
BLOCKS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=20,
)
FIELDS = st.sampled_from(
    (
        *("messages", "system", "tools", "tool_choice", "thinking", "output_config", "metadata"),
        *("stop_sequences", "stream", "max_tokens", "temperature", "mcp_servers"),
    )
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([MESSAGES, COUNT]), st.dictionaries(FIELDS, BLOCKS, max_size=5))
def test_a_request_of_any_form_is_translated_or_refused(path: str, fields: dict[str, Any]) -> None:
    asked = {"model": "m", "max_tokens": 9, "messages": HELLO, **fields}
    with contextlib.suppress(ApiError):
        made = translate(path, json.dumps(asked).encode())
        assert json.loads(made.body)["model"] == "m"
