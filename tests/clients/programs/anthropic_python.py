"""Anthropic's Python package."""

from __future__ import annotations

import os
import sys
from typing import Any

import anthropic

MODEL = sys.argv[1]
ADD = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
TOOL: Any = {"name": "add", "description": "adds", "input_schema": ADD}
ASK: list[Any] = [{"role": "user", "content": "Who wrote Emma?"}]

client = anthropic.Anthropic(
    base_url=os.environ["OPENAI_BASE_URL"].removesuffix("/v1"),
    api_key=os.environ["OPENAI_API_KEY"],
)
answer: Any = client.messages.create(model=MODEL, max_tokens=100, messages=ASK)
print("first:", answer.content[0].text)

with client.messages.stream(model=MODEL, max_tokens=100, messages=ASK) as stream:
    parts = list(stream.text_stream)
print("stream:", len(parts), "".join(parts))

turns: list[Any] = [{"role": "user", "content": "Add 1234 and 4321 with the tool."}]
asked: Any = client.messages.create(model=MODEL, max_tokens=100, messages=turns, tools=[TOOL])
call = next(block for block in asked.content if block.type == "tool_use")
total = str(call.input["a"] + call.input["b"])
result = {"type": "tool_result", "tool_use_id": call.id, "content": total}
turns += [{"role": "assistant", "content": asked.content}, {"role": "user", "content": [result]}]
second: Any = client.messages.create(model=MODEL, max_tokens=100, messages=turns, tools=[TOOL])
print("tool:", second.content[0].text)
