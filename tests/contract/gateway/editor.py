"""Somebody who edits models.yaml a hundred times while streams run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from tests.contract.gateway.engines import frame
from tests.contract.gateway.programs import BODY, PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.contract.gateway.programs import Running

EDITS = 100
STREAMS = 16
FRAMES = 40
WHOLE = b"".join(frame(n) for n in range(FRAMES)) + b"data: [DONE]\n\n"
BAD = (
    "models:\n- name: m\n  backend: vlm\n",
    "models: [\n",
    "models:\n- name: m\n  backend: vllm\n  colour: red\n",
    "",
)


def written(models: dict[str, str]) -> str:
    entries = [{"name": n, "backend": "vllm", "backend_url": url} for n, url in models.items()]
    return json.dumps({"models": entries})


@dataclass
class Editor:
    """Edits models.yaml while streams run.

    ``m`` moves between the engines with every good edit, and each brings a model of its own, which
    the next one takes away.
    """

    gateway: Running
    file: Path
    urls: list[str]
    client: httpx.AsyncClient
    editing: bool = True
    refused: int = 0
    streams: int = 0
    lost: list[str] = field(default_factory=list)

    async def stream(self, model: str, begun: asyncio.Event | None = None) -> None:
        ask = {**BODY, "model": model, "stream": True, "n": FRAMES, "gap": 0.02}
        async with self.client.stream("POST", "/v1/chat/completions", json=ask) as answer:
            if begun:
                begun.set()
            whole = await answer.aread()
        self.streams += 1
        if (answer.status_code, whole) != (200, WHOLE):
            self.lost.append(f"{model}: {answer.status_code} {whole[-200:]!r}")

    async def streaming(self) -> None:
        while self.editing:
            await self.stream("m")

    async def good(self, number: int, *, signalled: bool) -> None:
        models = {"m": self.urls[number % 2], f"e{number}": self.urls[number % 2]}
        self.write(written(models), number)
        await self.until(f"/v1/models/e{number}", 200, signalled=signalled)
        answer = await self.client.get("/v1/models")
        assert {model["id"] for model in answer.json()["data"]} == models.keys()

    async def bad(self, number: int) -> None:
        self.write(BAD[number % len(BAD)], number)
        self.gateway.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE_S
        while (await self.client.get("/version")).json()["models_file"]["refused"] is None:
            assert time.monotonic() < deadline, number
            await asyncio.sleep(0.01)
        self.refused += 1

    def write(self, text: str, number: int) -> None:
        """Write in place or by another file's name, as editors do."""
        if number % 3:
            other = self.file.with_name(".models.new")
            other.write_text(text)
            other.replace(self.file)
        else:
            self.file.write_text(text)

    async def until(self, path: str, status: int, *, signalled: bool) -> None:
        deadline = time.monotonic() + PATIENCE_S
        if signalled:
            self.gateway.process.send_signal(signal.SIGHUP)
        while (await self.client.get(path)).status_code != status:
            assert time.monotonic() < deadline, path
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(editor: Editor) -> AsyncIterator[None]:
    """Keep streams running, and let the last ones end."""
    work = [asyncio.create_task(editor.streaming()) for _ in range(STREAMS)]
    try:
        yield
    finally:
        editor.editing = False
        await asyncio.gather(*work)


async def edit_all(gateway: Running, file: Path, urls: list[str]) -> Editor:
    auth = {"authorization": f"Bearer {gateway.key}"}
    async with httpx.AsyncClient(
        base_url=gateway.url,
        headers=auth,
        trust_env=False,
        timeout=PATIENCE_S,
        limits=httpx.Limits(),
    ) as client:
        editor = Editor(gateway, file, urls, client)
        late = []
        async with running(editor):
            for number in range(EDITS):
                if number % 4 == 1:
                    await editor.bad(number)
                    continue
                await editor.good(number, signalled=number % 4 > 1)
                begun = asyncio.Event()
                late.append(asyncio.create_task(editor.stream(f"e{number}", begun)))
                await begun.wait()  # or the next edit takes the model away before it is asked for
            await asyncio.gather(*late)
        return editor
