"""Prefix affinity: the choice of the replica with a request's beginning in the cache.

A conversation continues at its last replica, which has the whole history cached. A new conversation
goes to the home of its prefix, by rendezvous hashing. Both apply only while the replica is not much
busier than the others (consistent hashing with bounded loads, Mirrokni et al., 2018).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from gateway_lite.routing.replica_state import ReplicaState, RequestCost

BOUND = 1.25
"""Load of a replica, as a multiple of the average, above which its prefixes go elsewhere."""
SLACK = 8
"""Requests that a home may have above the least loaded replica, whatever the average."""
CONVERSATIONS = 16384
"""Remembered conversations; the longest silent conversation is forgotten first."""


class PrefixAffinity:
    """The homes of prefixes and the last replicas of conversations.

    Args:
        rng: source of random draws.
    """

    __slots__ = ("_last", "_rng")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._last: dict[int, str] = {}

    def find(
        self, pool_states: list[ReplicaState], work: RequestCost, now: float
    ) -> ReplicaState | None:
        """Return the replica with the most cached tokens of a request, or None if it is too busy.

        Args:
            pool_states: the two or more candidates.
            work: cost and beginning of the request.
            now: clock value in seconds.
        """
        last = self._last.get(hash(work.chat)) if work.chat else None
        if last is not None:
            for state in pool_states:
                if state.key == last and _fits(state, pool_states, work):
                    return state
        mark = zlib.crc32(work.prefix)
        # Rendezvous hashing: when a replica leaves, only the prefixes of that replica move.
        home = max(pool_states, key=lambda state: hash((mark, state.salt)))
        warmth = home.warmth(now)
        if warmth < 1 and self._rng.random() > warmth:
            return None
        return home if _fits(home, pool_states, work) else None

    def keep(self, work: RequestCost, state: ReplicaState) -> None:
        """Remember the replica of a conversation."""
        if not work.chat:
            return
        known, chat = self._last, hash(work.chat)
        # Dicts keep insertion order: removal and new insertion make this the most recent entry.
        known.pop(chat, None)
        known[chat] = state.key
        if len(known) > CONVERSATIONS:
            del known[next(iter(known))]


def _fits(home: ReplicaState, pool_states: list[ReplicaState], work: RequestCost) -> bool:
    """Return whether the home replica's load is within SLACK or BOUND."""
    total = work.tokens
    least = len(home.leases)
    for state in pool_states:
        total += state.tokens
        least = min(least, len(state.leases))
    if len(home.leases) - least < SLACK:
        return True
    return home.tokens + work.tokens <= BOUND * total / len(pool_states)
