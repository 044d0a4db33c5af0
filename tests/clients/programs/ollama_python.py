"""Ollama's Python package."""

from __future__ import annotations

import os
import sys
from typing import Any

import ollama

MODEL = sys.argv[1]
ASK: list[Any] = [{"role": "user", "content": "Who wrote Emma?"}]


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the first.
        b: the second.
    """
    return a + b


client = ollama.Client(
    host=os.environ["OPENAI_BASE_URL"].removesuffix("/v1"),
    headers={"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]},
)
print("first:", client.chat(MODEL, messages=ASK).message.content)

parts = [part.message.content for part in client.chat(MODEL, messages=ASK, stream=True)]
parts = [part for part in parts if part]
print("stream:", len(parts), "".join(map(str, parts)))

turns: list[Any] = [{"role": "user", "content": "Add 1234 and 4321 with the tool."}]
asked = client.chat(MODEL, messages=turns, tools=[add])
call = (asked.message.tool_calls or [])[0]
total = str(add(**call.function.arguments))
turns += [asked.message, {"role": "tool", "tool_name": "add", "content": total}]
print("tool:", client.chat(MODEL, messages=turns, tools=[add]).message.content)
