"""The turns of large requests: one is prepared at a time, and small requests pass in between.

To decode and translate a body of 8 MiB takes the event loop up to 30 ms. Beyond FREE_S, the loop is
free for REST times as long as such steps took, however many large bodies wait. Keys take turns, so
that the large requests of one key wait at most for one request of each other key.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Step = Callable[[], "asyncio.Future[bytes] | None"]


REST = 4
"""Time without steps, as a multiple of their time: a request of others passes three turns of the
loop, and with a rest of 1 would find a step in most of them.
"""
FREE_S = 0.002
"""Seconds of steps without a rest: those of ten bodies of 40 KiB. A timer costs as much as one."""


class LargeRequests:
    """The queue of large requests, by key."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: OrderedDict[str, deque[Step]] = OrderedDict()
        self._busy = False
        self._owed_s = 0.0
        self._ended = time.perf_counter()

    def put(self, key: str, step: Step) -> None:
        """Run a step when its turn comes, at once if no other large request is prepared.

        Args:
            key: id of the client's key.
            step: prepares a request; returns the future of its work in a thread, if any.
        """
        if self._busy:
            self._waiting.setdefault(key, deque()).append(step)
        else:
            self._run(step)

    def _run(self, step: Step) -> None:
        self._busy = True
        began = time.perf_counter()
        try:
            work = step()
        except BaseException:
            # The turn passes on: else no large request would ever be prepared again.
            self._loop.call_soon(self._next)
            raise
        if work is not None:
            work.add_done_callback(lambda _: self._next())
            return
        now = time.perf_counter()
        rested = (began - self._ended) / REST
        self._owed_s = max(0.0, self._owed_s - rested) + now - began
        self._ended = now
        if self._owed_s > FREE_S:
            self._loop.call_later(REST * self._owed_s, self._next)
        elif self._waiting:
            self._loop.call_soon(self._next)
        else:
            self._busy = False

    def _next(self) -> None:
        self._busy = False
        if not self._waiting:
            return
        key, steps = self._waiting.popitem(last=False)
        step = steps.popleft()
        if steps:
            # To the end of the line: each other key comes first.
            self._waiting[key] = steps
        self._run(step)
