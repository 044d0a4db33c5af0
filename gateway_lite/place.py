"""Temporary: least outstanding."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict, deque
from dataclasses import dataclass

from gateway_lite import errors
from gateway_lite.replicas import NoReplicaError


@dataclass(frozen=True, slots=True)
class Work:
    tokens: int = 1
    prefix: bytes = b""


class Lease:
    __slots__ = ("replica", "_b", "_model", "moves")

    def __init__(self, b, model, replica):
        self._b, self._model, self.replica, self.moves = b, model, replica, 0
        b.load[replica.key] += 1

    def moved(self):
        self.moves = 1

    def release(self, outcome="ok"):
        b, self._b = self._b, None
        if b is not None:
            b.load[self.replica.key] -= 1
            if outcome == "unreachable":
                b.shunned[self.replica.key] = b.now() + b.settings.shun_s
            b.wake(self._model)


class Waiting:
    def __init__(self, b, model, work, tried, done):
        self.b, self.model, self.work, self.tried, self.done = b, model, work, tried, done
        self.timer = None

    def cancel(self):
        q = self.b.queues[self.model]
        if self in q:
            q.remove(self)
        if self.timer:
            self.timer.cancel()


class Balancer:
    def __init__(self, settings):
        self.settings = settings
        self.load = Counter()
        self.pools = {}
        self.queues = defaultdict(deque)
        self.shunned = {}
        self.now = asyncio.get_running_loop().time

    def update(self, pools, policies=None):
        self.pools = dict(pools)
        for m in list(self.queues):
            self.wake(m)

    def others(self, model, tried):
        return any(r.key not in tried for r in self.pools.get(model, ()))

    def place(self, model, work, tried):
        pool = self.pools.get(model, ())
        if not pool:
            raise NoReplicaError(model)
        fresh = [r for r in pool if r.key not in tried] or list(pool)
        now = self.now()
        calm = [r for r in fresh if self.shunned.get(r.key, 0) <= now] or fresh
        free = [r for r in calm if r.slots is None or self.load[r.key] < r.slots]
        if not free:
            return None
        least = min(self.load[r.key] for r in free)
        return Lease(self, model, random.choice([r for r in free if self.load[r.key] == least]))

    def wait(self, model, work, tried, done):
        q = self.queues[model]
        if len(q) >= self.settings.queue_length:
            raise errors.queue_full(model)
        w = Waiting(self, model, work, tried, done)
        q.append(w)
        w.timer = asyncio.get_running_loop().call_later(self.settings.queue_s, self.late, w)
        return w

    def late(self, w):
        w.cancel()
        w.done(errors.queue_timeout(w.model))

    def wake(self, model):
        q = self.queues[model]
        while q:
            w = q[0]
            try:
                lease = self.place(model, w.work, w.tried)
            except NoReplicaError as e:
                w.cancel()
                w.done(e)
                continue
            if lease is None:
                return
            w.cancel()
            w.done(lease)

    def tick(self, now):
        pass

    def states(self):
        return {}
