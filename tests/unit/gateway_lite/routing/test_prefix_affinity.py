"""Where conversations go on."""

from __future__ import annotations

import random

from gateway_lite.catalog.replica import Replica
from gateway_lite.routing import prefix_affinity
from gateway_lite.routing.balancer import Balancer
from gateway_lite.routing.prefix_affinity import CONVERSATIONS, SLACK
from gateway_lite.routing.replica_state import Lease, RequestCost
from gateway_lite.settings import GatewaySettings

POOL = tuple(Replica(f"k{n}", f"m/{n}", f"http://r{n}") for n in range(4))


def balancer() -> Balancer:
    made = Balancer(GatewaySettings(), clock=lambda: 0.0, rng=random.Random(7))
    made.update({"m": POOL}, {"m": "prefix"})
    return made


def take(b: Balancer, chat: bytes, prefix: bytes = b"you are a poet") -> Lease:
    lease = b.place("m", RequestCost(1, prefix, chat))
    assert lease is not None
    return lease


def at(b: Balancer, chat: bytes, prefix: bytes = b"you are a poet") -> str:
    lease = take(b, chat, prefix)
    lease.release("ok")
    return lease.replica.key


def displaced(b: Balancer) -> tuple[bytes, str, str]:
    """Return a conversation that its home was too busy for, where it went, and that home."""
    home = at(b, b"any")
    held = [take(b, b"any") for _ in range(SLACK)]
    chat, place = next(
        (name, place)
        for name in (b"chat %d" % n for n in range(100))
        if (place := at(b, name)) != home
    )
    for lease in held:
        lease.release("ok")
    return chat, place, home


def test_a_conversation_goes_on_where_it_was_sent_though_its_home_is_free_again() -> None:
    b = balancer()
    chat, place, home = displaced(b)
    assert [at(b, chat) for _ in range(5)] == [place] * 5
    assert at(b, b"another") == home


def test_it_leaves_a_replica_that_is_too_busy_and_stays_where_it_went() -> None:
    b = balancer()
    chat, place, home = displaced(b)
    held = [take(b, chat) for _ in range(SLACK)]
    assert {lease.replica.key for lease in held} == {place}
    assert at(b, chat) == home
    for lease in held:
        lease.release("ok")
    assert at(b, chat) == home


def test_it_goes_home_from_a_replica_that_is_gone() -> None:
    b = balancer()
    chat, place, home = displaced(b)
    b.update({"m": [one for one in POOL if one.key != place]})
    assert at(b, chat) == home


def test_the_conversation_that_was_silent_for_longest_is_forgotten() -> None:
    b = balancer()
    chat, place, home = displaced(b)
    for number in range(CONVERSATIONS - 1):
        at(b, b"more %d" % number)
    assert at(b, chat) == place
    for number in range(CONVERSATIONS):
        at(b, b"still more %d" % number)
    assert at(b, chat) == home
    assert len(b._homes._last) == prefix_affinity.CONVERSATIONS
