"""The command line of the gateway and of a replica's sidecar."""

# ruff: noqa: PLC0415 - each subcommand, and each process, loads what it needs alone

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway_lite.settings import GatewaySettings
from hpc import terminal
from hpc.errors import ConfigError, HpcServeError
from hpc.state import private
from hpc.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULTS = GatewaySettings()
LAST_PORT = 65535


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``gateway-lite``.

    Args:
        argv: arguments after the program's name; None means the process's arguments.
    """
    options = _parser().parse_args(argv)
    private.keep_files()
    private.keep_memory()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    settings = replace(
        DEFAULTS,
        drain_s=options.drain_timeout,
        idle_s=options.upstream_timeout,
        stall_s=options.stall_timeout,
    )
    try:
        if bool(options.tls_cert) != bool(options.tls_key):
            raise ConfigError("--tls-cert and --tls-key go together")
        _sidecar(options, settings) if options.command == "sidecar" else _run(options, settings)
    except HpcServeError as error:
        print(terminal.plain(f"gateway-lite: {error}"), file=sys.stderr)  # noqa: T201 - a program's output
        if error.hint:
            print(terminal.plain(f"  {error.hint}"), file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)


def _run(options: argparse.Namespace, settings: GatewaySettings) -> None:
    from gateway_lite.http.listeners import Address, Tls
    from gateway_lite.process.supervisor import run
    from hpc import config

    resolved = config.load(
        models_file=options.models or options.found_models,
        found=options.models is None and options.found_models is not None,
        home=options.home,
    )
    address = Address(
        host=options.host,
        port=resolved.site.gateway_port if options.port is None else options.port,
        or_any=options.or_any_port,
        unix=options.unix,
        tls=Tls(options.tls_cert, options.tls_key) if options.tls_cert else None,
        tls_host=options.tls_host,
        tls_port=options.tls_port,
    )
    run(resolved, address, settings, options.workers)


def _sidecar(options: argparse.Namespace, settings: GatewaySettings) -> None:
    from gateway_lite.http.server import run_loop
    from gateway_lite.process.sidecar import serve
    from gateway_lite.request.sidecar_handler import SidecarOptions

    door = SidecarOptions(
        unix=options.upstream_unix,
        port=options.upstream_port,
        secret_file=options.secret_file,
        engine_key_env=options.engine_key_env,
        host=options.host,
        bind_ports=options.port,
        ready_file=options.ready_file,
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        media_domains=tuple(options.media_domain),
    )
    run_loop(serve(door, settings))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gateway-lite", description=__doc__)
    parser.add_argument("--version", action="version", version=f"gateway-lite {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (_add_run(commands), _add_sidecar(commands)):
        command.add_argument(
            "--drain-timeout",
            metavar="S",
            type=float,
            default=DEFAULTS.drain_s,
            help="seconds for streams to end after SIGTERM [%(default)g]",
        )
        command.add_argument(
            "--upstream-timeout",
            metavar="S",
            type=float,
            default=DEFAULTS.idle_s,
            help="seconds of silence after which an engine counts as lost [%(default)g]",
        )
        command.add_argument(
            "--stall-timeout",
            metavar="S",
            type=float,
            default=DEFAULTS.stall_s,
            help="seconds without progress after which a busy engine is left alone [%(default)g]",
        )
    return parser


def _add_run(commands: Any) -> argparse.ArgumentParser:
    run: argparse.ArgumentParser = commands.add_parser(
        "run", help="serve the models of a state directory"
    )
    run.add_argument("--home", metavar="DIR", help="state directory")
    run.add_argument("--models", metavar="FILE", help="models.yaml with static backends")
    run.add_argument(
        "--found-models",
        metavar="FILE",
        help="models.yaml that a search found: refused as soon as other users can write to it",
    )
    run.add_argument("--host", default="127.0.0.1", help="address to bind [%(default)s]")
    run.add_argument("--port", type=int, help="TCP port; 0 takes a free port [8081]")
    run.add_argument(
        "--or-any-port", action="store_true", help="take a free port if --port is in use"
    )
    run.add_argument("--unix", metavar="PATH", help="additional Unix socket, mode 0600")
    run.add_argument("--tls-cert", metavar="FILE", help="PEM certificate of a TLS listener")
    run.add_argument("--tls-key", metavar="FILE", help="PEM key of the certificate, mode 0600")
    run.add_argument(
        "--tls-host",
        default="0.0.0.0",  # noqa: S104 - TLS is for clients on other machines
        help="address of the TLS listener [%(default)s]",
    )
    run.add_argument(
        "--tls-port",
        type=int,
        default=8443,
        help="port of the TLS listener; 0 takes a free port [%(default)s]",
    )
    run.add_argument(
        "--workers", metavar="N", type=int, default=1, help="processes that share the port [1]"
    )
    return run


def _port_range(text: str) -> tuple[int, int]:
    """Return the lowest and highest port of ``LOW-HIGH`` or of a single number."""
    low, _, high = text.partition("-")
    found = int(low), int(high or low)
    if not 0 <= found[0] <= found[1] <= LAST_PORT:
        raise ValueError
    return found


def _add_sidecar(commands: Any) -> argparse.ArgumentParser:
    door: argparse.ArgumentParser = commands.add_parser(
        "sidecar", help="guard one engine, as its only network listener"
    )
    upstream = door.add_mutually_exclusive_group(required=True)
    upstream.add_argument("--upstream-unix", metavar="PATH", help="the engine's Unix socket")
    upstream.add_argument("--upstream-port", metavar="N", type=int, help="engine's loopback port")
    door.add_argument(
        "--secret-file",
        metavar="FILE",
        type=Path,
        required=True,
        help="file with the secret that both sides of a connection prove",
    )
    door.add_argument("--engine-key-env", metavar="NAME", help="variable with the engine's key")
    door.add_argument(
        "--media-domain",
        metavar="HOST",
        action="append",
        default=[],
        help="host that the engine may fetch media from, or '*'; repeatable [none]",
    )
    door.add_argument("--host", default="127.0.0.1", help="address to bind [%(default)s]")
    door.add_argument("--tls-cert", metavar="FILE", help="PEM certificate, for TLS")
    door.add_argument("--tls-key", metavar="FILE", help="PEM key of the certificate, mode 0600")
    door.add_argument(
        "--port",
        metavar="N[-N]",
        type=_port_range,
        default=(0, 0),
        help="TCP port, or a range of ports of which a free one is taken [any free one]",
    )
    door.add_argument(
        "--ready-file",
        metavar="FILE",
        type=Path,
        required=True,
        help="file that gets the port once the sidecar listens",
    )
    return door


if __name__ == "__main__":
    main()
