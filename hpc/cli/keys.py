"""The commands ``keys``: API keys of the gateway's users."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hpc.cli import output
from hpc.cli.guesses import GuessingGroup
from hpc.state import directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from hpc.keys.limits import KeyLimits
    from hpc.keys.store import ClientKey
    from hpc.keys.usage import Use

F = TypeVar("F", bound="Callable[..., Any]")

NONE = "none"
COUNTS = {
    "rpm": "Most requests in any 60 seconds.",
    "tpm": "Most tokens in any 60 seconds, prompts and answers.",
    "concurrency": "Most requests in flight.",
    "max_tokens": "Longest answers of a request together, in tokens.",
    "max_prompt_tokens": "Longest prompt of a request, in tokens.",
}
WORDS = {"concurrency": " at once", "daily_tokens": "/day", "total_tokens": " in all"}


def limit_options(command: F) -> F:
    """Add the options for a key's limits to a command."""
    budget = "Tokens per day (UTC), in all, or both: 1M/day,20M/total."
    command = click.option("--budget", metavar="N[/day|/total]", help=budget)(command)
    for name, text in reversed(COUNTS.items()):
        flag = "--" + name.replace("_", "-")
        command = click.option(flag, name, metavar="N", help=text)(command)
    return command


@click.group(
    cls=GuessingGroup,
    epilog=output.examples("hpc-serve keys add --name ada", "hpc-serve keys list"),
)
def keys() -> None:
    """Manage the API keys of the gateway's users."""


@keys.command(
    epilog=output.examples(
        "hpc-serve keys add --name ada",
        "hpc-serve keys add --name bob --model mistral --expires 30d",
        "hpc-serve keys add --name eve --rpm 60 --tpm 100k --concurrency 4 --budget 1M/day",
        "hpc-serve keys add --name prometheus --metrics",
    )
)
@click.option("--name", required=True, help="Name of the key's user.")
@click.option(
    "--model",
    "--models",
    "models",
    multiple=True,
    metavar="M[,M]",
    help="Models that the key may use [default: all].",
)
@click.option(
    "--metrics",
    is_flag=True,
    help="A key for Prometheus: reads everybody's metrics, and opens no model without --model.",
)
@limit_options
@click.option(
    "--expires", metavar="WHEN", help="Expiry, such as 12h, 30d or 2027-03-31 [default: never]."
)
@output.home_option
@output.json_option
def add(
    name: str,
    models: tuple[str, ...],
    expires: str | None,
    home: str | None,
    *,
    metrics: bool,
    as_json: bool,
    **limits: str | None,
) -> None:
    """Make a key and print the key, once: only its hash is stored."""
    from hpc.keys import limits as key_limits
    from hpc.keys import store as use

    try:
        ends = key_limits.parse_expiry(expires) if expires else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--expires") from error
    names = tuple(one.strip() for text in models for one in text.split(",") if one.strip())
    allowed = key_limits.KeyLimits.model_validate(_limits(limits))
    path = directory.keys_path(directory.home(home))
    secret, entry = use.add(path, name, models=names, limits=allowed, metrics=metrics, expires=ends)
    if as_json:
        return output.print_json({**_plain(entry), "key": secret})
    # Alone on stdout, so that a script can capture the key.
    output.echo(secret)
    output.echo("this is the only time the key is shown", err=True)
    return None


@keys.command("list", epilog=output.examples("hpc-serve keys list --json"))
@output.home_option
@output.json_option
def list_(home: str | None, *, as_json: bool) -> None:
    """List the keys with limits and used tokens; the keys themselves are stored nowhere."""
    from hpc.keys import store as use
    from hpc.keys import usage as record

    root = directory.home(home)
    entries, used = use.load(directory.keys_path(root)), record.load_all(root)
    today = int(time.time()) // record.DAY_S
    if as_json:
        return output.print_json([_with_use(key, used.get(key.id), today) for key in entries])
    if not entries:
        output.echo("no keys; make one: hpc-serve keys add --name NAME")
        return None
    output.print_table(
        ("NAME", "ID", "MODELS", "LIMITS", "TODAY", "TOKENS", "CREATED", "EXPIRES", "REVOKED"),
        [
            (
                entry.name,
                entry.id,
                _opened(entry),
                _told(entry.limits),
                *_tokens(used.get(entry.id), today),
                _day(entry.created),
                _day(entry.expires),
                _day(entry.revoked),
            )
            for entry in entries
        ],
    )
    return None


@keys.command(
    "set",
    epilog=output.examples(
        "hpc-serve keys set ada --rpm 120", "hpc-serve keys set ada --budget none"
    ),
)
@click.argument("which", metavar="NAME|ID")
@limit_options
@output.home_option
def set_(which: str, home: str | None, **limits: str | None) -> None:
    """Change limits of an existing key; "none" removes a limit."""
    from hpc.keys import store as use

    changes = _limits(limits)
    if not changes:
        raise click.UsageError("give at least one limit, such as --rpm 60")
    entry = use.change(directory.keys_path(directory.home(home)), which, changes)
    output.echo(f"{entry.name} ({entry.id}): {_told(entry.limits)}")


@keys.command(epilog=output.examples("hpc-serve keys revoke ada"))
@click.argument("which", metavar="NAME|ID")
@output.home_option
def revoke(which: str, home: str | None) -> None:
    """Revoke a key; running gateways refuse the key within two seconds."""
    from hpc.keys import store as use

    ended = use.revoke(directory.keys_path(directory.home(home)), which)
    output.echo(f"revoked the key {ended.name} ({ended.id})")


def _limits(given: dict[str, str | None]) -> dict[str, int | None]:
    """Return the limits from the options, by the field names of KeyLimits."""
    found: dict[str, int | None] = {}
    for option, text in given.items():
        if text is None:
            continue
        try:
            found.update(_parse(option, text))
        except ValueError as error:
            hint = "--" + option.replace("_", "-")
            raise click.BadParameter(str(error), param_hint=hint) from error
    return found


def _parse(option: str, text: str) -> dict[str, int | None]:
    from hpc.keys import limits as key_limits

    if option == "budget":
        none = {"daily_tokens": None, "total_tokens": None}
        return {**none} if text == NONE else {**key_limits.parse_budget(text)}
    return {option: None if text == NONE else key_limits.parse_count(text)}


def _told(limits: KeyLimits | None) -> str:
    """Return limits as text, such as ``60 rpm, 1M/day``."""
    from hpc.keys import limits as key_limits

    if limits is None:
        return "-"
    parts = []
    for name, value in limits.given().items():
        word = WORDS.get(name, " " + name.replace("_", " "))
        parts.append(key_limits.short(value) + word)
    return ", ".join(parts)


def _opened(entry: ClientKey) -> str:
    """Return the models and rights of a key as text."""
    models = "all" if isinstance(entry.models, str) else ", ".join(entry.models)
    return ", ".join(word for word in (models, "(metrics)" if entry.metrics else "") if word)


def _tokens(used: Use | None, today: int) -> tuple[str, str]:
    return ("-", "-") if used is None else (str(used.today(today)[0]), str(used.tokens))


def _with_use(entry: ClientKey, used: Use | None, today: int) -> dict[str, object]:
    plain = _plain(entry)
    if used is None:
        return {**plain, "use": None}
    tokens, requests = used.today(today)
    counts = {"tokens_today": tokens, "requests_today": requests}
    return {**plain, "use": {**counts, "tokens": used.tokens, "requests": used.requests}}


def _plain(entry: ClientKey) -> dict[str, object]:
    plain = entry.model_dump(mode="json", exclude={"sha256"})
    return {**plain, "limits": {} if entry.limits is None else entry.limits.given()}


def _day(moment: datetime | None) -> str:
    return "-" if moment is None else moment.strftime("%Y-%m-%d %H:%M")
