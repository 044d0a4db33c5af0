"""LlamaIndex, with its package for servers like OpenAI's."""

from __future__ import annotations

import asyncio
import os
import sys

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.openai_like import OpenAILike

MODEL = sys.argv[1]

model = OpenAILike(
    model=MODEL,
    api_base=os.environ["OPENAI_BASE_URL"],
    api_key=os.environ["OPENAI_API_KEY"],
    is_chat_model=True,
    is_function_calling_model=True,
)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def with_tool() -> str:
    """Return the agent's answer after its tool's second turn."""
    agent = FunctionAgent(tools=[add], llm=model)
    return str(await agent.run("Add 1234 and 4321 with the tool."))


print("first:", model.complete("Who wrote Emma?").text)
parts = [part.delta for part in model.stream_complete("Who wrote Emma?") if part.delta]
print("stream:", len(parts), "".join(map(str, parts)))
print("tool:", asyncio.run(with_tool()))
