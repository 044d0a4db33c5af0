"""The package httpx: OpenAI's API without a client."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import httpx

MODEL = sys.argv[1]
ADD = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": ADD}}
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "Who wrote Emma?"}]}
CHAT = "chat/completions"

client = httpx.Client(
    base_url=os.environ["OPENAI_BASE_URL"],
    headers={"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]},
    timeout=120,
)
answer = client.post(CHAT, json=ASK).raise_for_status().json()
print("first:", answer["choices"][0]["message"]["content"])

with client.stream("POST", CHAT, json={**ASK, "stream": True}) as stream:
    data = [line[6:] for line in stream.iter_lines() if line.startswith("data: {")]
choices = [choice for one in data for choice in json.loads(one)["choices"]]
parts = [choice["delta"]["content"] for choice in choices if choice["delta"].get("content")]
print("stream:", len(parts), "".join(parts))

turns: list[Any] = [{"role": "user", "content": "Add 1234 and 4321 with the tool."}]
body = {"model": MODEL, "messages": turns, "tools": [TOOL]}
message = client.post(CHAT, json=body).raise_for_status().json()["choices"][0]["message"]
call = message["tool_calls"][0]
total = str(sum(json.loads(call["function"]["arguments"]).values()))
turns += [message, {"role": "tool", "tool_call_id": call["id"], "content": total}]
second = client.post(CHAT, json=body).raise_for_status().json()
print("tool:", second["choices"][0]["message"]["content"])
