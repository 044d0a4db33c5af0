"""Text for others to run: batch scripts and container definitions, from Jinja2 templates."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpc import assets
from hpc.config import format_time
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from jinja2 import Environment

    from hpc.model import Resources, ServiceSpec

PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
OPTION = re.compile(r"[a-z][a-z0-9-]*")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
OURS = frozenset(
    {"array", "error", "job-name", "open-mode", "output", "requeue", "no-requeue", "signal", "wrap"}
)
"""sbatch options that a site or model may not change."""


@dataclass(frozen=True, slots=True)
class SbatchJob:
    """What one batch script runs, apart from what it asks for.

    Attributes:
        command: a simple shell command, quoted by whoever made it.
        stdout: file name pattern of sbatch for the standard output.
        stderr: the same for the standard error.
        signal_s: seconds before the walltime at which the command gets SIGUSR2.
        array: indices as sbatch reads them, such as ``0-9%4``; None is no array.
        requeue: whether Slurm may start it again.
    """

    command: str
    stdout: str
    stderr: str
    job_name: str
    signal_s: int = 90
    array: str | None = None
    requeue: bool = True


def sbatch(spec: ServiceSpec, job: SbatchJob, templates: Path | None = None) -> str:
    """Return the batch script of one replica.

    Args:
        spec: the service.
        job: what to run.
        templates: a folder whose templates win over ours.

    Raises:
        ConfigError: a value cannot stand in a batch script, or a template is faulty.
    """
    return script(spec.engine, job, spec.resources, setup=spec.setup, templates=templates)


def script(
    template: str,
    job: SbatchJob,
    resources: Resources,
    *,
    setup: Sequence[str] = (),
    templates: Path | None = None,
) -> str:
    """Return the batch script of any job.

    Args:
        template: vllm, llamacpp, batch or gateway.
        job: what to run.
        resources: what it asks of Slurm.
        setup: shell lines before it.
        templates: a folder whose templates win over ours.

    Raises:
        ConfigError: a value cannot stand in a batch script, or a template is faulty.
    """
    for option in resources.extra:
        if option in OURS or not OPTION.fullmatch(option):
            raise ConfigError(f"{option!r} is no sbatch option that a model or site can set")
    values = {"job": job, "resources": resources, "setup": setup}
    return _render("slurm_templates", f"{template}.sbatch.j2", values, templates)


def directive(option: str, value: str | int | None = None) -> str:
    """Return one line of options for sbatch, quoted as sbatch reads it.

    sbatch splits these lines itself: quotes group, and unlike in a shell a backslash escapes
    inside single quotes too (Slurm, src/sbatch/opt.c, ``_get_argument``).

    Raises:
        ConfigError: the value holds a line break or another control character.
    """
    if value is None or value == "":
        return f"#SBATCH --{option}"
    text = str(value)
    if CONTROL.search(text):
        raise ConfigError(f"sbatch option {option} cannot hold a line break: {text!r}")
    if not PLAIN.fullmatch(text):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        text = f'"{escaped}"'
    return f"#SBATCH --{option}={text}"


def _render(kind: assets.Kind, name: str, values: Mapping[str, Any], templates: Path | None) -> str:
    from jinja2 import TemplateError  # noqa: PLC0415 - most commands render nothing

    try:
        text: str = _environment(kind, templates).get_template(name).render(values)
    except TemplateError as error:
        raise ConfigError(
            f"cannot render {name}: {error.message or type(error).__name__}"
        ) from error
    return text


def _environment(kind: assets.Kind, templates: Path | None) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415

    environment = Environment(
        loader=FileSystemLoader(assets.folders(kind, templates)),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - shell scripts, no HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    environment.globals |= {"directive": directive, "format_time": format_time}
    return environment
