"""The commands ``batch schedules``, ``unschedule`` and ``tick``: repeated batches."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from hpc.cli import output
from hpc.state import directory

if TYPE_CHECKING:
    from hpc.batch.schedule.schedules import Schedule

FAILED = 9


@click.command(epilog=output.examples("hpc-serve batch schedules"))
@output.home_option
@output.json_option
def schedules(*, home: str | None, as_json: bool) -> None:
    """List the schedules made with --every, and their last runs."""
    from hpc.batch.schedule import schedules as batch_schedules

    root = directory.home(home)
    found = [described(root, one) for one in batch_schedules.load_all(root)]
    if as_json:
        return output.print_json(found)
    rows = [
        [one["id"], one["when"], one["next"], one["via"], _last(one["runs"]), one["trouble"] or ""]
        for one in found
    ]
    return output.print_table(["SCHEDULE", "WHEN", "NEXT", "BY", "LAST RUN", "TROUBLE"], rows)


@click.command(epilog=output.examples("hpc-serve batch unschedule every-1"))
@click.argument("schedule_id", metavar="ID")
@output.home_option
def unschedule(schedule_id: str, home: str | None) -> None:
    """End a schedule; a run that has begun goes on."""
    from hpc.batch.schedule import schedules as batch_schedules

    batch_schedules.remove(directory.home(home), schedule_id)
    output.echo(f"no more runs of {schedule_id}")


@click.command(hidden=True, epilog=output.examples("hpc-serve batch tick every-1"))
@click.argument("schedule_id", metavar="ID")
@output.home_option
@click.pass_context
def tick(ctx: click.Context, schedule_id: str, home: str | None) -> None:
    """Start the due run of a schedule; called by the schedule's own jobs."""
    from hpc import config
    from hpc.batch.schedule.run_due import tick as run

    loaded = config.load(home=home)
    said = run(loaded.home, schedule_id, loaded.site)
    output.echo(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {said}")
    ctx.exit(FAILED if said.startswith("failed") else 0)


def describe(one: Schedule) -> dict[str, Any]:
    """Return a schedule for JSON output."""
    from hpc.batch.schedule import cron

    return {
        "id": one.id,
        "when": one.when,
        "next": cron.following(one.when).strftime("%Y-%m-%d %H:%M"),
        "via": one.via,
        "words": list(one.words),
        "folder": one.cwd,
    }


def described(root: Any, one: Schedule) -> dict[str, Any]:
    """Return a schedule with its runs and its trouble, if any."""
    from hpc.batch.schedule import schedules as batch_schedules

    runs = batch_schedules.runs(root, one.id)
    return describe(one) | {"runs": runs, "trouble": batch_schedules.trouble(root, one)}


def _last(runs: list[dict[str, Any]]) -> str:
    if not runs:
        return "none yet"
    last = runs[-1]
    return f"{output.duration(time.time() - last['at'])} ago {last['result']}: {last['text']}"
