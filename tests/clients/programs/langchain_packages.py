"""LangChain's packages; the second argument is one of openai, ollama and anthropic."""

from __future__ import annotations

import os
import sys
from typing import Any

from langchain_core.tools import tool

MODEL, KIND = sys.argv[1:]
ROOT = os.environ["OPENAI_BASE_URL"].removesuffix("/v1")
KEY = os.environ["OPENAI_API_KEY"]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def chat() -> Any:
    """Return the chat model of one package."""
    if KIND == "ollama":
        from langchain_ollama import ChatOllama

        headers = {"headers": {"Authorization": f"Bearer {KEY}"}}
        return ChatOllama(model=MODEL, base_url=ROOT, client_kwargs=headers)
    if KIND == "anthropic":
        from langchain_anthropic import ChatAnthropic

        return ChatAnthropic(model=MODEL, base_url=ROOT, api_key=KEY, max_tokens=100)
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model=MODEL)


model = chat()
print("first:", model.invoke("Who wrote Emma?").text)

parts = [part.text for part in model.stream("Who wrote Emma?") if part.text]
print("stream:", len(parts), "".join(parts))

bound = model.bind_tools([add])
turns: list[Any] = [("user", "Add 1234 and 4321 with the tool.")]
asked = bound.invoke(turns)
turns += [asked, add.invoke(asked.tool_calls[0])]
print("tool:", bound.invoke(turns).text)
