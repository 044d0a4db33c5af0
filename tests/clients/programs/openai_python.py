"""OpenAI's Python package: chats and responses."""

from __future__ import annotations

import json
import sys
from typing import Any

import openai

MODEL = sys.argv[1]
ADD: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}
TOOL: Any = {"type": "function", "function": {"name": "add", "parameters": ADD}}
ASK: list[Any] = [{"role": "user", "content": "Who wrote Emma?"}]

client = openai.OpenAI()
answer = client.chat.completions.create(model=MODEL, messages=ASK)
print("first:", answer.choices[0].message.content)

stream = client.chat.completions.create(model=MODEL, messages=ASK, stream=True)
parts = [c.choices[0].delta.content for c in stream if c.choices and c.choices[0].delta.content]
print("stream:", len(parts), "".join(parts))

turns: list[Any] = [{"role": "user", "content": "Add 1234 and 4321 with the tool."}]
asked = client.chat.completions.create(model=MODEL, messages=turns, tools=[TOOL])
call: Any = (asked.choices[0].message.tool_calls or [])[0]
numbers = json.loads(call.function.arguments)
result = {"role": "tool", "tool_call_id": call.id, "content": str(numbers["a"] + numbers["b"])}
turns += [asked.choices[0].message, result]
second = client.chat.completions.create(model=MODEL, messages=turns, tools=[TOOL])
print("tool:", second.choices[0].message.content)

whole = client.responses.create(model=MODEL, input="Who wrote Emma?")
print("first:", whole.output_text)
