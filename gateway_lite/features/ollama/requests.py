"""The translation of Ollama requests into OpenAI requests.

Source: Ollama's API (docs/api.md of its repository).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from gateway_lite import errors
from gateway_lite.features.ollama.answers import Clock, Lines, Whole, failed, spoken
from gateway_lite.features.translation import Translated
from gateway_lite.wire.tolerant_json import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

PATHS = ("/api/chat", "/api/generate", "/api/embed", "/api/embeddings")
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
VECTORS = "/v1/embeddings"
JSON = b"application/json; charset=utf-8"
JSON_LINES = b"application/x-ndjson"
OPTIONS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "repeat_penalty",
    "repeat_last_n",
    "typical_p",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
)
"""Options with the same name and meaning at the engines, or at those of llama.cpp alone."""
RENAMED = {"repeat_penalty": "repetition_penalty", "num_keep": "n_keep"}
"""Options with another name at some engine; the engines ignore what they do not know."""
EFFORTS = ("low", "medium", "high")
IMAGES = {"/9j/": "jpeg", "iVBOR": "png", "R0lGOD": "gif", "UklGR": "webp"}
"""First base64 characters of image files, with the kind of image."""


def _failed(status: int, body: bytes) -> bytes:
    """Return the body of an engine's error in Ollama's form, which has no kinds by status."""
    del status
    return failed(body)


def translate(path: str, body: bytes) -> Translated:
    """Return an Ollama request in OpenAI's form.

    Args:
        path: one of PATHS.
        body: the request's JSON.

    Raises:
        ApiError: the request is malformed.
    """
    try:
        asked = msgspec.json.decode(body)
    except UNREADABLE:
        raise errors.bad_request("the request is no JSON") from None
    if type(asked) is not dict or type(asked.get("model")) is not str or not asked["model"]:
        raise errors.bad_request("a model is needed", param="model")
    clock, model = Clock(asked["model"], thoughts=asked.get("think") is not False), asked["model"]
    form = path.rpartition("/")[2]
    try:
        if form in {"embed", "embeddings"}:
            made = {"model": model, **_vectors(asked, form)}
            sent = msgspec.json.encode(made)
            none = None if made["input"] else _no_vectors(clock, form)
            return Translated(VECTORS, sent, Whole(clock, form), JSON, _failed, none)
        to, words = _chat(asked) if form == "chat" else _generate(asked)
        made = {"model": model, **words, **_options(asked)}
        if to == CHAT:
            made |= _spelled(asked) | _thinking(asked)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise errors.bad_request(f"the request does not have the form of {path}") from None
    stream = asked.get("stream") is not False
    if stream:
        made |= {"stream": True, "stream_options": {"include_usage": True}}
    editor = Lines(clock, form) if stream else Whole(clock, form)
    kind = JSON_LINES if stream else JSON
    # Ollama's clients send an empty request to load or unload a model; engines refuse such
    # requests.
    said = bool(words.get("messages") or words.get("prompt"))
    answer = None if said else _loaded(clock, asked, form)
    return Translated(to, msgspec.json.encode(made), editor, kind, _failed, answer)


def _no_vectors(clock: Clock, form: str) -> bytes:
    """Return the answer to a request without a text, which only loads a model."""
    none = {"embedding": []} if form == "embeddings" else {"model": clock.model, "embeddings": []}
    return msgspec.json.encode(none)


def _loaded(clock: Clock, asked: dict[str, Any], form: str) -> bytes:
    """Return the answer to a request that only loads or unloads a model."""
    reason = "unload" if asked.get("keep_alive") in (0, "0") else "load"
    line = clock.line(**spoken({}, form), done=True, done_reason=reason)
    return msgspec.json.encode(line) + b"\n"


def _chat(asked: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the path of a chat, and its messages and tools."""
    calls: list[dict[str, Any]] = []
    said = enumerate(asked.get("messages") or ())
    messages = [_message(number, message, calls) for number, message in said]
    tools = {"tools": asked["tools"]} if asked.get("tools") else {}
    return CHAT, {"messages": messages, **tools}


def _generate(asked: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the path of a prompt: the chat template, unless the prompt is raw or has a suffix."""
    prompt = asked.get("prompt") or ""
    if asked.get("raw") or asked.get("suffix"):
        more = {"suffix": asked["suffix"]} if asked.get("suffix") else {}
        return TEXT, {"prompt": prompt, **more}
    if not prompt and not asked.get("images"):
        return CHAT, {"messages": []}
    system = asked.get("system")
    messages = [{"role": "system", "content": system}] if system else []
    content = _content(prompt, asked.get("images"))
    return CHAT, {"messages": [*messages, {"role": "user", "content": content}]}


def _message(number: int, message: dict[str, Any], calls: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a chat message in OpenAI's form.

    Args:
        number: number of the message, for the ids of its tool calls.
        message: the message in Ollama's form.
        calls: tool calls without an answer yet; changed.
    """
    made = {
        "role": message["role"],
        "content": _content(message.get("content") or "", message.get("images")),
    }
    if message.get("tool_calls"):
        made["tool_calls"] = [
            _call(call, f"call_{number}_{i}") for i, call in enumerate(message["tool_calls"])
        ]
        calls += made["tool_calls"]
    if message["role"] == "tool":
        made["tool_call_id"] = message.get("tool_call_id") or _answered(message, calls)
    return made


def _answered(message: dict[str, Any], calls: list[dict[str, Any]]) -> str:
    """Return the id of the tool call that a message answers: by name, else the first open call."""
    name = message.get("tool_name") or message.get("name")
    named = [call for call in calls if call["function"]["name"] == name]
    for call in named or calls:
        calls.remove(call)
        return str(call["id"])
    return "call_0"


def _call(call: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a tool call in OpenAI's form."""
    function = call["function"]
    arguments = function.get("arguments") or {}
    text = arguments if type(arguments) is str else json.dumps(arguments, ensure_ascii=False)
    named = {"name": function["name"], "arguments": text}
    return {"id": call.get("id") or name, "type": "function", "function": named}


def _content(text: str, images: Sequence[str] | None) -> str | list[dict[str, Any]]:
    """Return the content of a message, with images as data URLs."""
    if not images:
        return text
    links = [{"type": "image_url", "image_url": {"url": _link(image)}} for image in images]
    return [{"type": "text", "text": text}, *links]


def _link(image: str) -> str:
    """Return a base64 image as a data URL; some clients send one already."""
    if image.startswith("data:"):
        return image
    kind = next((kind for start, kind in IMAGES.items() if image.startswith(start)), "png")
    return f"data:image/{kind};base64,{image}"


def _options(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the options that engines know."""
    options = asked.get("options") or {}
    made = {name: options[name] for name in OPTIONS if options.get(name) is not None}
    made |= {to: options[name] for name, to in RENAMED.items() if options.get(name) is not None}
    most = options.get("num_predict")
    if most is not None and type(most) is not int:
        raise errors.bad_request("'num_predict' must be a whole number", param="num_predict")
    # Ollama reads a number below 1 as no limit.
    if most is not None and most > 0:
        made["max_tokens"] = most
    form = asked.get("format")
    if form == "json":
        made["response_format"] = {"type": "json_object"}
    elif type(form) is dict:
        schema = {"name": "answer", "schema": form}
        made["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form not in (None, ""):
        raise errors.bad_request("'format' must be 'json' or a JSON schema", param="format")
    return made


def _thinking(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that switch thoughts on or off: chat templates name the switch two ways."""
    think = asked.get("think")
    if think is None:
        return {}
    if type(think) is not bool and think not in EFFORTS:
        told = f"'think' must be true, false or one of {', '.join(EFFORTS)}"
        raise errors.bad_request(told, param="think")
    effort = {} if type(think) is bool else {"reasoning_effort": think}
    on = bool(think)
    return {**effort, "chat_template_kwargs": {"enable_thinking": on, "thinking": on}}


def _spelled(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that ask for log probabilities."""
    if not asked.get("logprobs"):
        return {}
    top = {"top_logprobs": asked["top_logprobs"]} if asked.get("top_logprobs") else {}
    return {"logprobs": True, **top}


def _vectors(asked: dict[str, Any], form: str) -> dict[str, Any]:
    """Return an embedding request."""
    said = asked.get("input") if form == "embed" else asked.get("prompt")
    size = {"dimensions": asked["dimensions"]} if asked.get("dimensions") else {}
    return {"input": "" if said is None else said, "encoding_format": "float", **size}
