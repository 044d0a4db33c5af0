"""The command ``chat``: a question to a model, or a conversation, from the terminal."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from hpc.cli import output
from hpc.errors import ConfigError, GatewayError, did_you_mean
from hpc.state import directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx

ANSWER_S = 600.0
CONNECT_S = 10.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class ChatServer:
    """The endpoint that answers.

    Attributes:
        url: base URL of the API, with ``/v1``.
        key: API key.
        home: state directory of the gateway of this machine; None for any other endpoint.
    """

    url: str
    key: str = field(repr=False)
    home: Path | None = None

    def client(self) -> httpx.AsyncClient:
        """Return a client; a gateway of the machine proves itself before the key is sent."""
        import httpx

        from hpc.gateway import reach
        from hpc.gateway.proved_transport import ProvedTransport

        transport = None
        if self.home is not None:
            transport = ProvedTransport(partial(reach.here, self.home))
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            # A web proxy must not see what goes to this very machine.
            trust_env=False,
            transport=transport,
        )


@click.command(
    epilog=output.examples(
        'hpc-serve chat mistral "Who wrote Emma?"',
        "hpc-serve chat mistral < question.txt",
        "hpc-serve chat mistral",
        "hpc-serve chat mistral --code python",
    )
)
@click.argument("model")
@click.argument("question", required=False)
@click.option("--system", metavar="TEXT", help="Instructions before the conversation.")
@click.option("--max-tokens", type=click.IntRange(1), metavar="N", help="Most tokens of an answer.")
@click.option("--temperature", type=click.FloatRange(0), metavar="T", help="Randomness, from 0.")
@click.option(
    "--code",
    "language",
    type=click.Choice(["curl", "python", "httpx", "r", "javascript"]),
    help="Print a program with the same question instead of an answer.",
)
@output.home_option
def chat(
    model: str,
    question: str | None,
    *,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    language: str | None,
    home: str | None,
) -> None:
    """Ask MODEL a question, or converse without one; answers are shown as they come.

    The endpoint is OPENAI_BASE_URL with OPENAI_API_KEY if set, else an open tunnel of this machine,
    else the gateway of this machine.
    """
    said: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    more = {"max_tokens": max_tokens, "temperature": temperature}
    body = {"model": model, **{key: value for key, value in more.items() if value is not None}}
    if language is not None:
        from hpc.cli.chat_code import program

        asked = [*said, {"role": "user", "content": question or "Hello"}]
        output.echo(program(language, {**body, "messages": asked}))
        return
    server = find(directory.home(home))
    if question is None and not sys.stdin.isatty():
        question = sys.stdin.read()
    if question is not None:
        answer(server, {**body, "messages": [*said, {"role": "user", "content": question}]})
    else:
        _converse(server, body, said)


def find(root: Path) -> ChatServer:
    """Return the endpoint for a chat: the environment's, a tunnel's, or the machine's gateway.

    Args:
        root: the state directory.

    Raises:
        GatewayError: there is none of them, or the environment's is the port of an ended gateway.
    """
    from hpc.gateway import owner_access, reach
    from hpc.tunnel import records

    url, key = os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")
    if url and key:
        return _named(root, url, key)
    for tunnel in records.living(root):
        with suppress(OSError):
            kept = records.key_path(root, tunnel.port).read_text()
            return ChatServer(f"http://127.0.0.1:{tunnel.port}/v1", kept.strip())
    record = reach.here(root)
    if record is None:
        raise GatewayError(
            "no gateway runs on this machine, and no tunnel is open",
            hint="on a login node: hpc-serve gateway start; on a laptop: hpc-serve connect "
            "USER@LOGIN",
        )
    key = owner_access.owner_key(root)
    # A new key counts once the gateway has read the file.
    owner_access.models(record, key)
    return ChatServer("http://gateway/v1", key, root)


def _named(root: Path, url: str, key: str) -> ChatServer:
    """Return the endpoint of the environment.

    Raises:
        GatewayError: a key of this state directory would go to whoever has the port now.
    """
    import httpx

    from hpc.gateway import reach
    from hpc.keys import store
    from hpc.tunnel import records

    try:
        record, place = reach.here(root), httpx.URL(url)
    except httpx.InvalidURL as error:
        raise GatewayError(f"OPENAI_BASE_URL is no address: {error}") from error
    near = place.scheme == "http" and (
        place.host in LOOPBACK or (record is not None and place.host == reach.dialled(record))
    )
    if near and record is not None and place.port == record.port:
        # The lines of ``gateway env`` lead to the gateway of this machine, which can be proved.
        return ChatServer(url, key, root)
    tunnels = [tunnel.port for tunnel in records.living(root)]
    if near and place.port not in tunnels:
        known = store.Keyring(store.load(directory.keys_path(root))).find(key.encode())
        if known is not None:
            raise GatewayError(
                f"OPENAI_BASE_URL is {url}, where neither the gateway of this machine nor a tunnel"
                " listens; the key is not sent",
                hint="hpc-serve gateway start, then the lines of hpc-serve gateway env",
            )
    return ChatServer(url, key)


def answer(server: ChatServer, body: dict[str, Any]) -> str:
    """Print an answer as it comes, and return it.

    Args:
        server: the endpoint.
        body: the request, without ``stream``.

    Raises:
        GatewayError: the endpoint refused or broke off the request.
        ConfigError: there is no such model; names those that are there.
    """
    import anyio
    import httpx

    try:
        return anyio.run(_answer, server, body)
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        raise GatewayError(f"{server.url} does not answer: {why}") from error


async def _answer(server: ChatServer, body: dict[str, Any]) -> str:
    parts = []
    async with server.client() as client:
        async for part in _parts(client, body):
            parts.append(part)
            output.echo(part, nl=False)
            sys.stdout.flush()
    output.echo()
    return "".join(parts)


async def _parts(client: httpx.AsyncClient, body: dict[str, Any]) -> AsyncIterator[str]:
    """Yield the parts of an answer's text."""
    wanted = {**body, "stream": True}
    async with client.stream("POST", "/chat/completions", json=wanted) as answered:
        if answered.status_code != 200:
            await answered.aread()
            raise await _refusal(client, answered, str(body["model"]))
        async for line in answered.aiter_lines():
            data = line.removeprefix("data:").strip()
            if data == line.strip() or data == "[DONE]":
                continue
            event = json.loads(data)
            if "error" in event:
                raise GatewayError(str(event["error"].get("message", event["error"])))
            for choice in event.get("choices", ())[:1]:
                yield choice.get("delta", {}).get("content") or ""


async def _refusal(
    client: httpx.AsyncClient, answered: httpx.Response, model: str
) -> ConfigError | GatewayError:
    """Return the error for an answer that is none; an unknown model gets the nearest name."""
    try:
        told = str(answered.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        told = f"status {answered.status_code}"
    if answered.status_code != 404:
        return GatewayError(told)
    try:
        listed = (await client.get("/models")).raise_for_status().json()
        names = [str(one["id"]) for one in listed["data"]]
    except (ValueError, KeyError, TypeError):
        names = []
    return ConfigError(told + did_you_mean(model, names))


def _converse(server: ChatServer, body: dict[str, Any], said: list[dict[str, str]]) -> None:
    """Ask for questions until the end of input; each answer joins the conversation."""
    # The import alone gives ``input`` editing and a history of lines.
    with suppress(ImportError):
        import readline  # noqa: F401

    output.echo("a conversation; Ctrl-D ends it", err=True)
    while True:
        try:
            question = input("> ")
        except EOFError:
            output.echo()
            return
        if question.strip():
            said.append({"role": "user", "content": question})
            said.append(
                {"role": "assistant", "content": answer(server, {**body, "messages": said})}
            )
