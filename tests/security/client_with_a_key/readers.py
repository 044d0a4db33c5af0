"""The tokens that a request lets an engine work, as each engine reads the request's body.

Each reader follows the source of its engine: vLLM 0.32 (pydantic, which takes "200" and 200.0 for
200), llama.cpp's server (its own names first), llama-cpp-python's server, and a careless one that
ignores case and takes the first of two equal names, as multi-model backends may.
"""

from __future__ import annotations

import json
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

CONTEXT = 1_000_000
"""Tokens of an answer that nothing bounds."""
CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
TABLE = {
    CHAT: ("max_completion_tokens", "max_tokens"),
    TEXT: ("max_tokens",),
    RESPONSES: ("max_output_tokens",),
}


def coerced(value: Any) -> int | None:
    """Return a number as pydantic's lax mode takes it; None is nothing or an error of 422."""
    if isinstance(value, str):
        value = value.strip()
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and abs(number) < 2**53 else None


def prompts(body: dict[str, Any]) -> int:
    """Return the number of prompts of a completion."""
    prompt = body.get("prompt")
    if not isinstance(prompt, list) or all(type(part) is int for part in prompt):
        return 1
    return max(1, len(prompt))


def bounded(value: int | None) -> int:
    """Return tokens, where nothing, 0 and less are no bound."""
    return CONTEXT if value is None or value <= 0 else min(value, CONTEXT)


def vllm(path: str, raw: bytes) -> int:
    """Return the tokens that vLLM may generate."""
    body = json.loads(raw)
    if path not in TABLE:
        return 0
    said = (coerced(body[name]) for name in TABLE[path] if body.get(name) is not None)
    default = 16 if path == TEXT else None
    each = bounded(next(said, default))
    return each * max(1, coerced(body.get("n")) or 1) * (prompts(body) if path == TEXT else 1)


def llama_server(path: str, raw: bytes) -> int:
    """Return the tokens that llama.cpp's server may generate."""
    body = json.loads(raw)
    if path == RESPONSES and "max_output_tokens" in body:
        body["max_tokens"] = body["max_output_tokens"]
    said = [coerced(body[n]) for n in ("n_predict", *TABLE[CHAT]) if body.get(n) is not None]
    choices = coerced(body.get("n_cmpl")) or coerced(body.get("n")) or 1
    return bounded(said[0] if said else None) * max(1, choices) * (prompts(body))


def llama_python(path: str, raw: bytes) -> int:
    """Return the tokens that llama-cpp-python's server may generate."""
    body = json.loads(raw)
    if path == RESPONSES:
        return 0
    default = 16 if path == TEXT else None
    each = coerced(body["max_tokens"]) if body.get("max_tokens") is not None else default
    return bounded(each) * (prompts(body) if path == TEXT else 1)


def careless(path: str, raw: bytes) -> int:
    """Return the tokens that vLLM's fields would allow to a reader that ignores case."""
    found: dict[str, Any] = {}
    for name, value in json.loads(raw, object_pairs_hook=list):
        found.setdefault(unicodedata.normalize("NFKC", name).casefold(), value)
    return vllm(path, json.dumps(found).encode())


READERS: tuple[Callable[[str, bytes], int], ...] = (vllm, llama_server, llama_python, careless)
