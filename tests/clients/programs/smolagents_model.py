"""The package smolagents."""

from __future__ import annotations

import os
import sys
from typing import Any

from smolagents import ChatMessage, LogLevel, OpenAIModel, ToolCallingAgent, tool

MODEL = sys.argv[1]

model = OpenAIModel(
    model_id=MODEL,
    api_base=os.environ["OPENAI_BASE_URL"],
    api_key=os.environ["OPENAI_API_KEY"],
)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the first.
        b: the second.
    """
    return a + b


ask: Any = [ChatMessage(role="user", content="Who wrote Emma?")]
print("first:", model.generate(ask).content)
parts = [part.content for part in model.generate_stream(ask) if part.content]
print("stream:", len(parts), "".join(parts))
agent = ToolCallingAgent(tools=[add], model=model, verbosity_level=LogLevel.OFF)
print("tool:", agent.run("Add 1234 and 4321 with the tool."))
