"""The command that joins a laptop to a cluster."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import sys
from typing import TYPE_CHECKING

import click

from hpc.cli.output import examples
from hpc.connection import connect as open_connection
from hpc.tunnel.discovery import REMOTE_COMMAND
from hpc.tunnel.login import TRANSPORTS, TransportName

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from hpc.connection import Connection, Event

PORT = 8081


@click.command(
    epilog=examples(
        "hpc-serve connect ada@login.example.org",
        "hpc-serve connect cluster --port 9000 --ssh-option ProxyJump=gate.example.org",
    )
)
@click.argument("destination", metavar="[USER@]LOGIN")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=PORT,
    show_default=True,
    help="Port of this machine, on 127.0.0.1 only; 0 takes a free one.",
)
@click.option("--identity", "-i", metavar="FILE", help="Private key to use alone.")
@click.option(
    "--ssh-option",
    "-o",
    "ssh_options",
    multiple=True,
    metavar="KEYWORD=VALUE",
    help="Setting of ssh_config(5); may be given again.",
)
@click.option("--ssh-config", "-F", metavar="FILE", help="SSH configuration to read.")
@click.option(
    "--transport",
    type=click.Choice(TRANSPORTS),
    help="What carries the tunnel  [default: openssh where there is an ssh program].",
)
@click.option(
    "--remote-command",
    default=REMOTE_COMMAND,
    show_default=True,
    metavar="WORDS",
    help="How a login shell there runs hpc-serve.",
)
@click.option("--env", "only_env", is_flag=True, help="Print nothing but lines for a shell.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per change.")
def connect(
    *,
    destination: str,
    port: int,
    identity: str | None,
    ssh_options: tuple[str, ...],
    ssh_config: str | None,
    transport: TransportName | None,
    remote_command: str,
    only_env: bool,
    as_json: bool,
) -> None:
    """Open a tunnel to a cluster's gateway and keep it open until Ctrl-C."""

    def tell(event: Event, text: str) -> None:
        if as_json:
            click.echo(json.dumps({"event": event, "message": text}))
        else:
            click.echo(text, err=True)

    with _interruptible():
        connection = open_connection(
            destination,
            port=port,
            identity=identity,
            ssh_options=ssh_options,
            ssh_config=ssh_config,
            transport=transport,
            remote_command=remote_command,
            on_event=tell,
        )
        with connection, contextlib.suppress(KeyboardInterrupt):
            _announce(connection, as_json=as_json, only_env=only_env)
            connection.wait()


def _announce(connection: Connection, *, as_json: bool, only_env: bool) -> None:
    """Print how to reach the gateway; the key only where a person or shell asked for it."""
    if as_json:
        up = {"event": "up", "login": str(connection.login), "base_url": connection.base_url}
        click.echo(json.dumps(up | {"key_file": str(connection.key_file)}))
        return
    shown = only_env or sys.stdout.isatty()
    key_file = shlex.quote(str(connection.key_file))
    key = shlex.quote(connection.key) if shown else f'"$(cat {key_file})"'
    click.echo(f"export OPENAI_BASE_URL={connection.base_url}")
    click.echo(f"export OPENAI_API_KEY={key}")
    if not only_env:
        click.echo(
            f"connected to {connection.login}; paste the two lines into another shell, or read "
            f"the key from {key_file}; Ctrl-C closes",
            err=True,
        )


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let a closed terminal or a polite kill end the command as Ctrl-C does."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt
