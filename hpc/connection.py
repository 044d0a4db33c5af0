"""Reach a cluster's gateway from off the cluster, and stay connected."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import sys
import threading
from typing import TYPE_CHECKING, Any, Literal

from hpc import state
from hpc.errors import ConfigError, HpcServeError, TunnelError
from hpc.tunnel import default_transport, failures, open_link, records
from hpc.tunnel.discovery import REMOTE_COMMAND, RemoteGateway, ensure_gateway
from hpc.tunnel.failures import PortTaken, Unreachable
from hpc.tunnel.link import LOOPBACK
from hpc.tunnel.login import TRANSPORTS, Login, TransportName, parse_login

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    import httpx
    import openai
    from typing_extensions import Self

    from hpc.tunnel.link import Link

Event = Literal["down", "up", "failed"]
WATCH_S = 0.5
RETRY_FIRST_S = 0.5
RETRY_MAX_S = 4.0
"""Longest pause between two attempts to connect again: a laptop that woke up waits no longer."""
FREE_PORT_TRIES = 5


class Connection:
    """An open way to a gateway, kept open by a thread; made by ``connect``.

    Args:
        login: account and login node.
        port: local port; 0 takes a free one, which then stays.
        transport: what carries it.
        remote_command: shell words that run hpc-serve there.
        on_event: called from the thread with "down", "up" or "failed" and a sentence.

    Raises:
        TunnelError: the connection, the gateway or the local port is not to be had.
    """

    def __init__(
        self,
        login: Login,
        *,
        port: int,
        transport: TransportName,
        remote_command: str,
        on_event: Callable[[Event, str], None] | None = None,
    ) -> None:
        self.login = login
        self.port = port
        self.failure: HpcServeError | None = None
        self._transport = transport
        self._remote_command = remote_command
        self._on_event = on_event or _ignore
        self._root = state.home()
        self._closing = threading.Event()
        self._closed = False
        self._link, self._gateway = self._establish()
        self._watcher = threading.Thread(target=self._watch, name="hpc-connect", daemon=True)
        self._watcher.start()
        atexit.register(self.close)

    @property
    def base_url(self) -> str:
        """The address that OpenAI clients take."""
        return f"http://{LOOPBACK}:{self.port}/v1"

    @property
    def key(self) -> str:
        """The key that the gateway asks for."""
        return self._gateway.key

    @property
    def key_file(self) -> Path:
        """A private file that holds the key while the connection is open."""
        return records.key_path(self._root, self.port)

    def models(self) -> list[str]:
        """Return the names of the models that answer.

        Raises:
            httpx.HTTPError: the gateway did not answer, or not with a list.
        """
        with self.httpx() as client:
            answer = client.get("/models").raise_for_status().json()
        return [str(model["id"]) for model in answer["data"]]

    def httpx(self, **options: Any) -> httpx.Client:
        """Return a client for paths below ``/v1`` that carries the key.

        Args:
            options: further arguments of ``httpx.Client``.
        """
        import httpx  # noqa: PLC0415 - the command line does without

        headers = {"Authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        # A proxy set for the web must not see what goes to this very machine.
        defaults: dict[str, Any] = {"timeout": httpx.Timeout(600, connect=10), "trust_env": False}
        return httpx.Client(base_url=self.base_url, headers=headers, **(defaults | options))

    def openai(self, **options: Any) -> openai.OpenAI:
        """Return a ready client of the openai package.

        Args:
            options: further arguments of ``openai.OpenAI``.

        Raises:
            ConfigError: the package is not installed.
        """
        try:
            import openai  # noqa: PLC0415 - an optional package
        except ImportError as error:
            raise ConfigError(
                "the openai package is not installed", hint="python3 -m pip install openai"
            ) from error
        if "http_client" not in options:
            options["http_client"] = openai.DefaultHttpxClient(trust_env=False)
        return openai.OpenAI(base_url=self.base_url, api_key=self.key, **options)

    def wait(self) -> None:
        """Return when the connection was closed.

        Raises:
            HpcServeError: it was lost, and trying again is of no use.
        """
        self._watcher.join()
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """End the connection; leaves no process, port, socket or file behind."""
        if self._closed:
            return
        atexit.unregister(self.close)
        self._closing.set()
        if threading.current_thread() is not self._watcher:
            self._watcher.join()
        self._link.close()
        records.drop(self._root, self.port)
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._closing.is_set():
            condition = "closed"
        else:
            condition = "connected" if self._link.alive() else "reconnecting"
        return f"<hpc.connect {self.login}: {self.base_url}, {condition}>"

    def _establish(self, *, again: bool = False) -> tuple[Link, RemoteGateway]:
        """Connect, find the gateway, and lead the local port to it."""
        asks = not again and sys.stdin is not None and sys.stdin.isatty()
        link = open_link(self.login, transport=self._transport, interactive=asks)
        try:
            gateway = ensure_gateway(link, self.login, remote_command=self._remote_command)
            self.port = self._forward(link, (gateway.host, gateway.port))
            record = records.TunnelRecord(str(self.login), self.port, os.getpid(), gateway.version)
            records.save(self._root, record, gateway.key)
        except BaseException:
            link.close()
            raise
        return link, gateway

    def _forward(self, link: Link, to: tuple[str, int]) -> int:
        if self.port:
            owner = records.holder(self._root, self.port)
            try:
                link.forward(self.port, to)
            except PortTaken as error:
                raise failures.port_refused(self.port, holder=owner) from error
            return self.port
        for _ in range(FREE_PORT_TRIES):
            port = records.free_port()
            with contextlib.suppress(PortTaken):
                link.forward(port, to)
                return port
        raise TunnelError("no free port was found on this machine")

    def _watch(self) -> None:
        while not self._closing.wait(WATCH_S):
            if self._link.alive():
                continue
            self._on_event("down", f"connection to {self.login} lost, connecting again")
            self._link.close()
            try:
                self._reconnect()
            except HpcServeError as error:
                self.failure = error
                self._on_event("failed", str(error))
                return

    def _reconnect(self) -> None:
        """Try until the host answers: only its silence is worth another try."""
        pause_s, told = RETRY_FIRST_S, ""
        while not self._closing.is_set():
            try:
                self._link, self._gateway = self._establish(again=True)
            except Unreachable as error:
                if str(error) != told:
                    told = str(error)
                    self._on_event("down", told)
                self._closing.wait(pause_s * random.uniform(0.5, 1))  # noqa: S311 - jitter
                pause_s = min(2 * pause_s, RETRY_MAX_S)
            else:
                self._on_event("up", f"connected to {self.login} again")
                return


def connect(
    destination: str,
    *,
    port: int = 0,
    identity: str | Path | None = None,
    ssh_options: tuple[str, ...] = (),
    ssh_config: str | Path | None = None,
    transport: TransportName | None = None,
    remote_command: str = REMOTE_COMMAND,
    on_event: Callable[[Event, str], None] | None = None,
) -> Connection:
    """Open a tunnel to the gateway of a cluster, starting the gateway if need be.

    Args:
        destination: ``USER@LOGIN``, or a section of your SSH configuration.
        port: local port, on 127.0.0.1 only; 0 takes a free one.
        identity: private key to use alone.
        ssh_options: ``KEYWORD=VALUE`` of ssh_config(5).
        ssh_config: SSH configuration instead of your own.
        transport: "openssh" or "paramiko"; None takes the ssh program where there is one.
        remote_command: shell words that run hpc-serve on the login node.
        on_event: called with "down", "up" or "failed" and a sentence when that happens.

    Raises:
        ConfigError: an argument cannot be meant.
        TunnelError: the login node, its gateway or the local port is not to be had.
    """
    if transport is not None and transport not in TRANSPORTS:
        raise ConfigError(f"not a transport: {transport!r}; allowed are {', '.join(TRANSPORTS)}")
    login = parse_login(
        destination, identity=identity, options=tuple(ssh_options), config=ssh_config
    )
    return Connection(
        login,
        port=port,
        transport=transport or default_transport(),
        remote_command=remote_command,
        on_event=on_event,
    )


def _ignore(event: Event, text: str) -> None:
    del event, text
