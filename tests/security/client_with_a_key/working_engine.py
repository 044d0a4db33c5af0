"""An engine that counts the tokens it works, and clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from hpc.keys import store as key_store
from hpc.keys import usage
from hpc.state import directory
from tests.contract.gateway.engines import Door
from tests.contract.gateway.programs import Running, wait_until
from tests.security.client_with_a_key.readers import CHAT, CONTEXT, vllm

if TYPE_CHECKING:
    from pathlib import Path

    from hpc.keys.limits import KeyLimits

PROMPT = 10
WAITS = "waits"
"""The field ``user`` of a stream that ends after its first word, until it is left."""
WORD = {"index": 0, "message": {"content": "word"}, "text": "word", "finish_reason": "length"}
TOGETHER = 100
"""Events that the engine sends at once."""


class WorkingEngine:
    """An engine whose answers have a length, unless the request makes them shorter.

    Attributes:
        length: tokens of an answer that nothing bounds.
        reports: the engine knows usage reports.
        in_event: tokens in one event after the first.
        hold: the engine works, and sends nothing until ``go`` is set.
        echo: text of an event before the answer.
        status: status of the answer.
        worked: tokens of all prompts and answers so far.
        left: requests that were left before their end.
        bodies: path and body of all requests.
        heads: headers of all requests.
    """

    def __init__(
        self,
        *,
        length: int = 4000,
        reports: bool = True,
        in_event: int = 1,
        hold: bool = False,
        echo: bytes = b"",
        status: int = 200,
    ) -> None:
        self.length, self.reports, self.in_event = length, reports, in_event
        self.hold, self.echo, self.status = hold, echo, status
        self.worked = self.left = 0
        self.door = Door()
        self.bodies: list[tuple[str, bytes]] = []
        self.heads: list[list[tuple[bytes, bytes]]] = []
        self.go = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not self.door.is_open(scope):
            await self.door.shake(scope, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.bodies.append((scope["path"], body))
        self.heads.append(list(scope["headers"]))
        work = asyncio.ensure_future(self._answer(scope["path"], body, send))
        gone = asyncio.ensure_future(receive())
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            self.left += 1
        for task in (work, gone):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(work, gone)

    async def _answer(self, path: str, body: bytes, send: Any) -> None:
        asked = json.loads(body)
        allowed = vllm(path, body)
        tokens = self.length if allowed >= CONTEXT else min(allowed, self.length * 16)
        if self.status != 200:
            return await self._whole(send, {"error": {"message": "no"}})
        if not asked.get("stream"):
            self.worked += PROMPT + tokens
            return await self._whole(send, {"choices": [WORD], **self._usage(tokens)})
        self.worked += PROMPT
        await self._stream(asked, tokens, send)
        return None

    async def _whole(self, send: Any, answer: dict[str, Any]) -> None:
        await self._held()
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": self.status, "headers": head})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    async def _held(self) -> None:
        if self.hold:
            await asyncio.to_thread(self.go.wait, 60)

    def _usage(self, tokens: int) -> dict[str, Any]:
        counts = {"prompt_tokens": PROMPT, "completion_tokens": tokens}
        return {"usage": counts} if self.reports else {}

    async def _stream(self, asked: dict[str, Any], tokens: int, send: Any) -> None:
        options = asked.get("stream_options") or {}
        running = options.get("continuous_usage_stats") and options.get("include_usage")
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        done, data = 0, self.echo
        while done < tokens:
            each = min(tokens - done, self.in_event if done else 1)
            done += each
            self.worked += each
            last = "length" if done == tokens else None
            text = "word " * each
            chunk = {"choices": [{"delta": {"content": text}, "finish_reason": last}]}
            if running:
                chunk.update(self._usage(done))
            data += _event(chunk)
            if done % TOGETHER == 0 or done in {tokens, 1}:
                await send({"type": "http.response.body", "body": data, "more_body": True})
                data = b""
                await self._held()
                if asked.get("user") == WAITS:
                    await asyncio.sleep(60)
                await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        if options.get("include_usage") and self.reports:
            data = _event({"choices": [], **self._usage(tokens)})
        await send({"type": "http.response.body", "body": data + b"data: [DONE]\n\n"})


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def key_with(home: Path, gateway: Running, limits: KeyLimits, **more: Any) -> Running:
    """Return the gateway as a new key's user sees it, once the gateway knows the key."""
    name = f"key{len(key_store.load(directory.keys_path(home)))}"
    key, _ = key_store.add(directory.keys_path(home), name, limits=limits.or_none(), **more)
    user = Running(gateway.process, gateway.port, key, gateway.log)
    with user.client() as client:
        wait_until(lambda: client.get("/v1/models").status_code == 200)
    return user


def charged(home: Path, key: Running) -> int:
    """Return the tokens that a key was charged, as the gateway records them."""
    keys = {one.sha256: one.id for one in key_store.load(directory.keys_path(home))}
    known = usage.load_all(home)
    found = known.get(keys[sha256(key.key.encode()).hexdigest()])
    return 0 if found is None else found.tokens


def leave(user: Running, body: dict[str, Any], until: bytes, path: str = CHAT) -> int:
    """Ask for a stream, and leave once it has said something; return the status."""
    with user.client() as client, client.stream("POST", path, json=body) as answer:
        if answer.status_code != 200:
            return answer.status_code
        seen = b""
        for part in answer.iter_raw():
            seen += part
            if until in seen:
                break
        return answer.status_code
