"""Attempts at the addresses of one replica: the first proof wins, and every failure is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway_lite.upstream.first_proved import first_proved
from hpc.peer_proof import NotProved, WrongSecret

NEVER_S = 3600.0


class Link:
    """A connection that notes its end."""

    closed = False

    def close(self) -> None:
        self.closed = True


class Hosts:
    """Hosts that answer, fail or hang, and a note of the attempts."""

    def __init__(self, **fates: object) -> None:
        self.fates, self.tried = fates, list[str]()
        self.cancelled: list[str] = []

    async def dial(self, host: str) -> Any:
        self.tried.append(host)
        fate = self.fates[host]
        if isinstance(fate, Exception):
            raise fate
        try:
            await asyncio.sleep(NEVER_S if fate == "hangs" else 0)
        except asyncio.CancelledError:
            self.cancelled.append(host)
            raise
        return fate

    def first(self, next_s: float = 0.01, limit_s: float = 0.1) -> Any:
        async def run() -> Any:
            found = await first_proved(list(self.fates), self.dial, next_s=next_s, limit_s=limit_s)
            await asyncio.sleep(0.01)
            return found

        return asyncio.run(run())


def test_the_first_host_is_enough() -> None:
    hosts = Hosts(node=Link(), other=Link())
    host, link = hosts.first(next_s=NEVER_S)
    assert (host, link.closed) == ("node", False)
    assert hosts.tried == ["node"]


def test_a_failure_brings_the_next_at_once() -> None:
    hosts = Hosts(node=OSError(1, "No such name"), stranger=NotProved("x"), address=Link())
    assert hosts.first(next_s=NEVER_S, limit_s=NEVER_S)[0] == "address"


def test_a_silent_host_does_not_hold_up_the_next_and_is_left() -> None:
    hosts = Hosts(node="hangs", address=Link())
    assert hosts.first()[0] == "address"
    assert hosts.cancelled == ["node"]


def test_every_failure_is_told() -> None:
    hosts = Hosts(node=OSError(1, "Name or service not known"), ip="hangs", other=OSError("odd"))
    with pytest.raises(OSError, match="tried node: name or service not known; ") as caught:
        hosts.first()
    assert "ip: no answer in 0.1 s" in str(caught.value)
    assert "other: odd" in str(caught.value)


def test_a_wrong_secret_tells_most() -> None:
    with pytest.raises(WrongSecret):
        Hosts(node=OSError(1, "x"), address=WrongSecret()).first()


def test_a_second_proof_is_closed() -> None:
    late = Link()
    hosts = Hosts(node=Link(), other=late)
    hosts.first(next_s=0)
    assert late.closed or hosts.tried == ["node"] or hosts.cancelled == ["other"]


def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        Hosts(node=ZeroDivisionError(), address=Link()).first()
