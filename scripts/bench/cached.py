"""An engine with a cache of prefixes and no model: python -m scripts.bench.cached PORT FASTER."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

from scripts.bench.prefixes import LETTERS, Pace, Prefixes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

FRAMES = 6
"""Pieces in which an answer comes, so that the machine measures the choice and no more."""
MODEL = "mock"
HEAD = {"id": "chatcmpl-1", "created": 1, "model": MODEL}


class Engine:
    """One replica.

    Args:
        pace: how fast it is.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._prefixes = Prefixes(pace.cache_tokens)
        self._prefill = asyncio.Lock()
        self._seats = asyncio.Semaphore(pace.batch)
        self._batch = 0
        self.told = {"requests": 0, "computed_tokens": 0, "asked_s": 0.0, "slept_s": 0.0}

    async def answer(self, prompt: str, tokens: int) -> AsyncIterator[str]:
        """Yield the pieces of an answer.

        Args:
            prompt: all that was said.
            tokens: how long the answer is.
        """
        async with self._seats:
            async with self._prefill:
                missing = self._prefixes.take(prompt)
                self.told["requests"] += 1
                self.told["computed_tokens"] += missing
                await self._sleep(self._pace.prefill_s(missing))
            self._batch += 1
            try:
                piece_s = self._pace.token_s(self._batch) * tokens / FRAMES
                for number in range(FRAMES):
                    yield f"{number}. ".ljust(tokens * LETTERS // FRAMES, ".")
                    await self._sleep(piece_s)
            finally:
                self._batch -= 1

    async def _sleep(self, seconds: float) -> None:
        """Take time, and tell how much that was: a machine that is busy makes engines slow."""
        begun = time.perf_counter()
        await asyncio.sleep(seconds)
        self.told["asked_s"] += seconds
        self.told["slept_s"] += time.perf_counter() - begun


def app(engine: Engine) -> Starlette:
    """Return the engine as vLLM's server shows itself to a router.

    Args:
        engine: what answers.
    """

    async def chat(request: Request) -> Response:
        body = await request.json()
        prompt = "".join(f"{one['role']}: {one['content']}\n" for one in body["messages"])
        # sglang-router writes the second where it was told the first.
        tokens = body.get("max_tokens") or body.get("max_completion_tokens") or FRAMES
        pieces = engine.answer(prompt, tokens)
        if body.get("stream"):
            return StreamingResponse(_events(pieces), media_type="text/event-stream")
        said = {"role": "assistant", "content": "".join([piece async for piece in pieces])}
        choice = {"index": 0, "message": said, "finish_reason": "stop"}
        return JSONResponse({**HEAD, "object": "chat.completion", "choices": [choice]})

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def health(_: Request) -> Response:
        return PlainTextResponse("OK")

    async def stats(_: Request) -> Response:
        return JSONResponse(engine.told)

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
            Route("/stats", stats),
        ]
    )


async def _events(pieces: AsyncIterator[str]) -> AsyncIterator[str]:
    async for piece in pieces:
        yield _event({"delta": {"content": piece}, "index": 0, "finish_reason": None})
    yield _event({"delta": {}, "index": 0, "finish_reason": "stop"})
    yield "data: [DONE]\n\n"


def _event(choice: dict[str, Any]) -> str:
    event = {**HEAD, "object": "chat.completion.chunk", "choices": [choice]}
    return f"data: {json.dumps(event)}\n\n"


def main() -> None:
    """Serve until told to end."""
    port, faster = int(sys.argv[1]), float(sys.argv[2])
    engine = app(Engine(Pace(faster=faster)))
    uvicorn.run(engine, host="127.0.0.1", port=port, log_level="error", timeout_keep_alive=5)


if __name__ == "__main__":
    main()
