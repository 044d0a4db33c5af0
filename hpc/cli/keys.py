"""Commands for the keys of the gateway's users."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hpc import state
from hpc.cli import output

if TYPE_CHECKING:
    from datetime import datetime

    from hpc.keys import ClientKey


@click.group(epilog=output.examples("hpc-serve keys add --name ada", "hpc-serve keys list"))
def keys() -> None:
    """Manage the keys of the gateway's users."""


@keys.command(
    epilog=output.examples(
        "hpc-serve keys add --name ada",
        "hpc-serve keys add --name bob --model mistral --expires 30d",
    )
)
@click.option("--name", required=True, help="Whose key it is.")
@click.option(
    "--model", "models", multiple=True, metavar="M", help="Model it may use [default: all]."
)
@click.option("--expires", metavar="WHEN", help="12h, 30d, 4w, or 2027-03-31 [default: never].")
@output.home_option
@output.json_option
def add(
    name: str, models: tuple[str, ...], expires: str | None, home: str | None, *, as_json: bool
) -> None:
    """Make a key and show it, once: only its hash is kept."""
    from hpc import keys as use  # noqa: PLC0415 - help must stay quick

    try:
        ends = use.parse_expiry(expires) if expires else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--expires") from error
    path = state.keys_path(state.home(home))
    secret, entry = use.add(path, name, models=models, expires=ends)
    if as_json:
        return output.print_json({**_plain(entry), "key": secret})
    click.echo(secret)
    click.echo("this is the only time the key is shown", err=True)
    return None


@keys.command("list", epilog=output.examples("hpc-serve keys list --json"))
@output.home_option
@output.json_option
def list_(home: str | None, *, as_json: bool) -> None:
    """List the keys, by name and id; the keys themselves are kept nowhere."""
    from hpc import keys as use  # noqa: PLC0415

    entries = use.load(state.keys_path(state.home(home)))
    if as_json:
        return output.print_json([_plain(entry) for entry in entries])
    if not entries:
        click.echo("no keys; make one: hpc-serve keys add --name NAME")
        return None
    output.print_table(
        ("NAME", "ID", "MODELS", "CREATED", "EXPIRES", "REVOKED"),
        [
            (
                entry.name,
                entry.id,
                "all" if entry.models == use.ALL else ", ".join(entry.models),
                _day(entry.created),
                _day(entry.expires),
                _day(entry.revoked),
            )
            for entry in entries
        ],
    )
    return None


@keys.command(epilog=output.examples("hpc-serve keys revoke ada"))
@click.argument("which", metavar="NAME|ID")
@output.home_option
def revoke(which: str, home: str | None) -> None:
    """End a key; running gateways refuse it within two seconds."""
    from hpc import keys as use  # noqa: PLC0415

    ended = use.revoke(state.keys_path(state.home(home)), which)
    click.echo(f"revoked the key {ended.name} ({ended.id})")


def _plain(entry: ClientKey) -> dict[str, object]:
    return entry.model_dump(mode="json", exclude={"sha256"})


def _day(moment: datetime | None) -> str:
    return "-" if moment is None else moment.strftime("%Y-%m-%d %H:%M")
