"""The command ``relay``, run on a login node whose SSH server forbids forwarding."""

from __future__ import annotations

import sys

import click

from hpc.cli.output import examples


@click.command(epilog=examples("hpc-serve relay 127.0.0.1:8081"))
@click.argument("address", metavar="HOST:PORT|SOCKET")
def relay(address: str) -> None:
    """Carry a connection on standard input and output; used by hpc-serve connect."""
    from hpc.tunnel import relay as use

    use.relay(use.address(address), sys.stdin.fileno(), sys.stdout.fileno())
