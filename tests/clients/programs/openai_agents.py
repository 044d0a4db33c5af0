"""OpenAI's agents."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import agents

MODEL = sys.argv[1]

agents.set_default_openai_api("chat_completions")
agents.set_tracing_disabled(True)


@agents.function_tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def main() -> None:
    """Ask three times."""
    agent: Any = agents.Agent(name="adder", model=MODEL, tools=[add])
    print("first:", (await agents.Runner.run(agent, "Who wrote Emma?")).final_output)
    stream: Any = agents.Runner.run_streamed(agent, "Who wrote Emma?")
    parts = [
        event.data.delta
        async for event in stream.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    print("stream:", len(parts), "".join(parts))
    wish = "Add 1234 and 4321 with the tool."
    print("tool:", (await agents.Runner.run(agent, wish)).final_output)


asyncio.run(main())
