"""The supervisor of a tunnel: notices failures, finds the gateway again, and reconnects.

A connection that fell silent is not dropped at once: a login node may be busy for a moment. A new
connection is tried in parallel, and takes over only if the old one is still silent then. So a
network that comes back is used at once; TCP alone would wait the longer, the longer the outage.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tenacity

from hpc.errors import HpcServeError
from hpc.tunnel import discovery, open_link
from hpc.tunnel.errors import Unreachable
from hpc.tunnel.gateway_dialer import GatewayDialer
from hpc.tunnel.health_probe import HealthProbe, Outcome
from hpc.tunnel.transport import CONNECT_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpc.tunnel.discovery import RemoteGateway
    from hpc.tunnel.local_port import LocalPort
    from hpc.tunnel.login import Login, TransportName
    from hpc.tunnel.transport import Route, Transport

Event = Literal["connecting", "note", "up", "moved", "down", "failed"]
LOOK_S = 0.2
PROBE_EVERY_S = 2.0
PROBE_S = 3.0
"""Seconds without an answer until a new connection is tried beside the old."""
FIRST_PROBE_S = 10.0
RETRY_FIRST_S = 0.5
RETRY_MAX_S = 3.0
"""Longest pause in seconds between two attempts: an awoken laptop waits no longer than this."""
AGAIN_S = 4.0
"""Shortest time limit of an attempt in seconds; a busy machine needs as much."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The options of a connection.

    Attributes:
        login: account and host.
        transport: "openssh" or "paramiko".
        remote_command: shell words that run hpc-serve on the login node.
        relay: whether to try only the relay.
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
    """A connection with its route to a gateway."""

    dialer: GatewayDialer
    gateway: RemoteGateway
    probe: HealthProbe

    @property
    def link(self) -> Transport:
        """The connection to the login node."""
        return self.dialer.link

    @property
    def way(self) -> Route:
        """The route to the gateway."""
        return self.dialer.way


class TunnelSupervisor:
    """The supervisor of one tunnel: connects, then keeps the local port leading to the gateway.

    Args:
        plan: the options of the connection.
        port: the local port for clients.
        tell: called with an event and a sentence.
        found: called with each discovered gateway, before clients are let through.
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
        # A later attempt asks nobody: taking three times as long as the first, it is lost.
        self._attempt_s = min(max(3 * (time.monotonic() - began), AGAIN_S), CONNECT_S)
        for note in self.session.link.notes:
            tell("note", note)
        self._lead()
        self._thread = threading.Thread(target=self._watch, name="hpc-connect", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the tunnel is closed or given up."""
        self._thread.join()

    def close(self) -> None:
        """End the thread, the connection and all channels."""
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

    def _find(self, link: Transport) -> Session:
        """Discover the gateway, and find a working route by trying each."""
        plan = self._plan
        if not self.up and self._next_probe == 0.0:
            self._tell("connecting", f"asking {plan.login.host} for its gateway")
        gateway = discovery.ensure_gateway(link, plan.login, remote_command=plan.remote_command)
        outcomes: dict[Route, Outcome] = {}
        for way in gateway.ways(plan.remote_command, relay=plan.relay):
            dialer = GatewayDialer(link, way, gateway.proof_secret)
            probe = HealthProbe(dialer)
            outcomes[way] = probe.look(FIRST_PROBE_S)
            if outcomes[way] == "ok":
                self._found(gateway)
                return Session(dialer, gateway, probe)
        raise _not_found(plan.login, outcomes)

    def _lead(self) -> None:
        self._port.lead(self.session.dialer)
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
        elif self._port.unproved.is_set() or time.monotonic() >= self._next_probe:
            if self._port.unproved.is_set():
                # Another program listens where new connections go; the probe's may be older.
                self._port.unproved.clear()
                self.session.probe.close()
            outcome = self.session.probe.look(PROBE_S)
            if outcome == "silent":
                self._doubt()
            elif outcome != "ok" and self.session.link.alive():
                self._moved()
            self._next_probe = time.monotonic() + PROBE_EVERY_S

    def _doubt(self) -> None:
        """Try a new connection beside a silent one, and keep whichever answers."""
        # Not borrowed: the user's shared connection may be the very one that fell silent.
        try:
            fresh = self._connect(asks=False, borrow=False, timeout_s=self._attempt_s)
        except HpcServeError:
            return  # the old connection ends by its keep-alives, or the next probe decides
        if self.session.link.alive() and self.session.probe.look(PROBE_S / 3) == "ok":
            _end(fresh)
            return
        self._tell("down", f"the connection to {self._plan.login} fell silent, took a new one")
        self._replace(fresh)

    def _moved(self) -> None:
        """Discover the gateway again after its end or a change of its address."""
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
        """Reconnect until the host answers; any failure but silence ends the tunnel."""
        self.up = False
        self._port.hold()
        _end(self.session)
        self._tell("down", text)
        fresh = self._again()
        if fresh is not None:
            self._replace(fresh)

    def _replace(self, fresh: Session) -> None:
        # The old session ends only after the change: its connections live as long as possible.
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
            if "banner" in str(error):  # the host is there, and slow
                self._attempt_s = min(2 * self._attempt_s, CONNECT_S)
            raise


def _not_found(login: Login, outcomes: dict[Route, Outcome]) -> Unreachable:
    """Return the error for a gateway that no route leads to."""
    strangers = [str(way) for way, outcome in outcomes.items() if outcome == "unproved"]
    if strangers:
        return Unreachable(
            f"another program answers in the place of the gateway on {login.host} at "
            f"{strangers[0]}, so nothing was sent to it",
            hint="start the gateway anew on the login node: hpc-serve gateway stop, then ensure",
        )
    return Unreachable(
        f"the gateway on {login.host} is started but does not answer through the tunnel",
        hint="try again; or see on the login node: hpc-serve gateway status",
    )


def _end(session: Session) -> None:
    session.probe.close()
    session.link.close()
