"""A client of Anthropic's API holds up no other by the form of a message."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from gateway_lite.errors import ApiError
from gateway_lite.features.anthropic.requests import translate
from gateway_lite.wire.error_forms import MESSAGES

BLOCKS, TEXT = 3000, "a" * 2000
TIMES = 30


def seconds(kind: str) -> float:
    """Return the CPU time of a message with many blocks of a kind."""
    blocks = [{"type": kind, kind: TEXT}] * BLOCKS
    body = request("assistant", blocks)
    began = time.process_time()
    translate(MESSAGES, body)
    return time.process_time() - began


def request(role: str, content: Any) -> bytes:
    """Return a request with one message."""
    messages = [{"role": role, "content": content}]
    return json.dumps({"model": "m", "max_tokens": 9, "messages": messages}).encode()


def test_many_thoughts_take_no_longer_than_many_texts() -> None:
    """Joined one by one, they take time by the square of their number: 20 s for 6 MB."""
    assert seconds("thinking") < TIMES * seconds("text") + TIMES / 100


@pytest.mark.parametrize("kind", ["search_result", "document"])
def test_documents_within_documents_are_refused(kind: str) -> None:
    """Each level would copy all parts once more, and 500 levels end the stack."""
    block: dict[str, Any] = {"type": "text", "text": "q"}
    for _ in range(3):
        held = {"content": [block]}
        block = (
            {"type": kind, "source": {"type": "content", **held}}
            if kind == "document"
            else {"type": kind, **held}
        )
    with pytest.raises(ApiError, match="hold only blocks of type 'text' or 'image'"):
        translate(MESSAGES, request("user", [block]))
