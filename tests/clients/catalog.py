"""Clients of the gateway, the program of each, and the outcome of a program's run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.clients.scripted import ANSWER, SUM

if TYPE_CHECKING:
    import subprocess

PROGRAMS = Path(__file__).parent / "programs"
STEPS = ("first", "stream", "tool")
"""A first call, a stream, and the turn after a tool's call, as programs print them."""
FIRST_ONLY = ("first",)
PASSED, ABSENT = "passed", "none"
AI_SDK = ("ai@6.0.326", "@ai-sdk/openai-compatible@2.0.92", "zod@4.6.7")
LANGCHAIN = ("langchain-openai==1.7.4", "langchain-ollama==1.1.0", "langchain-anthropic==1.7.10")


@dataclass(frozen=True)
class Client:
    """A package that talks to the gateway.

    Attributes:
        name: in the table of clients.
        packages: pins for pip (``NAME==VERSION``) or npm (``NAME@VERSION``), the client first.
        program: its file in ``programs``.
        arguments: of the program, after the model.
        steps: those that the client has.
    """

    name: str
    packages: tuple[str, ...]
    program: str
    arguments: tuple[str, ...] = ()
    steps: tuple[str, ...] = STEPS

    @property
    def is_node(self) -> bool:
        """Whether npm installs the client."""
        return "==" not in self.packages[0]

    @property
    def version(self) -> str:
        """Version of the client's own package."""
        return self.packages[0].replace("==", "@").rpartition("@")[2]

    @property
    def folder(self) -> str:
        """Name of the folder for the installation, shared by clients with the same packages."""
        return "".join(
            c if c.isalnum() or c in ".-" else "_" for c in "-".join(sorted(self.packages))
        )


CLIENTS = (
    Client("openai (Python)", ("openai==3.57.0",), "openai_python.py"),
    Client("openai (JavaScript)", ("openai@6.49.0",), "openai_node.mjs"),
    Client("anthropic (Python)", ("anthropic==2.14.0",), "anthropic_python.py"),
    Client("anthropic (JavaScript)", ("@anthropic-ai/sdk@1.14.0",), "anthropic_node.mjs"),
    Client("ollama (Python)", ("ollama==0.6.3",), "ollama_python.py"),
    Client("ollama (JavaScript)", ("ollama@0.6.4",), "ollama_node.mjs"),
    Client("httpx", ("httpx==0.28.1",), "httpx_plain.py"),
    Client("LangChain, OpenAI", LANGCHAIN, "langchain_packages.py", ("openai",)),
    Client(
        "LangChain, Ollama",
        (LANGCHAIN[1], LANGCHAIN[0], LANGCHAIN[2]),
        "langchain_packages.py",
        ("ollama",),
    ),
    Client(
        "LangChain, Anthropic",
        (LANGCHAIN[2], LANGCHAIN[0], LANGCHAIN[1]),
        "langchain_packages.py",
        ("anthropic",),
    ),
    Client(
        "LlamaIndex",
        ("llama-index-core==0.14.25", "llama-index-llms-openai-like==0.8.1"),
        "llama_index_like.py",
    ),
    Client("litellm", ("litellm==1.110.2",), "litellm_package.py"),
    Client("llm", ("llm==0.36",), "llm_command.py"),
    Client("openai-agents", ("openai-agents==0.24.0",), "openai_agents.py"),
    Client(
        "pydantic-ai, OpenAI",
        ("pydantic-ai-slim[openai,anthropic]==2.68.0",),
        "pydantic_ai_agent.py",
        ("openai",),
    ),
    Client(
        "pydantic-ai, Anthropic",
        ("pydantic-ai-slim[openai,anthropic]==2.68.0",),
        "pydantic_ai_agent.py",
        ("anthropic",),
    ),
    Client("smolagents", ("smolagents[openai]==1.26.0",), "smolagents_model.py"),
    Client("AI SDK", AI_SDK, "ai_sdk.mjs"),
    Client("opencode", ("opencode-ai@1.18.33",), "opencode_command.py"),
    Client("Continue CLI", ("@continuedev/cli@1.5.47",), "continue_command.py"),
    Client("Codex CLI", ("@openai/codex@0.171.0",), "codex_command.py"),
    Client("lm-eval", ("lm-eval[api]==0.4.13",), "lm_eval_command.py", steps=FIRST_ONLY),
)


def outcomes(
    client: Client, done: subprocess.CompletedProcess[str], streams: int
) -> dict[str, str]:
    """Return the outcome of each step.

    Args:
        client: the client of the program.
        done: the program's run, with all that was printed.
        streams: streams that the engine was asked for.
    """
    printed: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        step, colon, said = line.partition(": ")
        if colon and step in STEPS:
            printed.setdefault(step, []).append(said)
    told = {step: ABSENT for step in STEPS if step not in client.steps}
    for step in client.steps:
        found = printed.get(step, [])
        good = bool(found) and all(is_right(step, said, streams) for said in found)
        told[step] = PASSED if good else f"failed: {cause(found, done)}"
    if done.returncode and not any(one.startswith("failed") for one in told.values()):
        told[client.steps[-1]] = f"failed: {cause([], done)}"
    return told


def is_right(step: str, said: str, streams: int) -> bool:
    """Return whether a step's text is that of the scripted engine, a stream's in pieces."""
    if step != "stream":
        return (SUM if step == "tool" else ANSWER) in said
    count = said.split(maxsplit=1)[0] if said else ""
    return ANSWER in said and (int(count) > 1 if count.isdigit() else streams > 0)


def cause(found: list[str], done: subprocess.CompletedProcess[str]) -> str:
    """Return a few words on a step that failed."""
    errors = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    words = found or errors[-1:] or [f"exit status {done.returncode}"]
    return " ".join(" ".join(words).split())[:200].replace("|", "/")
