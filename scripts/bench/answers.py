"""The bytes that the engine sends."""

from __future__ import annotations

import json
from typing import Any

FRAME_TIME = rb'"content": ?" t(\d{16})"'
"""Where an event carries the time of its sending."""
NAME = "chatcmpl-6f1d0c7a5b8e4f3f9a2d1c0b7e6f5a4d"
DATE = b"date: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
TEXT = "The quick brown fox jumps over the lazy dog. " * 8


def whole(body: bytes, kind: bytes = b"application/json", status: bytes = b"200 OK") -> bytes:
    """Return an answer in one piece."""
    length = b"content-length: %d\r\n" % len(body)
    return (
        b"HTTP/1.1 " + status + b"\r\n" + DATE + length + b"content-type: %b\r\n\r\n" % kind + body
    )


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _completion() -> dict[str, Any]:
    unset = ("refusal", "annotations", "audio", "function_call", "reasoning")
    message: dict[str, Any] = {
        "role": "assistant",
        "content": TEXT,
        **dict.fromkeys(unset),
        "tool_calls": [],
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {
        "id": NAME,
        "object": "chat.completion",
        "created": 1760000000,
        "model": "mock",
        "choices": [{**choice, "stop_reason": None, "token_ids": None}],
        **dict.fromkeys(("service_tier", "system_fingerprint")),
        "usage": {"prompt_tokens": 312, "total_tokens": 392, "completion_tokens": 80},
        **dict.fromkeys(("prompt_logprobs", "kv_transfer_params")),
    }


def _chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    about = {"id": NAME, "object": "chat.completion.chunk", "created": 1760000000, "model": "mock"}
    return b"data: " + _compact({**about, "choices": [choice]}) + b"\n\n"


def chunk(data: bytes) -> bytes:
    """Return one chunk of a body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


UNARY = whole(_compact(_completion()))
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    + DATE
    + b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
ROLE = chunk(_chunk({"role": "assistant", "content": ""}))
LAST = chunk(_chunk({}, "stop"))
DONE = chunk(b"data: [DONE]\n\n")
_BEFORE, _AFTER = chunk(_chunk({"content": " t" + "0" * 16})).split(b"0" * 16)
_MODEL = {"id": "mock", "object": "model", "created": 1760000000, "owned_by": "vllm"}
_LISTED = {**_MODEL, "root": "mock", "parent": None, "max_model_len": 131072, "permission": []}
MODELS = whole(_compact({"object": "list", "data": [_LISTED]}))
INFO = whole(
    _compact(
        {
            **dict.fromkeys(("model_path", "model_id", "served_model_name"), "mock"),
            "tokenizer_path": "mock",
            "is_generation": True,
            "dp_size": 1,
            "max_model_len": 131072,
        }
    )
)
PAGES = {
    b"/v1/models": MODELS,
    **dict.fromkeys((b"/health", b"/health_generate", b"/ping"), whole(b"")),
    b"/metrics": whole(b"", b"text/plain"),
    **dict.fromkeys(
        (b"/get_server_info", b"/get_model_info", b"/server_info", b"/model_info"), INFO
    ),
}


def event(stamp: int) -> bytes:
    """Return an event of a stream, with a number in its text."""
    return _BEFORE + b"%016d" % stamp + _AFTER


def page(path: bytes) -> bytes:
    """Return what routers ask of an engine beside work."""
    return PAGES.get(path) or whole(b'{"detail":"Not Found"}', status=b"404 Not Found")


def asks_stream(body: bytes) -> bool:
    """Tell whether a request asks for a stream."""
    return b'"stream":true' in body or b'"stream": true' in body
