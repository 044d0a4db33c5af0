"""The command ``status``: everything at a glance, or the replicas of one service."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli import output, service_text
from hpc.cli.service_text import phases
from hpc.model import Phase
from hpc.state import directory

if TYPE_CHECKING:
    from hpc.batch.control import BatchStatus
    from hpc.services.phase import Service

WATCH_S = 5.0
"""Seconds between two looks, each of which asks the scheduler."""
RECENT_S = 86400.0
"""Age of finished batches that are still shown."""
ENDED = frozenset({"DONE", "CANCELLED"})


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything that a state directory knows.

    Attributes:
        services: all services.
        gateways: gateways of all machines, as ``gateway status --json`` lists them.
        keys: number of keys in force.
        batches: batches that are not over, or ended within a day.
        schedules: repeated batches, as ``batch schedules --json`` lists them.
    """

    services: tuple[Service, ...]
    gateways: tuple[dict[str, Any], ...]
    keys: int
    batches: tuple[BatchStatus, ...]
    schedules: tuple[dict[str, Any], ...]


@click.command(
    epilog=output.examples(
        "hpc-serve status", "hpc-serve status --watch", "hpc-serve status mistral"
    )
)
@click.argument("name", required=False)
@click.option("--watch", is_flag=True, help="Show everything anew every 5 s, until Ctrl-C.")
@output.home_option
@output.json_option
def status(name: str | None, *, watch: bool, home: str | None, as_json: bool) -> None:
    """Show everything at a glance, or the replicas of the service NAME."""
    if name is None:
        return show(directory.home(home), watch=watch, as_json=as_json)
    from hpc.services import lifecycle, reach

    root = directory.home(home)
    found = reach.with_notes(root, lifecycle.find(root, name))
    if as_json:
        return output.print_json(service_text.as_dict(found))
    rows = [
        [
            str(r.number),
            r.phase.value,
            r.job.job_id if r.job else "-",
            r.status.state.value,
            r.endpoint.host if r.endpoint else ",".join(r.status.nodes) or "-",
            output.left(r.status.end_at),
            r.note or "",
        ]
        for r in found.replicas
    ]
    return output.print_table(
        ["REPLICA", "PHASE", "JOB", "STATE", "NODE", "TIME LEFT", "NOTE"], rows
    )


def look(root: Path) -> Overview:
    """Return the present overview.

    Args:
        root: the state directory.
    """
    from hpc.batch.schedule import schedules
    from hpc.cli.batch.schedule import described
    from hpc.cli.gateway import describe
    from hpc.gateway import control as gateways
    from hpc.keys import store
    from hpc.services import lifecycle

    here = gateways.find(root)
    keys = store.load(directory.keys_path(root))
    return Overview(
        tuple(lifecycle.look(root)),
        tuple(describe(record, here) for record in gateways.find_all(root)),
        sum(key.revoked is None for key in keys),
        tuple(_batches(root)),
        tuple(described(root, one) for one in schedules.load_all(root)),
    )


def _batches(root: Path) -> list[BatchStatus]:
    """Return the batches that are not over, or ended within a day."""
    from hpc.batch import control, report
    from hpc.batch.folder import BatchFolder

    found, since = [], time.time() - RECENT_S
    for batch in control.ids(root):
        # The report is one file; a look at a batch asks the scheduler and reads its answers.
        made = report.report(BatchFolder.of(root, batch).path)
        if made is None or made.get("ended_at", 0.0) > since:
            found.append(control.look(root, batch))
    return [one for one in found if one.state != "CANCELLED" or one.spec.made_at > since]


def show(root: Path, *, watch: bool, as_json: bool) -> None:
    """Print the overview, once or until Ctrl-C.

    Args:
        root: the state directory.
        watch: print again every five seconds.
        as_json: print JSON, once.
    """
    seen = look(root)
    if as_json:
        return output.print_json(as_dict(seen))
    _print(seen)
    while watch:
        time.sleep(WATCH_S)
        seen = look(root)
        click.clear()
        _print(seen)
    return None


def _print(seen: Overview) -> None:
    if seen.services:
        columns = ["SERVICE", "MODEL", "READY", "NODES", "ENDS IN", "STATE"]
        _table(columns, [_service(one) for one in seen.services])
    if seen.gateways:
        rows = [_gateway(one, seen.keys) for one in seen.gateways]
        _table(["GATEWAY", "MACHINE", "UP", "KEYS", "STATE"], rows)
    if seen.batches:
        _table(["BATCH", "DONE", "FAILED", "STATE"], [_batch(one) for one in seen.batches])
    if seen.schedules:
        rows = [[one["id"], one["next"], one["trouble"] or ""] for one in seen.schedules]
        _table(["SCHEDULE", "NEXT", "TROUBLE"], rows)
    if not (seen.services or seen.gateways or seen.batches or seen.schedules):
        output.echo("nothing runs: no service, gateway, batch or schedule")
    output.echo(f"next: {next_step(seen)}")


def _table(columns: list[str], rows: list[list[str]]) -> None:
    output.print_table(columns, rows)
    output.echo()


def _service(one: Service) -> list[str]:
    nodes = {r.endpoint.host for r in one.replicas if r.endpoint} | {
        node for r in one.replicas for node in r.status.nodes
    }
    ends = [r.status.end_at for r in one.replicas if r.status.end_at is not None]
    return [
        one.spec.name,
        Path(one.spec.model).name,
        f"{one.ready}/{len(one.replicas)}",
        ",".join(sorted(nodes)) or "-",
        output.left(min(ends, default=None)),
        _state(one),
    ]


def _state(one: Service) -> str:
    """Return the phases, and the first reason of a replica that is not ready."""
    notes = [r.note for r in one.replicas if r.note and r.phase is not Phase.READY]
    return f"{phases(one)}: {notes[0]}" if notes else phases(one)


def _gateway(row: dict[str, Any], keys: int) -> list[str]:
    return [row["address"], row["hostname"], row["up"], str(keys), row["state"]]


def _batch(one: BatchStatus) -> list[str]:
    from hpc.cli.batch.text import waits

    reasons = waits(one) or [status.reason for _, status in one.jobs if status.reason]
    why = f": {reasons[0]}" if reasons and one.state not in ENDED else ""
    return [one.spec.id, f"{one.done}/{one.spec.rows}", str(one.failed), one.state + why]


def next_step(seen: Overview) -> str:
    """Return the command that most likely comes next."""
    failed = [one for one in seen.services if any(r.phase is Phase.FAILED for r in one.replicas)]
    loading = [one for one in seen.services if not one.ready]
    if failed:
        return f"hpc-serve logs {failed[0].spec.name}"
    if loading:
        return f"hpc-serve wait {loading[0].spec.name}"
    if not seen.services:
        return "hpc-serve submit NAME, or hpc-serve init for a first models.yaml"
    if not any(row["state"] == "running" for row in seen.gateways):
        return "hpc-serve gateway start"
    name = seen.services[0].spec.name
    return f'hpc-serve chat {name} "Hello", or on a laptop: hpc-serve connect USER@{_login()}'


def _login() -> str:
    return socket.gethostname()


def as_dict(seen: Overview) -> dict[str, Any]:
    """Return the overview for JSON output, without secrets."""
    from hpc.cli.batch.text import as_dict as batch

    return {
        "services": [service_text.as_dict(one) for one in seen.services],
        "gateways": list(seen.gateways),
        "keys": seen.keys,
        "batches": [batch(one) for one in seen.batches],
        "schedules": list(seen.schedules),
        "next": next_step(seen),
    }
