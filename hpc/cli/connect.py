"""The command ``connect``, which opens a tunnel from a laptop to a cluster."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli import output, proxy_bypass
from hpc.errors import TunnelError
from hpc.tunnel.discovery import REMOTE_COMMAND
from hpc.tunnel.login import TRANSPORTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from hpc.connection.background import Tunnel
    from hpc.connection.connection import ClusterConnection, Event

HOST = "127.0.0.1"
PORT = 8081
SSH = ("identity", "ssh_options", "ssh_config", "transport", "relay", "remote_command")

SSH_OPTIONS = (
    click.option("--identity", "-i", metavar="FILE", help="Private key file; no other is tried."),
    click.option(
        "--ssh-option",
        "-o",
        "ssh_options",
        multiple=True,
        metavar="KEYWORD=VALUE",
        help="Setting of ssh_config(5); may be repeated.",
    ),
    click.option("--ssh-config", "-F", metavar="FILE", help="SSH configuration file to read."),
    click.option(
        "--transport",
        type=click.Choice(TRANSPORTS),
        help="SSH implementation  [default: openssh if an ssh program exists, else paramiko].",
    ),
    click.option(
        "--relay",
        is_flag=True,
        help="Always use a remote command, not only on servers that forbid forwarding.",
    ),
    click.option(
        "--remote-command",
        default=REMOTE_COMMAND,
        show_default=True,
        metavar="WORDS",
        help="Command that runs hpc-serve on the login node.",
    ),
)
MODES = (
    click.option("--background", is_flag=True, help="Keep the tunnel open in the background."),
    click.option("--status", is_flag=True, help="List the open tunnels of this machine."),
    click.option("--stop", is_flag=True, help="Close all background tunnels, or LOGIN's."),
    click.option("--exec", "run_it", is_flag=True, help="Run PROGRAM, then close the tunnel."),
    click.option("--detach", is_flag=True, help="Used by --background itself."),
)


@click.command(
    context_settings={"ignore_unknown_options": False},
    epilog=output.examples(
        "hpc-serve connect ada@login.example.org",
        "hpc-serve connect cluster --port 9000 --ssh-option ProxyJump=gate.example.org",
        "hpc-serve connect cluster --model mistral --exec -- jupyter lab",
        'eval "$(hpc-serve connect cluster --background --env)"',
        "hpc-serve connect --stop",
    ),
)
@click.argument("destination", metavar="[USER@]LOGIN", required=False)
@click.argument("program", nargs=-1, metavar="[-- PROGRAM...]", type=click.UNPROCESSED)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=PORT,
    show_default=True,
    help="Port of this machine, on 127.0.0.1 only; 0 takes a free one.",
)
@output.with_options(SSH_OPTIONS)
@output.with_options(MODES)
@click.option("--model", metavar="NAME", help="Check that a model is served; set OPENAI_MODEL.")
@click.option(
    "--patience",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="S",
    help="Seconds that a request waits while the tunnel is down.",
)
@click.option("--env", "only_env", is_flag=True, help="Print only export lines for a shell.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event.")
def connect(destination: str | None, program: tuple[str, ...], **options: Any) -> None:
    """Open a tunnel to a cluster's gateway and keep it open until Ctrl-C."""
    if options["status"]:
        return _status(as_json=options["as_json"])
    if options["stop"]:
        return _stop(destination)
    if destination is None:
        raise click.UsageError("give the login node: USER@LOGIN")
    if options["background"] and not hasattr(os, "setsid"):
        raise click.UsageError("--background does not work on Windows; keep this window open")
    if bool(program) != options["run_it"]:
        raise click.UsageError("--exec needs a program after --, and the other way round")
    with _interruptible():
        if options["background"]:
            return _background(destination, options)
        return _foreground(destination, program, options)


def _foreground(destination: str, program: Sequence[str], options: dict[str, Any]) -> None:
    from hpc.connection import background as background_tunnels
    from hpc.connection.connection import connect as open_connection
    from hpc.processes import programs
    from hpc.state import private

    private.keep_memory(children=False)  # it holds the key; a user's program is as usual
    as_json, detach = options["as_json"], options["detach"]

    def tell(event: Event, text: str) -> None:
        if as_json and event not in ("connecting", "note"):
            _print_event(event, message=text)
        elif event != "connecting":
            output.echo(text, err=True)

    connection = open_connection(
        destination,
        port=options["port"],
        patience=options["patience"],
        on_event=tell,
        ask_again=not detach,
        background=detach,
        progress=False if detach or as_json else None,
        **{name: options[name] for name in SSH},
    )
    with connection, contextlib.suppress(KeyboardInterrupt):
        _check_model(connection, options["model"])
        if program:
            with _left_to_it():
                env = _environment(connection, options["model"])
                status = programs.run_attached(program, env=env, umask=private.user_umask())
            connection.close()
            click.get_current_context().exit(status)
        _announce(connection, options)
        if detach:
            programs.detach(background_tunnels.log_path(connection.port))
        connection.wait()


def _background(destination: str, options: dict[str, Any]) -> None:
    """Start a second process for the tunnel, which asks on this terminal, then detaches."""
    from hpc.connection import background as background_tunnels
    from hpc.processes import own_python, programs

    found = background_tunnels.find(destination)
    if found is None:
        argv = own_python.argv("hpc", "connect", destination, "--detach", "--json")
        argv += ["--port", str(options["port"]), "--patience", str(options["patience"])]
        argv += [f"--ssh-option={pair}" for pair in options["ssh_options"]]
        for name in ("identity", "ssh_config", "transport", "remote_command", "model"):
            if options[name] is not None:
                argv.append(f"--{name.replace('_', '-')}={options[name]}")
        argv += ["--relay"] if options["relay"] else []
        # With --json the other process prints its first line once the tunnel is up.
        _, status = programs.first_line(argv, env=own_python.environment())
        if status is not None:
            click.get_current_context().exit(status)
        found = background_tunnels.find(destination)
    if found is None:
        raise TunnelError(f"the tunnel to {destination} ended at once")
    _show(found, options)


def _status(*, as_json: bool) -> None:
    from hpc.connection import background as background_tunnels

    found = background_tunnels.list_all()
    if as_json:
        return output.print_json([asdict(tunnel) for tunnel in found])
    if not found:
        output.echo("no tunnel is open on this machine")
        return None
    rows = [
        (t.login, t.base_url, t.state, output.duration(time.time() - t.started_at), str(t.pid))
        for t in found
    ]
    output.print_table(["LOGIN", "ADDRESS", "STATE", "FOR", "PID"], rows)
    return None


def _stop(destination: str | None) -> None:
    from hpc.connection import background as background_tunnels

    ended = background_tunnels.stop(destination)
    for tunnel in ended:
        output.echo(f"the tunnel to {tunnel.login} is closed")
    if not ended:
        output.echo(
            "no tunnel runs in the background" + (f" to {destination}" if destination else "")
        )


def _check_model(connection: ClusterConnection, model: str | None) -> None:
    served = connection.models() if model is not None else []
    if model is not None and model not in served:
        raise TunnelError(
            f"no model {model} is served on {connection.login}: there "
            f"{'is ' + ', '.join(served) if served else 'are none'}",
            hint=f"on the login node: hpc-serve submit {model}",
        )


def _environment(connection: ClusterConnection, model: str | None) -> dict[str, str]:
    ours = {"OPENAI_BASE_URL": connection.base_url, "OPENAI_API_KEY": connection.key}
    more = {"OPENAI_MODEL": model} if model else {}
    return {**os.environ, **ours, **more, **proxy_bypass.variables(os.environ, HOST)}


def _announce(connection: ClusterConnection, options: dict[str, Any]) -> None:
    """Print the gateway's address; the key only if a person or shell asked for the key."""
    if options["as_json"]:
        names = {"login": str(connection.login), "base_url": connection.base_url}
        return _print_event("up", **names, key_file=str(connection.key_file), way=connection.way)
    _lines(connection.base_url, str(connection.key_file), options)
    if not options["only_env"]:
        output.echo(
            f"connected to {connection.login}; paste the lines into another shell, or read "
            f"the key from {connection.key_file}; Ctrl-C closes",
            err=True,
        )
    return None


def _show(tunnel: Tunnel, options: dict[str, Any]) -> None:
    """Print the gateway's address through a background tunnel."""
    if options["as_json"]:
        return output.echo(json.dumps({"event": "up", **asdict(tunnel)}))
    _lines(tunnel.base_url, tunnel.key_file, options)
    if not options["only_env"]:
        output.echo(
            f"connected to {tunnel.login} in the background; hpc-serve connect --stop", err=True
        )
    return None


def _lines(base_url: str, key_file: str, options: dict[str, Any]) -> None:
    # In a pipe or file only the command that reads the key is printed: no secret gets into logs.
    shown = options["only_env"] or sys.stdout.isatty()
    quoted = shlex.quote(key_file)
    key = Path(key_file).read_text(encoding="ascii").strip() if shown else ""
    output.echo(f"export OPENAI_BASE_URL={base_url}")
    output.echo(
        f"export OPENAI_API_KEY={shlex.quote(key)}"
        if shown
        else f'export OPENAI_API_KEY="$(cat {quoted})"'
    )
    if options["model"]:
        output.echo(f"export OPENAI_MODEL={shlex.quote(options['model'])}")
    for line in proxy_bypass.exports(os.environ, HOST):
        output.echo(line)


def _print_event(event: Event, **more: str) -> None:
    output.echo(json.dumps({"event": event, "time": round(time.time(), 3), **more}))
    sys.stdout.flush()  # a waiting parent reads the line through a pipe


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Make SIGTERM and a closed terminal end the command as Ctrl-C does."""
    numbers = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}  # Windows has none
    before = {number: signal.getsignal(number) for number in numbers}
    for number in before:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _left_to_it() -> Iterator[None]:
    """Leave Ctrl-C to the running program, which may handle or ignore the signal."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt
