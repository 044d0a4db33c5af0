"""The turns of large requests: one at a time, keys in turn, and the loop free in between."""

from __future__ import annotations

import asyncio
import contextlib
import time

from gateway_lite.request.head_checks import BYTES_PER_TOKEN, OTHER_BYTES, longest_body
from gateway_lite.request.large_requests import FREE_S, LargeRequests
from hpc.keys.limits import KeyLimits


async def until(order: list[str], count: int) -> None:
    """Wait until so many steps are over."""
    while len(order) < count:  # noqa: ASYNC110 - the steps know of no event
        await asyncio.sleep(0.001)


def test_keys_take_turns_and_one_step_runs_at_a_time() -> None:
    order: list[str] = []

    async def run() -> None:
        turns, loop = LargeRequests(), asyncio.get_running_loop()
        first: asyncio.Future[bytes] = loop.create_future()

        def work() -> asyncio.Future[bytes]:
            order.append("a0")
            return first

        turns.put("a", work)
        for name in ("a1", "a2", "b1", "b2"):
            turns.put(name[0], lambda name=name: order.append(name))  # type: ignore[misc]
        await asyncio.sleep(0)
        assert order == ["a0"]
        first.set_result(b"")
        await until(order, count=5)

    asyncio.run(asyncio.wait_for(run(), 60))
    assert order == ["a0", "a1", "b1", "a2", "b2"]


def test_small_work_passes_between_two_steps() -> None:
    order: list[str] = []

    def slow(name: str) -> None:
        time.sleep(2 * FREE_S)
        order.append(name)

    async def run() -> None:
        turns = LargeRequests()
        for name in ("large 1", "large 2"):
            turns.put("a", lambda name=name: slow(name))  # type: ignore[misc]
        asyncio.get_running_loop().call_soon(order.append, "small")
        await until(order, count=3)

    asyncio.run(asyncio.wait_for(run(), 60))
    assert order == ["large 1", "small", "large 2"]


def test_a_step_that_fails_does_not_hold_the_others() -> None:
    order: list[str] = []

    def fail() -> None:
        order.append("failed")
        raise RuntimeError

    async def run() -> None:
        turns = LargeRequests()
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        with contextlib.suppress(RuntimeError):
            turns.put("a", fail)
        turns.put("a", fail)
        turns.put("b", lambda: order.append("b"))
        await until(order, count=3)

    asyncio.run(asyncio.wait_for(run(), 60))
    assert order == ["failed", "failed", "b"]


def test_the_longest_body_follows_from_the_longest_prompt() -> None:
    assert longest_body(10**6, KeyLimits(), "/v1/embeddings") == 10**6
    assert longest_body(10**6, KeyLimits(max_prompt_tokens=10), "/v1/embeddings") == (
        10 * BYTES_PER_TOKEN + OTHER_BYTES
    )
    assert longest_body(10**6, KeyLimits(max_prompt_tokens=10**6), "/v1/embeddings") == 10**6
