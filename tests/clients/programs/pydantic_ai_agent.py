"""Agents of pydantic-ai; the second argument is openai or anthropic."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from pydantic_ai import Agent

MODEL, KIND = sys.argv[1:]


def chat() -> Any:
    """Return the model of one provider."""
    if KIND == "anthropic":
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        root = os.environ["OPENAI_BASE_URL"].removesuffix("/v1")
        provider = AnthropicProvider(api_key=os.environ["OPENAI_API_KEY"], base_url=root)
        return AnthropicModel(MODEL, provider=provider)
    from pydantic_ai.models.openai import OpenAIChatModel

    return OpenAIChatModel(MODEL)


agent = Agent(chat())


@agent.tool_plain
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def main() -> None:
    """Ask three times."""
    print("first:", (await agent.run("Who wrote Emma?")).output)
    async with agent.run_stream("Who wrote Emma?") as stream:
        parts = [part async for part in stream.stream_text(delta=True, debounce_by=None)]
    print("stream:", len(parts), "".join(parts))
    print("tool:", (await agent.run("Add 1234 and 4321 with the tool.")).output)


asyncio.run(main())
