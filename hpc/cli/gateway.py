"""The commands ``gateway``: the gateway of the machine."""

from __future__ import annotations

import json
import os
import shlex
import socket
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hpc.cli import output, proxy_bypass
from hpc.cli.guesses import GuessingGroup
from hpc.errors import GatewayError
from hpc.state import directory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hpc.model import GatewayRecord

F = TypeVar("F", bound="Callable[..., Any]")

host_option = click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on."
)
port_option = click.option(
    "--port", type=click.IntRange(0, 65535), help="TCP port [default: the site's, else 8081]."
)


def listen_options(command: F) -> F:
    """Add the options for further listeners and workers to a command."""
    file = click.Path(exists=True, dir_okay=False)
    for option in (
        click.option(
            "--workers", type=click.IntRange(1, 31), help="Processes that share the port."
        ),
        click.option("--tls-port", type=click.IntRange(0, 65535), help="TLS port [default: 8443]."),
        click.option("--tls-host", metavar="ADDRESS", help="TLS address [default: 0.0.0.0]."),
        click.option("--tls-key", type=file, help="TLS private key, PEM, mode 0600."),
        click.option("--tls-cert", type=file, help="TLS certificate, PEM; adds a TLS listener."),
        click.option("--unix", type=click.Path(), help="Also listen on this Unix socket, 0600."),
    ):
        command = option(command)
    return command


@click.group(
    cls=GuessingGroup, epilog=output.examples("hpc-serve gateway start", "hpc-serve gateway status")
)
def gateway() -> None:
    """Run the gateway on the local machine: one address for every model, with keys."""


@gateway.command(
    epilog=output.examples(
        "hpc-serve gateway run --port 8081", "hpc-serve gateway run --unix ~/gateway.sock"
    )
)
@host_option
@port_option
@listen_options
@output.models_option
@output.home_option
def run(
    host: str, port: int | None, models_file: str | None, home: str | None, **more: Any
) -> None:
    """Run the gateway in the foreground, until Ctrl-C."""
    from hpc.gateway import control as use

    argv = _argv(more)
    use.run(directory.home(home), host=host, port=port, models_file=models_file, more=argv)


@gateway.command(
    epilog=output.examples("hpc-serve gateway start", "hpc-serve gateway start --workers 4")
)
@host_option
@port_option
@listen_options
@output.models_option
@output.home_option
@output.json_option
def start(
    host: str,
    port: int | None,
    models_file: str | None,
    home: str | None,
    *,
    as_json: bool,
    **more: Any,
) -> None:
    """Start the gateway in the background, unless a gateway runs."""
    from hpc.gateway import control as use

    root, argv = directory.home(home), _argv(more)
    with output.spinner("starting the gateway"):
        record, started = use.start(root, host=host, port=port, models_file=models_file, more=argv)
    if as_json:
        return output.print_json({**_shown(record), "started": started})
    verb = "started" if started else "runs already"
    output.echo(f"the gateway {verb}: http://{_address(record)}/v1 on {record.hostname}")
    return None


@gateway.command(epilog=output.examples("hpc-serve gateway stop"))
@output.home_option
def stop(home: str | None) -> None:
    """Stop the machine's gateway after its streams have ended."""
    from hpc.gateway import control as use

    with output.spinner("stopping the gateway"):
        stopped = use.stop(directory.home(home))
    output.echo("the gateway is stopped" if stopped else "no gateway runs on this machine")


@gateway.command(epilog=output.examples("hpc-serve gateway reload"))
@output.home_option
@output.json_option
def reload(home: str | None, *, as_json: bool) -> None:
    """Make the gateway read models.yaml at once. Exits with 2 if the file is refused."""
    from hpc.gateway import control as use

    asked_at = time.time()
    outcome = use.reload(directory.home(home))
    if as_json:
        return output.print_json(asdict(outcome))
    changes = outcome.changes
    if outcome.taken_at < asked_at:
        since = output.duration(time.time() - outcome.taken_at)
        changes = f"nothing new; in force for {since}" + (f": {changes}" if changes else "")
    output.echo(changes)
    return None


@gateway.command(epilog=output.examples("hpc-serve gateway status --json"))
@output.home_option
@output.json_option
def status(home: str | None, *, as_json: bool) -> None:
    """List the gateways of all machines. Exits with 8 if none answers on the local machine."""
    from hpc.gateway import control as use

    root = directory.home(home)
    here = use.find(root)
    rows = [describe(record, here) for record in use.find_all(root)]
    if as_json:
        output.print_json(rows)
    elif rows:
        keys = ("hostname", "address", "state", "up", "pid", "version")
        cells = [[str(row[key]) for key in keys] for row in rows]
        output.print_table([key.upper() for key in keys], cells)
        for row in rows:
            _complain(row)
    else:
        output.echo("no gateway runs")
    if here is None:
        click.get_current_context().exit(GatewayError.exit_code)


@gateway.command(epilog=output.examples("hpc-serve gateway ensure"))
@output.models_option
@output.home_option
@output.json_option
def ensure(models_file: str | None, home: str | None, *, as_json: bool) -> None:
    """Print address and owner's key as JSON. Starts the gateway if needed."""
    from hpc.gateway import owner_access as use

    del as_json
    access = use.ensure(directory.home(home), models_file=models_file)
    output.echo(json.dumps(asdict(access)))


@gateway.command(epilog=output.examples('eval "$(hpc-serve gateway env)"'))
@output.models_option
@output.home_option
def env(models_file: str | None, home: str | None) -> None:
    """Print export lines for this shell. Starts the gateway if needed."""
    from hpc.gateway import owner_access as use

    access = use.ensure(directory.home(home), models_file=models_file)
    host = f"[{access.host}]" if ":" in access.host else access.host
    output.echo(f"export OPENAI_BASE_URL=http://{host}:{access.port}/v1")
    output.echo(f"export OPENAI_API_KEY={access.key}")
    if access.socket is not None:
        output.echo(f"export HPC_SERVE_SOCKET={shlex.quote(access.socket)}")
    for line in proxy_bypass.exports(os.environ, access.host):
        output.echo(line)


def _argv(more: Mapping[str, Any]) -> list[str]:
    """Return the arguments of the gateway's program, with absolute paths: its folder differs."""
    found = []
    for name, value in more.items():
        if value is not None:
            path = name in ("unix", "tls_cert", "tls_key")
            flag = "--" + name.replace("_", "-")
            found += [flag, os.path.abspath(value) if path else str(value)]  # noqa: PTH100 - as typed
    return found


def _address(record: GatewayRecord) -> str:
    host = f"[{record.host}]" if ":" in record.host else record.host
    return f"{host}:{record.port}"


def _complain(row: dict[str, Any]) -> None:
    """Print the reason of a refused models.yaml, and the warnings about the current one."""
    told = row["reload"]
    if row["state"] != "running":
        return
    if told["refused"] is not None:
        since = output.duration(time.time() - (told["refused_at"] or 0.0))
        output.echo(f"{row['hostname']} refuses its models file for {since}: {told['refused']}")
    for sentence in told["warnings"]:
        output.echo(f"{row['hostname']} warns: {sentence}")


def _shown(record: GatewayRecord) -> dict[str, Any]:
    """Return the fields of a record without its secret."""
    return {name: value for name, value in asdict(record).items() if name != "proof_secret"}


def describe(record: GatewayRecord, here: GatewayRecord | None) -> dict[str, Any]:
    """Return a gateway for JSON output, without its secret.

    A heartbeat tells whether the gateway of another machine lives.
    """
    from hpc.gateway import reach

    ours = record.hostname == socket.gethostname()
    alive = here is not None if ours else reach.is_living(record)
    return {
        **_shown(record),
        "address": _address(record),
        "state": "running" if alive else "gone",
        "up": output.duration(time.time() - record.started_at) if alive else "-",
    }
