"""The commands ``batch submit`` and ``batch validate``: from a file to jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli import output
from hpc.cli.services import ADHOC, FLAGS, adhoc_entry, local_option, place_of_jobs, tell_place
from hpc.state import records

if TYPE_CHECKING:
    from hpc.batch.submit import BatchOptions
    from hpc.config import Config
    from hpc.model import ServiceSpec

FAULTY = 9
PATH = click.Path(path_type=Path)

WHEN = (
    click.option("--at", metavar="TIME", help="Earliest start, in the form of sbatch --begin."),
    click.option("--dependency", metavar="D", help="Start after other jobs, such as afterok:123."),
    click.option(
        "--every",
        metavar="CRON",
        help="Repeat the batch: five fields of crontab(5). Paths may hold {date} and {time}.",
    ),
    click.option(
        "--every-partition",
        metavar="P",
        help="Partition of the small job that starts each run  [default: the model's].",
    ),
    click.option(
        "--max-hours",
        type=click.FloatRange(min=0, min_open=True),
        metavar="H",
        help="Pause after H hours of work; batch resume or the next run continues.",
    ),
    click.option("--on-done", metavar="COMMAND", help="Shell command to run at the end."),
    click.option("--mail", metavar="ADDRESS", help="Address for Slurm's mails on a job's end."),
)
HOW = (
    click.option(
        "--workers", type=click.IntRange(1), default=1, show_default=True, help="Number of jobs."
    ),
    click.option("--template", type=PATH, help="Jinja2 template of the message for a table's row."),
    click.option("--overwrite", is_flag=True, help="Replace an output file that exists."),
    click.option(
        "--any-model", is_flag=True, help="Answer every line, whatever model the line names."
    ),
    click.option("--skip-bad", is_flag=True, help="Skip faulty lines instead of refusing FILE."),
    click.option(
        "--request-timeout",
        type=float,
        default=600,
        show_default=True,
        metavar="S",
        help="Seconds for one try of a request.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0),
        default=5,
        show_default=True,
        help="Further tries of a failed request.",
    ),
    click.option(
        "--model-patience",
        type=click.FloatRange(min=0),
        default=3600,
        show_default=True,
        metavar="S",
        help="With --service: seconds without the model until the batch pauses.",
    ),
    click.option(
        "--in-flight",
        type=click.IntRange(1),
        default=256,
        show_default=True,
        help="Most requests in flight per worker.",
    ),
)


@click.command(
    epilog=output.examples(
        "hpc-serve batch submit prompts.jsonl -o answers.jsonl --name mistral --workers 4",
        "hpc-serve batch submit prompts.jsonl -o answers.jsonl --service mistral",
        "hpc-serve batch submit table.parquet -o answers.parquet --name mistral --template q.j2",
        "hpc-serve batch submit in.jsonl -o 'out-{date}.jsonl' --name m --every '0 22 * * mon-fri'",
    )
)
@click.argument("path", type=PATH, metavar="FILE")
@click.option(
    "-o",
    "--output",
    "out",
    required=True,
    type=PATH,
    help="File for the answers; {date} and {time} in its name are filled in.",
)
@click.option("--name", metavar="NAME", help="Model of models.yaml for each job to serve.")
@click.option("--service", metavar="NAME", help="Running service that answers, without jobs.")
@output.with_options(WHEN)
@output.with_options(HOW)
@output.with_options(ADHOC)
@output.with_options(tuple(flag for flag in FLAGS if flag is not FLAGS[0]))
@local_option
@output.models_option
@output.home_option
@output.json_option
@click.pass_context
def submit(ctx: click.Context, /, *, as_json: bool, **options: Any) -> None:
    """Check FILE, and submit jobs that answer its requests."""
    from hpc.batch import submit as batch_submit

    loaded, serves = _served(options)
    if options["every"] is not None:
        return _schedule(ctx, loaded, serves, options, as_json=as_json)
    if options["every_partition"] is not None:
        raise click.UsageError("--every-partition needs --every")
    told = [f"--{name}" for name in ("at", "dependency", "mail") if options[name]]
    if told and serves is None:
        raise click.UsageError(
            f"{' and '.join(told)} are for Slurm; the workers of --service run on this machine"
        )
    if serves is None:
        _check_service(loaded.home, str(options["service"]))
    asked = _wanted(serves, options)
    where = place_of_jobs(local=options["local"] or serves is None)
    spec = batch_submit.submit(
        loaded.home,
        asked,
        engine=serves,
        cluster=where,
        site=loaded.site,
        watch=lambda found: output.counted(found, f"reading {asked.path.name}"),
        tell=output.note,
    )
    if serves is not None:
        tell_place(f"batch {spec.id}", where, local=options["local"])
    if as_json:
        return output.print_json(records.encode(spec))
    output.echo(f"batch {spec.id}: {spec.rows} requests, {spec.workers} worker(s)")
    output.echo(f"  next: hpc-serve batch status {spec.id} --watch")
    return None


def _served(options: dict[str, Any]) -> tuple[Config, ServiceSpec | None]:
    """Return the configuration, and the model for each job to serve or None."""
    from hpc import config
    from hpc.services.lifecycle import wanted as find_service

    name, model, service = options["name"], options["model"], options["service"]
    if options["engine"] is None and model is not None and name is None:
        name, model = model, None  # --model alone names a model of models.yaml
    entry = None
    if not service:
        entry = adhoc_entry(name, options["engine"], model, options["engine_args"])
    flags = {key: options[key] for key in output.names_of(FLAGS) if key in options}
    loaded = config.load(
        models_file=options["models_file"], flags=flags, home=options["home"], adhoc=entry
    )
    if service:
        return loaded, None
    return loaded, find_service(loaded, entry["name"] if entry else str(name))


def _wanted(serves: ServiceSpec | None, options: dict[str, Any]) -> BatchOptions:
    from hpc.batch import submit as batch_submit

    extra = {"begin": options["at"], "dependency": options["dependency"]}
    if options["mail"]:
        extra |= {"mail-type": "END,FAIL", "mail-user": options["mail"]}
    return batch_submit.BatchOptions(
        options["path"].absolute(),
        Path(batch_submit.dated(str(options["out"].absolute()))),
        serves.name if serves else str(options["service"]),
        workers=options["workers"],
        extra={key: value for key, value in extra.items() if value},
        by_gateway=serves is None,
        skip_bad=options["skip_bad"],
        timeout_s=options["request_timeout"],
        retries=options["retries"],
        in_flight=options["in_flight"],
        template=options["template"],
        max_hours=options["max_hours"],
        on_done=options["on_done"],
        model_patience_s=options["model_patience"],
        overwrite=options["overwrite"],
        any_model=options["any_model"],
    )


def _schedule(
    ctx: click.Context,
    loaded: Config,
    serves: ServiceSpec | None,
    options: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Repeat the same command line by a schedule."""
    from hpc.batch.schedule import schedules as batch_schedules
    from hpc.cli.batch.schedule import describe

    if serves is None:
        raise click.UsageError(
            "--every needs jobs with engines of their own (--name): runs start on a compute node, "
            "where the gateway of --service does not listen"
        )
    if options["local"]:
        raise click.UsageError("--every needs Slurm; leave --local out")
    if options["at"] or options["dependency"]:
        raise click.UsageError("--every sets the times; leave --at and --dependency out")
    # Each run submits once, and 'batch tick' adds --json and --home itself.
    words = output.words(ctx, leave_out=("every", "every_partition", "as_json", "home"))
    made = batch_schedules.make(
        loaded.home,
        when=options["every"],
        words=words,
        output=str(options["out"]),
        resources=serves.resources,
        partition=options["every_partition"],
        site=loaded.site,
    )
    if as_json:
        return output.print_json(describe(made))
    output.echo(f"schedule {made.id}: next run {describe(made)['next']}, started by {made.via}")
    output.echo(
        f"  see it with: hpc-serve batch schedules; end it with: batch unschedule {made.id}"
    )
    return None


def _check_service(root: Path, service: str) -> None:
    """Check that the machine's gateway runs, takes the owner's key and has the model."""
    from hpc.errors import GatewayError
    from hpc.gateway import control, owner_access

    record = control.find(root)
    if record is None:
        raise GatewayError("no gateway runs on this machine", hint="hpc-serve gateway start")
    known = owner_access.models(record, owner_access.owner_key(root))
    if service not in known:
        told = f"the gateway has no model {service!r}; it has {', '.join(sorted(known)) or 'none'}"
        raise GatewayError(told, hint="start it with 'hpc-serve submit', then batch submit")


@click.command(epilog=output.examples("hpc-serve batch validate prompts.jsonl"))
@click.argument("path", type=PATH, metavar="FILE")
@click.option(
    "--name",
    "--service",
    "name",
    metavar="NAME",
    help="Model of the batch, as in batch submit: other models are faulty.",
)
@click.option("--template", type=PATH, help="Jinja2 template of the message for a table's row.")
@output.json_option
@click.pass_context
def validate(
    ctx: click.Context, path: Path, name: str | None, template: Path | None, *, as_json: bool
) -> None:
    """Check every line of FILE, and list the faulty lines."""
    from hpc.batch.input import intake
    from hpc.batch.input.jsonl import ANY

    found = intake.read(path, name or ANY, template)
    seen = intake.validate(output.counted(found, f"reading {path.name}"))
    if as_json:
        bad = [{"line": one.number, "reason": one.reason} for one in seen.first]
        output.print_json({"good": seen.good, "bad": seen.bad, "first": bad})
    else:
        for one in seen.first:
            output.echo(f"{path}:{one.number}: {one.reason}")
        output.echo(f"{seen.good} requests, {seen.bad} faulty line(s)")
    ctx.exit(FAULTY if seen.bad else 0)
