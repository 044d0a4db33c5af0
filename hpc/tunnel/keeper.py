"""Keep a way to a gateway open: notice what breaks, look for the gateway again, take the way back.

A connection that fell silent is not given up at once: a login node may be busy for a moment. A new
one is tried beside it, and takes over only if the old one is still silent then. So a network that
comes back is used at once, where TCP alone would wait longer the longer it was away.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tenacity

from hpc.errors import HpcServeError
from hpc.tunnel import discovery, open_link
from hpc.tunnel.failures import Unreachable
from hpc.tunnel.link import CONNECT_S
from hpc.tunnel.probe import Probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpc.tunnel.discovery import RemoteGateway
    from hpc.tunnel.link import Link, Way
    from hpc.tunnel.login import Login, TransportName
    from hpc.tunnel.port import LocalPort

Event = Literal["connecting", "note", "up", "moved", "down", "failed"]
LOOK_S = 0.2
PROBE_EVERY_S = 2.0
PROBE_S = 3.0
"""Seconds without an answer after which a connection is doubted."""
FIRST_PROBE_S = 10.0
RETRY_FIRST_S = 0.5
RETRY_MAX_S = 3.0
"""Longest pause between two attempts to connect again: a laptop that woke up waits no longer."""
AGAIN_S = 4.0
"""Shortest time that an attempt to connect again has; less would not do on a busy machine."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to connect.

    Attributes:
        transport: what carries it.
        remote_command: shell words that run hpc-serve there.
        relay: try nothing but the relay.
        asks: whether passwords, codes and new host keys may be asked for now.
        asks_again: the same, after the connection was lost.
    """

    login: Login
    transport: TransportName
    remote_command: str
    relay: bool = False
    asks: bool = False
    asks_again: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """A connection that leads to a gateway."""

    link: Link
    gateway: RemoteGateway
    way: Way
    probe: Probe


class Keeper:
    """Connects, then keeps the port leading to the gateway in a thread of its own.

    Args:
        plan: how to connect.
        port: what clients come to.
        tell: called with what happened and a sentence.
        found: called with each gateway that was found, before clients are let through.
    """

    def __init__(
        self,
        plan: Plan,
        port: LocalPort,
        *,
        tell: Callable[[Event, str], None],
        found: Callable[[RemoteGateway], None],
    ) -> None:
        self.failure: HpcServeError | None = None
        self.up = False
        self._plan = plan
        self._port = port
        self._tell = tell
        self._found = found
        self._closing = threading.Event()
        self._attempt_s = CONNECT_S
        self._next_probe = 0.0
        began = time.monotonic()
        self.session = self._connect(asks=plan.asks, borrow=True, timeout_s=CONNECT_S)
        # What took three times as long as a first time, without anybody asked, is lost.
        self._attempt_s = min(max(3 * (time.monotonic() - began), AGAIN_S), CONNECT_S)
        self._lead()
        self._thread = threading.Thread(target=self._watch, name="hpc-connect", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when it was closed or has given up."""
        self._thread.join()

    def close(self) -> None:
        """End the thread, the connection and what it carries."""
        self._closing.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self.up = False
        _end(self.session)

    def _connect(self, *, asks: bool, borrow: bool, timeout_s: float) -> Session:
        plan = self._plan
        link = open_link(
            plan.login,
            transport=plan.transport,
            interactive=asks,
            borrow=borrow,
            timeout_s=timeout_s,
        )
        try:
            return self._find(link)
        except BaseException:
            link.close()
            raise

    def _find(self, link: Link) -> Session:
        """Ask for the gateway, and find out how to get there by going there."""
        plan = self._plan
        if not self.up and self._next_probe == 0.0:
            self._tell("connecting", f"asking {plan.login.host} for its gateway")
        gateway = discovery.ensure_gateway(link, plan.login, remote_command=plan.remote_command)
        for way in gateway.ways(plan.remote_command, relay=plan.relay):
            probe = Probe(link, way)
            if probe.look(FIRST_PROBE_S) == "ok":
                self._found(gateway)
                return Session(link, gateway, way, probe)
            probe.close()
        raise Unreachable(
            f"the gateway on {plan.login.host} is started but does not answer through the tunnel",
            hint="try again; or see on the login node: hpc-serve gateway status",
        )

    def _lead(self) -> None:
        self._port.lead(self.session.link, self.session.way)
        self.up = True
        self._next_probe = time.monotonic() + PROBE_EVERY_S

    def _watch(self) -> None:
        try:
            while not self._closing.is_set():
                self.session.link.wait(LOOK_S)
                if not self._closing.is_set():
                    self._look()
        except HpcServeError as error:
            self.up = False
            self.failure = error
            self._tell("failed", str(error))
            self._port.close()
            _end(self.session)

    def _look(self) -> None:
        if not self.session.link.alive():
            self._lost(f"the connection to {self._plan.login} was lost, connecting again")
        elif time.monotonic() >= self._next_probe:
            outcome = self.session.probe.look(PROBE_S)
            if outcome == "silent":
                self._doubt()
            elif outcome == "refused" and self.session.link.alive():
                self._moved()
            self._next_probe = time.monotonic() + PROBE_EVERY_S

    def _doubt(self) -> None:
        """Try a new connection beside a silent one, and keep whichever answers."""
        try:
            fresh = self._connect(asks=False, borrow=False, timeout_s=self._attempt_s)
        except HpcServeError:
            return  # the old one ends by its own keep-alives, or is asked again
        if self.session.link.alive() and self.session.probe.look(PROBE_S / 3) == "ok":
            _end(fresh)
            return
        self._tell("down", f"the connection to {self._plan.login} fell silent, took a new one")
        self._replace(fresh)

    def _moved(self) -> None:
        """Look for the gateway again: it ended, or listens elsewhere."""
        before = self.session.way
        self.up = False
        self._port.hold()
        self._tell("down", f"the gateway on {self._plan.login.host} is gone, asking for it again")
        self.session.probe.close()
        try:
            self.session = self._find(self.session.link)
        except Unreachable as error:
            self._lost(str(error))
            return
        self._lead()
        place = "as before" if self.session.way == before else f"now at {self.session.way}"
        self._tell("moved", f"the gateway on {self._plan.login.host} answers again, {place}")

    def _lost(self, text: str) -> None:
        """Try until the host answers: only its silence is worth another try."""
        self.up = False
        _end(self.session)
        self._port.hold()
        self._tell("down", text)
        fresh = self._again()
        if fresh is not None:
            self._replace(fresh)

    def _replace(self, fresh: Session) -> None:
        self._port.hold()
        old, self.session = self.session, fresh
        self._lead()
        _end(old)
        self._tell("up", f"connected to {self._plan.login} again")

    def _again(self) -> Session | None:
        told = ""

        def tell(state: tenacity.RetryCallState) -> None:
            nonlocal told
            error = state.outcome.exception() if state.outcome is not None else None
            if error is not None and str(error) != told:
                told = str(error)
                self._tell("down", told)

        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Unreachable),
            wait=tenacity.wait_random_exponential(
                RETRY_FIRST_S, RETRY_MAX_S, min=RETRY_FIRST_S / 5
            ),
            stop=tenacity.stop_when_event_set(self._closing),
            sleep=tenacity.sleep_using_event(self._closing),
            before_sleep=tell,
            reraise=True,
        )
        try:
            return tries(self._try_again)
        except Unreachable:
            return None  # closing

    def _try_again(self) -> Session:
        try:
            asks = self._plan.asks_again
            return self._connect(asks=asks, borrow=True, timeout_s=self._attempt_s)
        except Unreachable as error:
            if "banner" in str(error):  # it is there, and slow
                self._attempt_s = min(2 * self._attempt_s, CONNECT_S)
            raise


def _end(session: Session) -> None:
    session.probe.close()
    session.link.close()
