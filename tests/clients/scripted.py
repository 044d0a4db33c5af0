"""An engine for clients' tests: chats and responses by a script of three questions.

The question without tools is answered with ``ANSWER``. One that asks for a tool gets a call of the
tool that is offered, and the second turn, with the tool's result, a text with that result. All
answers are streams where the client asks for one.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "m"
ANSWER = "Emma was written by Jane Austen."
SUM = "5555"
"""Result of the tool's call, which stands in no question."""
WISH = "with the tool"
"""What a question says that wants a tool."""

SHELL = "expr 1234 + 4321"
CALLS: dict[str, dict[str, Any]] = {
    "add": {"a": 1234, "b": 4321},
    "bash": {"command": SHELL, "description": "Adds two numbers"},
    "Bash": {"command": SHELL},
    "shell_command": {"command": SHELL},
    "exec_command": {"cmd": SHELL},
}
"""Arguments of the call, by the tool's name: the programs' own one, and the shells of agents."""

Event = tuple[str, dict[str, Any]]


@dataclass
class ScriptedEngine:
    """The engine, as an ASGI application.

    Attributes:
        streams: number of requests that asked for a stream.
        paths: path of each request, in order.
    """

    streams: int = 0
    paths: list[str] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        body += message.get("body", b"")
        asked = json.loads(body or b"{}")
        kind, content = b"application/json", json.dumps({"object": "list", "data": []}).encode()
        if scope["method"] == "POST":
            self.paths.append(scope["path"])
            self.streams += bool(asked.get("stream"))
            events = answer_events(scope["path"], asked)
            kind, content = encoded(events, stream=bool(asked.get("stream")))
        head = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": content})


def answer_events(path: str, asked: dict[str, Any]) -> list[Event]:
    """Return the events of an answer; the last is the whole answer where no stream is asked."""
    if path == "/v1/responses":
        return list(response_events(*script(response_turns(asked), asked.get("tools"))))
    return list(chat_events(*script(chat_turns(asked), asked.get("tools"))))


def encoded(events: list[Event], *, stream: bool) -> tuple[bytes, bytes]:
    """Return content type and body of an answer."""
    if not stream:
        return b"application/json", json.dumps(events[-1][1]).encode()
    chat = not events[0][0]
    lines = [
        f"data: {json.dumps(data)}\n\n" if chat else f"event: {name}\ndata: {json.dumps(data)}\n\n"
        for name, data in (events[:-1] if chat else [*events[:-1], completed(events)])
    ]
    return b"text/event-stream", "".join([*lines, "data: [DONE]\n\n" if chat else ""]).encode()


def completed(events: list[Event]) -> Event:
    """Return the last event of a stream of responses, which holds the whole answer."""
    done = {"sequence_number": len(events), "response": events[-1][1]}
    return "response.completed", {"type": "response.completed", **done}


def script(
    turns: list[tuple[str, str]], tools: list[dict[str, Any]] | None
) -> tuple[str, dict[str, Any] | None]:
    """Return the text of an answer, or the call of a tool."""
    offered = {tool.get("function", tool).get("name") for tool in tools or ()}
    role, said = turns[-1] if turns else ("user", "")
    result = said if role == "tool" else said.partition("Observation:")[2]
    if result:
        text = f"The tool found {' '.join(result.split())[-200:]}"
        final = {"answer": text}
        return text, called("final_answer", final) if "final_answer" in offered else None
    users = " ".join(text for role, text in turns if role == "user")
    name = next((name for name in CALLS if name in offered), None)
    if name and WISH in users:
        return "", called(name, CALLS[name])
    return ANSWER, None


def called(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return a call of a tool, in the form of chats."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": f"call_{name}", "type": "function", "function": function}


def chat_turns(asked: dict[str, Any]) -> list[tuple[str, str]]:
    """Return role and text of each message."""
    return [(one["role"], text_of(one.get("content"))) for one in asked.get("messages", ())]


def response_turns(asked: dict[str, Any]) -> list[tuple[str, str]]:
    """Return role and text of each item of a response's input."""
    items = asked.get("input", "")
    if isinstance(items, str):
        return [("user", items)]
    return [
        ("tool", text_of(one["output"]))
        if one.get("type") == "function_call_output"
        else (one.get("role", ""), text_of(one.get("content")))
        for one in items
    ]


def text_of(content: Any) -> str:
    """Return the text of a message's content."""
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content)
    return content or ""


def pieces(text: str) -> list[str]:
    """Return the words of a text, with the space behind each."""
    return re.findall(r"\S+\s*", text)


def chat_events(text: str, call: dict[str, Any] | None) -> Iterator[Event]:
    """Yield the chunks of a chat, then the whole of it."""
    head = {"id": "chat-1", "created": 1700000000, "model": MODEL}
    usage = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if call:
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        begun = {**call, "index": 0, "function": {**call["function"], "arguments": ""}}
        rest = {"index": 0, "function": {"arguments": call["function"]["arguments"]}}
        deltas += [{"tool_calls": [begun]}, {"tool_calls": [rest]}]
    else:
        deltas += [{"content": word} for word in pieces(text)]
    end = {"index": 0, "finish_reason": "tool_calls" if call else "stop"}
    choices: list[dict[str, Any]] = [
        *({"index": 0, "delta": delta, "finish_reason": None} for delta in deltas),
        {**end, "delta": {}},
    ]
    chunk = {**head, "object": "chat.completion.chunk"}
    for choice in choices:
        yield "", {**chunk, "choices": [choice]}
    yield "", {**chunk, "choices": [], "usage": usage}
    whole = {**head, "object": "chat.completion", "usage": usage}
    yield "", {**whole, "choices": [{**end, "message": message}]}


def response_events(text: str, call: dict[str, Any] | None) -> Iterator[Event]:
    """Yield the events of a response, then the whole of it."""
    item: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant"}
    item |= {"status": "completed"}
    part = {"type": "output_text", "text": text, "annotations": []}
    begun = {**item, "status": "in_progress", "content": []}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    parts: list[Event] = [("content_part.added", {**place, "part": {**part, "text": ""}})]
    parts += [("output_text.delta", {**place, "delta": word}) for word in pieces(text)]
    parts += [("output_text.done", {**place, "text": text})]
    parts += [("content_part.done", {**place, "part": part})]
    item["content"] = [part]
    if call:
        item = {"id": "fc_1", "type": "function_call", "status": "completed"}
        item |= {"call_id": call["id"], **call["function"]}
        begun = {**item, "status": "in_progress", "arguments": ""}
        place = {"item_id": "fc_1", "output_index": 0}
        arguments = item["arguments"]
        parts = [("function_call_arguments.delta", {**place, "delta": arguments})]
        parts += [("function_call_arguments.done", {**place, "arguments": arguments})]
    first = response("in_progress", [])
    events: list[Event] = [
        ("created", {"response": first}),
        ("in_progress", {"response": first}),
        ("output_item.added", {"output_index": 0, "item": begun}),
        *parts,
        ("output_item.done", {"output_index": 0, "item": item}),
    ]
    for number, (name, data) in enumerate(events):
        kind = f"response.{name}"
        yield kind, {"type": kind, "sequence_number": number, **data}
    yield "", response("completed", [item])


def response(status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a response in OpenAI's form."""
    details = {
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    usage = {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17, **details}
    head = {"id": "resp_1", "object": "response", "created_at": 1700000000, "model": MODEL}
    settings = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
    done = usage if status == "completed" else None
    return {**head, **settings, "status": status, "output": output, "usage": done}
