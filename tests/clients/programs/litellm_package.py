"""The package litellm."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import litellm

MODEL = sys.argv[1]
ADD = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": ADD}}
ASK = [{"role": "user", "content": "Who wrote Emma?"}]

server = {
    "model": f"hosted_vllm/{MODEL}",
    "api_base": os.environ["OPENAI_BASE_URL"],
    "api_key": os.environ["OPENAI_API_KEY"],
}
answer: Any = litellm.completion(messages=ASK, **server)
print("first:", answer.choices[0].message.content)

stream: Any = litellm.completion(messages=ASK, stream=True, **server)
parts = [chunk.choices[0].delta.content for chunk in stream]
parts = [part for part in parts if part]
print("stream:", len(parts), "".join(parts))

turns: list[Any] = [{"role": "user", "content": "Add 1234 and 4321 with the tool."}]
asked: Any = litellm.completion(messages=turns, tools=[TOOL], **server)
call = asked.choices[0].message.tool_calls[0]
total = str(sum(json.loads(call.function.arguments).values()))
turns += [asked.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": total}]
second: Any = litellm.completion(messages=turns, tools=[TOOL], **server)
print("tool:", second.choices[0].message.content)
