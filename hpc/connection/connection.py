"""The connection from a laptop to a cluster's gateway, kept open by a thread."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from hpc.errors import ConfigError, StateError
from hpc.processes import by_pid
from hpc.state import directory
from hpc.tunnel import default_transport, discovery, prompts, records
from hpc.tunnel import errors as tunnel_errors
from hpc.tunnel.discovery import REMOTE_COMMAND
from hpc.tunnel.errors import PortTaken
from hpc.tunnel.local_port import LocalPort
from hpc.tunnel.login import TRANSPORTS, TransportName, parse_login
from hpc.tunnel.reconnect import Event, Plan, TunnelSupervisor
from hpc.tunnel.transport import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    import httpx
    import openai
    from typing_extensions import Self

    from hpc.tunnel.discovery import RemoteGateway

__all__ = ["PATIENCE_S", "ClusterConnection", "Event", "connect"]

PATIENCE_S = 60.0
"""Seconds that a request waits while the tunnel is down."""


class ClusterConnection:
    """An open connection to a gateway, kept open by a thread; made by ``connect``.

    Args:
        plan: account, host and options of the login.
        port: local port; 0 takes a free one, which then stays.
        patience_s: seconds that a request waits while the tunnel is down.
        on_event: called with an event and a sentence; from the thread once the connection is open.
        background: whether another process of ours may end the connection.

    Raises:
        TunnelError: the connection, the gateway or the local port could not be opened.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        port: int,
        patience_s: float,
        on_event: Callable[[Event, str], None] | None = None,
        background: bool = False,
    ) -> None:
        self.login = plan.login
        self._on_event = on_event or _ignore
        self._root = directory.home()
        self._background = background
        self._since = time.time()
        self._closing = threading.Lock()
        self._closed = False
        self._port = self._listen(port, patience_s)
        try:
            self._keeper = TunnelSupervisor(plan, self._port, tell=self._tell, found=self._found)
        except BaseException:
            self._port.close()
            records.drop(self._root, self.port)
            raise
        # A program that forgets close() must leave no ssh process behind.
        atexit.register(self.close)

    @property
    def port(self) -> int:
        """The local port, on 127.0.0.1; constant while the connection is open."""
        return self._port.port

    @property
    def base_url(self) -> str:
        """The base URL for OpenAI clients."""
        return f"http://{LOOPBACK}:{self.port}/v1"

    @property
    def key(self) -> str:
        """The API key of the gateway."""
        return self._keeper.session.gateway.key

    @property
    def key_file(self) -> Path:
        """A private file with the key, present while the connection is open."""
        return records.key_path(self._root, self.port)

    @property
    def way(self) -> str:
        """The end of the route, as the login node sees it."""
        return str(self._keeper.session.way)

    def models(self) -> list[str]:
        """Return the names of the served models.

        Raises:
            httpx.HTTPError: the gateway did not answer with a list.
        """
        with self.httpx() as client:
            answer = client.get("/models").raise_for_status().json()
        return [str(model["id"]) for model in answer["data"]]

    def client_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return an httpx client's arguments for paths below ``/v1``, with the key."""
        import httpx  # noqa: PLC0415 - the command line does without

        headers = {"Authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        # A web proxy from the environment must not see traffic to this very machine.
        defaults = {"timeout": httpx.Timeout(600, connect=10), "trust_env": False}
        return {"base_url": self.base_url, "headers": headers, **defaults, **options}

    def httpx(self, **options: Any) -> httpx.Client:
        """Return a client for paths below ``/v1``, with the key in its headers.

        Args:
            options: further arguments of ``httpx.Client``.
        """
        import httpx  # noqa: PLC0415

        return httpx.Client(**self.client_options(options))

    def openai(self, **options: Any) -> openai.OpenAI:
        """Return a ready client of the openai package.

        Args:
            options: further arguments of ``openai.OpenAI``.

        Raises:
            ConfigError: the package is not installed.
        """
        package = openai_package()
        if "http_client" not in options:
            options["http_client"] = package.DefaultHttpxClient(trust_env=False)
        client: openai.OpenAI = package.OpenAI(base_url=self.base_url, api_key=self.key, **options)
        return client

    def wait(self) -> None:
        """Wait until the connection is closed.

        Raises:
            HpcServeError: the connection was lost, and another attempt is useless.
        """
        self._keeper.wait()
        if self._keeper.failure is not None:
            raise self._keeper.failure

    def close(self) -> None:
        """End the connection; no process, port, socket or file stays behind."""
        with self._closing:
            if self._closed:
                return
            atexit.unregister(self.close)
            self._port.close()
            self._keeper.close()
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
        if self._closed or self._keeper.failure is not None:
            condition = "closed"
        else:
            condition = "connected" if self._keeper.up else "reconnecting"
        return f"<hpc.connect {self.login}: {self.base_url}, {condition}>"

    def _listen(self, port: int, patience_s: float) -> LocalPort:
        owner = records.holder(self._root, port)
        try:
            return LocalPort(port, patience_s=patience_s)
        except PortTaken as error:
            raise tunnel_errors.port_refused(port, holder=owner) from error

    def _found(self, gateway: RemoteGateway) -> None:
        """Store the key for programs, before clients are let through."""
        record = records.TunnelRecord(
            login=str(self.login),
            port=self.port,
            pid=os.getpid(),
            version=gateway.version,
            way=gateway.socket or f"{gateway.host}:{gateway.port}",
            started_at=self._since,
            background=self._background,
            process=by_pid.identity(os.getpid()) or "",
        )
        records.save(self._root, record, gateway.key)
        note = discovery.other_version(gateway, self.login)
        if note is not None:
            self._on_event("note", note)

    def _tell(self, event: Event, text: str) -> None:
        with contextlib.suppress(StateError):
            if event in ("up", "down", "moved"):
                records.mark(self._root, self.port, "down" if event == "down" else "up")
        self._on_event(event, text)


def connect(  # noqa: PLR0913 - all but the first have defaults that do
    destination: str,
    *,
    port: int = 0,
    identity: str | Path | None = None,
    ssh_options: tuple[str, ...] = (),
    ssh_config: str | Path | None = None,
    transport: TransportName | None = None,
    relay: bool = False,
    remote_command: str = REMOTE_COMMAND,
    patience: float = PATIENCE_S,
    progress: bool | None = None,
    on_event: Callable[[Event, str], None] | None = None,
    ask_again: bool = False,
    background: bool = False,
) -> ClusterConnection:
    """Open a tunnel to the gateway of a cluster, after starting the gateway if none runs.

    Args:
        destination: ``USER@LOGIN``, or a section of your SSH configuration.
        port: local port, on 127.0.0.1 only; 0 takes a free one.
        identity: private key to use alone.
        ssh_options: ``KEYWORD=VALUE`` of ssh_config(5).
        ssh_config: SSH configuration instead of your own.
        transport: "openssh" or "paramiko"; None prefers the ssh program.
        relay: always relay connections over a remote command; by default only on servers that
            forbid forwarding.
        remote_command: shell words that run hpc-serve on the login node.
        patience: seconds that a request waits while the tunnel is down.
        progress: show progress while connecting; None does so on terminals and in notebooks.
        on_event: called with "connecting", "note", "up", "moved", "down" or "failed" and a
            sentence at each event.
        ask_again: ask for passwords and codes again after a lost connection.
        background: let ``hpc-serve connect --stop`` end the tunnel.

    Raises:
        ConfigError: an argument is not usable.
        TunnelError: the login node, its gateway or the local port could not be reached or opened.
    """
    if transport is not None and transport not in TRANSPORTS:
        raise ConfigError(f"not a transport: {transport!r}; allowed are {', '.join(TRANSPORTS)}")
    login = parse_login(
        destination, identity=identity, options=tuple(ssh_options), config=ssh_config
    )
    chosen = transport or default_transport()
    # In a notebook, ssh would ask on the terminal of the notebook's server, if any.
    asks = prompts.can_ask() and not (chosen == "openssh" and prompts.in_notebook())
    plan = Plan(login, chosen, remote_command, relay, asks=asks, asks_again=asks and ask_again)
    with prompts.CopyProgress(progress, on_event or _ignore) as shown:
        return ClusterConnection(
            plan, port=port, patience_s=patience, on_event=shown.tell, background=background
        )


def openai_package() -> Any:
    """Return the openai package.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        import openai  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise ConfigError(
            "the openai package is not installed", hint="python3 -m pip install openai"
        ) from error
    return openai


def _ignore(event: Event, text: str) -> None:
    del event, text
