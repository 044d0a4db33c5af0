"""The translation of Anthropic requests into OpenAI requests.

Engines that serve Anthropic's API make a chat of each request themselves. Made here, the chat is
the same for all engines, and one set of limits, rules and edits holds for all clients.

Source: https://docs.claude.com/en/api/messages
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway_lite import errors
from gateway_lite.features.anthropic import messages
from gateway_lite.features.anthropic.answers import TokenCount, WholeMessage, failed
from gateway_lite.features.anthropic.stream import MessageStream
from gateway_lite.features.translation import Translated
from gateway_lite.wire import response_head
from gateway_lite.wire.error_forms import MESSAGES

UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)

COUNT = "/v1/messages/count_tokens"
PATHS = (MESSAGES, COUNT)
CHAT = "/v1/chat/completions"
EVENTS = b"text/event-stream; charset=utf-8"
SAME = ("temperature", "top_p", "top_k")
"""Fields with the same name and meaning at the engines."""
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
THINKING = {"enabled": True, "disabled": False}
SWITCHES = ("enable_thinking", "thinking")
"""Variables of chat templates that turn thinking on or off."""


def translate(path: str, body: bytes) -> Translated:
    """Return an Anthropic request in OpenAI's form.

    Args:
        path: one of PATHS.
        body: the request's JSON.

    Raises:
        ApiError: the request is malformed, or asks for what engines do not have.
    """
    asked = _read(body)
    model = asked["model"]
    made: dict[str, Any] = {
        "model": model,
        "messages": messages.chat(asked.get("system"), asked.get("messages")),
        **_tools(asked),
    }
    if path == COUNT:
        # An answer of one token: the engine alone knows the template, and its report is exact.
        made["max_tokens"] = 1
        return Translated(CHAT, _encoded(made), TokenCount(), response_head.JSON, failed)
    made |= _length(asked) | _settings(asked) | _thinking(asked)
    if made["messages"][-1]["role"] == "assistant":
        made |= {"continue_final_message": True, "add_generation_prompt": False}
    stream = asked.get("stream")
    if stream is not None and type(stream) is not bool:
        raise errors.bad_request("'stream' must be true or false", param="stream")
    if stream:
        made |= {"stream": True, "stream_options": {"include_usage": True}}
        return Translated(CHAT, _encoded(made), MessageStream(model), EVENTS, failed)
    return Translated(CHAT, _encoded(made), WholeMessage(model), response_head.JSON, failed)


def _read(body: bytes) -> dict[str, Any]:
    try:
        asked = msgspec.json.decode(body)
    except UNREADABLE:
        raise errors.bad_request("the request is not valid JSON") from None
    if type(asked) is not dict:
        raise errors.bad_request("the request is not a JSON object")
    if type(asked.get("model")) is not str or not asked["model"]:
        raise errors.bad_request("the request names no model", param="model")
    if asked.get("mcp_servers"):
        raise errors.bad_request(
            "'mcp_servers' are not served here; the client has to run their tools",
            param="mcp_servers",
        )
    return asked


def _encoded(made: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(made)
    except UNREADABLE:
        raise errors.bad_request("the request holds a text that is not valid Unicode") from None


def _length(asked: dict[str, Any]) -> dict[str, Any]:
    length = asked.get("max_tokens")
    if type(length) is not int or length < 1:
        raise errors.bad_request(
            "'max_tokens' is needed, a whole number from 1", param="max_tokens"
        )
    return {"max_tokens": length}


def _settings(asked: dict[str, Any]) -> dict[str, Any]:
    """Return sampling, stops, user and form of the answer."""
    made = {name: asked[name] for name in SAME if asked.get(name) is not None}
    if asked.get("stop_sequences"):
        made["stop"] = asked["stop_sequences"]
    metadata = asked.get("metadata")
    user = metadata.get("user_id") if type(metadata) is dict else None
    if type(user) is str and user:
        made["user"] = user
    output = _object(asked, "output_config")
    form = output.get("format") or asked.get("output_format")
    if type(form) is dict and form.get("type") == "json_schema":
        schema = {"name": "answer", "schema": form.get("schema")}
        made["response_format"] = {"type": "json_schema", "json_schema": schema}
    effort = EFFORTS.get(str(output.get("effort")))
    return made | ({"reasoning_effort": effort} if effort else {})


def _thinking(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the variables of chat templates that turn thinking on or off, if the client does."""
    wanted = THINKING.get(str(_object(asked, "thinking").get("type")))
    if wanted is None:
        return {}
    return {"chat_template_kwargs": dict.fromkeys(SWITCHES, wanted)}


def _tools(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the tools, and the choice among them."""
    tools = asked.get("tools")
    if not tools:
        return {}
    if type(tools) is not list:
        raise errors.bad_request("'tools' must be a list", param="tools")
    return {"tools": [_tool(number, tool) for number, tool in enumerate(tools)], **_choice(asked)}


def _tool(number: int, tool: Any) -> dict[str, Any]:
    where = f"tools.{number}"
    name = tool.get("name") if type(tool) is dict else None
    if type(name) is not str or type(tool.get("input_schema")) is not dict:
        raise errors.bad_request(
            f"{where} needs 'name' and 'input_schema'; tools that Anthropic itself runs or defines"
            " are not served here",
            param=where,
        )
    told = {"description": tool["description"]} if tool.get("description") else {}
    strict = {"strict": True} if tool.get("strict") is True else {}
    function = {"name": name, **told, "parameters": tool["input_schema"], **strict}
    return {"type": "function", "function": function}


def _choice(asked: dict[str, Any]) -> dict[str, Any]:
    choice = _object(asked, "tool_choice")
    kind = choice.get("type")
    if kind is None:
        return {}
    one = {"parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") else {}
    if kind == "tool":
        named = {"type": "function", "function": {"name": choice.get("name")}}
        return {"tool_choice": named, **one}
    if type(kind) is not str or kind not in CHOICES:
        raise errors.bad_request(
            "the type of 'tool_choice' must be 'auto', 'any', 'tool' or 'none'",
            param="tool_choice",
        )
    return {"tool_choice": CHOICES[kind], **one}


def _object(asked: dict[str, Any], name: str) -> dict[str, Any]:
    found = asked.get(name)
    if found is None:
        return {}
    if type(found) is not dict:
        raise errors.bad_request(f"'{name}' must be an object", param=name)
    return found
