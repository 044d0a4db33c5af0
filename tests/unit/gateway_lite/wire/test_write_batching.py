"""What a turn of the loop sends goes out in order, in one go where there is much of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_lite.wire.write_batching import ALONE, FEW, WriteBatcher

if TYPE_CHECKING:
    from collections.abc import Callable


class Wire:
    """A transport that keeps what was written; after its end it takes no more."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes) -> None:
        if self.closed:
            raise RuntimeError("closed")
        self.written.append(data)


def put(batcher: WriteBatcher, wire: Wire, data: bytes) -> None:
    batcher.put(cast("asyncio.WriteTransport", wire), data)


def in_a_loop(check: Callable[[WriteBatcher], object]) -> None:
    async def run() -> None:
        found = check(WriteBatcher())
        if asyncio.iscoroutine(found):
            await found

    asyncio.run(run())


def test_many_writes_wait_for_the_end_of_the_turn() -> None:
    async def check(batcher: WriteBatcher) -> None:
        wires = [Wire() for _ in range(FEW + 1)]
        for _ in range(2):
            for wire in wires:
                put(batcher, wire, b"x")
            assert not any(wire.written for wire in wires)
            await asyncio.sleep(0)
            assert all(wire.written == [b"x"] for wire in wires)
            for wire in wires:
                wire.written.clear()

    in_a_loop(check)


def test_after_a_turn_with_few_writes_go_out_at_once() -> None:
    async def check(batcher: WriteBatcher) -> None:
        wire = Wire()
        put(batcher, wire, b"0")
        await asyncio.sleep(0)
        for number in range(ALONE):
            put(batcher, wire, b"%d" % number)
        assert len(wire.written) == 1 + ALONE
        put(batcher, wire, b"asked again")
        assert len(wire.written) == 1 + ALONE
        await asyncio.sleep(0)
        assert wire.written[-1] == b"asked again"

    in_a_loop(check)


def test_what_is_for_a_closed_connection_is_dropped_and_the_rest_goes_out() -> None:
    def check(batcher: WriteBatcher) -> None:
        gone, here = Wire(), Wire()
        put(batcher, gone, b"a")
        put(batcher, here, b"b")
        gone.closed = True
        batcher.flush()
        assert (gone.written, here.written) == ([], [b"b"])

    in_a_loop(check)


@pytest.mark.parametrize("turns", [1, 5])
@given(sizes=st.lists(st.integers(0, 3 * ALONE), min_size=1, max_size=5))
def test_each_connection_gets_its_bytes_once_and_in_order(turns: int, sizes: list[int]) -> None:
    async def check(batcher: WriteBatcher) -> None:
        wires = [Wire(), Wire(), Wire()]
        sent: list[list[bytes]] = [[], [], []]
        for turn, size in enumerate(sizes * turns):
            for number in range(size):
                data = b"%d.%d" % (turn, number)
                put(batcher, wires[number % 3], data)
                sent[number % 3].append(data)
            await asyncio.sleep(0)
        assert [wire.written for wire in wires] == sent

    in_a_loop(check)
