"""A replica that stands still, connections and all: what becomes of those it had."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from tests.contract.gateway.engines import Engine, Seen, frame, serve
from tests.contract.gateway.programs import run_gateway, run_over

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx

SOON = ("--stall-timeout", "1")


class Frozen(Engine):
    """An engine that stops after as many frames of each stream as a test says."""

    frames = 0

    async def _answer(self, request: Seen, send: Callable[..., Any]) -> None:
        head = [(b"content-type", b"text/event-stream")]
        if self.frames:
            await send({"type": "http.response.start", "status": 200, "headers": head})
        for number in range(self.frames):
            part = {"type": "http.response.body", "body": frame(number), "more_body": True}
            await send(part)
        await asyncio.sleep(60)


def test_what_had_not_begun_is_answered_by_the_other(home: Path) -> None:
    frozen, well = Frozen("frozen"), Engine("well")
    with serve(frozen) as one, serve(well) as two, run_over(home, [one, two], *SOON) as gateway:
        answers: list[httpx.Response] = []
        asked = {"messages": [], "stream": True}
        threads = [
            threading.Thread(target=lambda: answers.append(gateway.post(asked))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        before = len(frozen.seen)
        later = [gateway.post(asked) for _ in range(8)]
    assert before > 0
    assert {answer.status_code for answer in (*answers, *later)} == {200}
    assert {answer.headers["x-gateway-backend"] for answer in (*answers, *later)} == {"m/1"}
    assert len(frozen.seen) - before <= 1


def test_an_answer_that_had_begun_ends_with_an_error(home: Path) -> None:
    frozen = Frozen()
    frozen.frames = 2
    with serve(frozen) as url, run_gateway(home, {"m": url}, *SOON) as gateway:
        answer = gateway.post({"stream": True})
    assert answer.content.startswith(frame(0) + frame(1))
    assert b"does not move in mid-stream" in answer.content
    assert answer.content.endswith(b"data: [DONE]\n\n")
