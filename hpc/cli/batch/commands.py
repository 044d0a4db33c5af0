"""The commands ``batch``: files of requests, answered by jobs."""

from __future__ import annotations

import time
from typing import Any

import click

from hpc.cli import output
from hpc.cli.batch.report import report
from hpc.cli.batch.schedule import schedules, tick, unschedule
from hpc.cli.batch.submit import submit, validate
from hpc.cli.batch.text import as_dict, on_done, progress
from hpc.cli.guesses import GuessingGroup
from hpc.cli.services import FLAGS
from hpc.state import directory, files

OVER = frozenset({"DONE", "PAUSED", "CANCELLED", "STOPPED"})
WATCH_S = 2.0
MAY_DIFFER = {"partition", "account", "qos", "constraint", "gpu_type", "cpus", "mem", "time"}
PLACE = tuple(flag for flag in FLAGS if set(output.names_of((flag,))) <= MAY_DIFFER)
"""Options in which further workers may differ from the first."""


@click.group(cls=GuessingGroup, epilog=output.examples("hpc-serve batch ls"))
def batch() -> None:
    """Answer files of requests with jobs that survive crashes and walltimes."""


for command in (submit, validate, report, schedules, unschedule, tick):
    batch.add_command(command)


@batch.command(epilog=output.examples("hpc-serve batch ls"))
@output.home_option
@output.json_option
def ls(*, home: str | None, as_json: bool) -> None:
    """List batches and their progress."""
    from hpc.batch import control as batch_control

    root = directory.home(home)
    found = [batch_control.look(root, one) for one in batch_control.ids(root)]
    if as_json:
        return output.print_json([as_dict(one) for one in found])
    rows = [
        [one.spec.id, one.state, f"{one.done}/{one.spec.rows}", str(one.failed), one.spec.output]
        for one in found
    ]
    return output.print_table(["BATCH", "STATE", "DONE", "FAILED", "OUTPUT"], rows)


@batch.command(epilog=output.examples("hpc-serve batch status 1120-220000 --watch"))
@click.argument("batch_id", metavar="ID")
@click.option("--watch", is_flag=True, help="Show the progress until the batch is over.")
@output.home_option
@output.json_option
def status(batch_id: str, *, watch: bool, home: str | None, as_json: bool) -> None:
    """Show the progress of a batch and its workers."""
    from hpc.batch import control as batch_control

    root = directory.home(home)
    seen = batch_control.look(root, batch_id)
    with output.live() as show:
        while watch and seen.state not in OVER:
            show(progress(seen))
            time.sleep(WATCH_S)
            seen = batch_control.look(root, batch_id)
    if as_json:
        return output.print_json(as_dict(seen))
    output.echo(progress(seen))
    for line in on_done(seen):
        output.echo(f"--on-done: {line}")
    rows = [
        [w.name, w.job_id, w.host, w.phase, str(w.good), str(w.failed), str(w.in_flight)]
        for w in seen.workers
    ]
    return output.print_table(
        ["WORKER", "JOB", "NODE", "PHASE", "GOOD", "FAILED", "IN FLIGHT"], rows
    )


@batch.command(epilog=output.examples("hpc-serve batch pause 1120-220000"))
@click.argument("batch_id", metavar="ID")
@output.home_option
def pause(batch_id: str, home: str | None) -> None:
    """Pause a batch. Workers finish their requests in flight; 'batch resume' continues."""
    from hpc.batch import control as batch_control

    batch_control.stop(directory.home(home), batch_id, word="pause")
    output.echo(f"paused {batch_id}")


@batch.command(epilog=output.examples("hpc-serve batch cancel 1120-220000"))
@click.argument("batch_id", metavar="ID")
@output.home_option
def cancel(batch_id: str, home: str | None) -> None:
    """End the jobs of a batch. Its answers stay, and 'batch resume' continues."""
    from hpc.batch import control as batch_control

    batch_control.stop(directory.home(home), batch_id, word="cancel")
    output.echo(f"cancelled {batch_id}")


@batch.command(epilog=output.examples("hpc-serve batch rm 1120-220000"))
@click.argument("batch_ids", nargs=-1, required=True, metavar="ID...")
@output.home_option
def rm(batch_ids: tuple[str, ...], home: str | None) -> None:
    """Remove the folders of batches that are done or cancelled. Output files stay."""
    from hpc.batch import control as batch_control

    root = directory.home(home)
    for one in batch_ids:
        batch_control.remove(root, one)
        output.echo(f"removed {one}")


@batch.command(epilog=output.examples("hpc-serve batch resume 1120-220000"))
@click.argument("batch_id", metavar="ID")
@click.option("--workers", type=click.IntRange(1), help="Number of jobs [default: as submitted].")
@output.with_options(PLACE)
@output.home_option
def resume(batch_id: str, workers: int | None, home: str | None, **flags: Any) -> None:
    """Resume a batch: submit its missing workers."""
    from hpc import config
    from hpc.batch import control as batch_control

    loaded = config.load(home=home)
    made = batch_control.resume(
        loaded.home,
        batch_id,
        workers=workers,
        cluster=None,
        site=loaded.site,
        elsewhere=lambda resources: config.changed(resources, flags),
    )
    output.echo(f"submitted {made} worker(s)")


@batch.command(
    epilog=output.examples(
        "hpc-serve batch scale 1120-220000 8",
        "hpc-serve batch scale 1120-220000 8 --partition preempt --gpu-type l40s",
    )
)
@click.argument("batch_id", metavar="ID")
@click.argument("workers", type=click.IntRange(1), metavar="N")
@output.with_options(PLACE)
@output.home_option
def scale(batch_id: str, workers: int, home: str | None, **flags: Any) -> None:
    """Change a batch to N workers. New workers may use another partition or GPU type."""
    from hpc import config
    from hpc.batch import control as batch_control

    loaded = config.load(home=home)
    change = batch_control.scale(
        loaded.home,
        batch_id,
        workers,
        cluster=None,
        site=loaded.site,
        elsewhere=lambda resources: config.changed(resources, flags),
    )
    output.echo(f"{change:+d} worker(s)")


@batch.command(epilog=output.examples("hpc-serve batch retry 1120-220000"))
@click.argument("batch_id", metavar="ID")
@click.option("--errors", is_flag=True, help="Retry requests that ended in an error (the default).")
@output.home_option
def retry(batch_id: str, home: str | None, *, errors: bool) -> None:
    """Send the failed requests of a finished batch again."""
    from hpc import config
    from hpc.batch import control as batch_control

    del errors
    loaded = config.load(home=home)
    again = batch_control.retry(loaded.home, batch_id, cluster=None, site=loaded.site)
    output.echo(f"{again} request(s) are sent again")


@batch.command(epilog=output.examples("hpc-serve batch logs 1120-220000"))
@click.argument("batch_id", metavar="ID")
@output.home_option
def logs(batch_id: str, home: str | None) -> None:
    """Print the output of a batch's jobs."""
    from hpc.batch import control as batch_control
    from hpc.batch import submit as batch_submit
    from hpc.jobs import api as jobs

    root = directory.home(home)
    for handle in batch_submit.handles(
        directory.batch_dir(root, batch_control.look(root, batch_id).spec.id)
    ):
        for path in jobs.logs(handle):
            text = files.read_text(path)
            if text:
                output.echo(f"==> {path} <==\n{text}")
