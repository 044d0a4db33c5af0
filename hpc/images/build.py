"""Container images, built by Apptainer as an ordinary user, here or in a job; all or nothing."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpc import apptainer, render
from hpc.errors import CommandError, ConfigError, SchedulerError, StateError
from hpc.images import apt_settings, carried, pip_settings
from hpc.images.workplace import workplace
from hpc.jobs import api as jobs
from hpc.processes import programs
from hpc.state import files, private

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hpc.images.carried import Carried
    from hpc.model import JobHandle

POLL_S = 0.2
JOB_POLL_S = 3.0
LAST_WORDS = 12
SUPERUSER_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
"""Folders of debootstrap and its programs, which an ordinary user's PATH lacks."""
NOTE = "[note] "
"""Prefix of hpc-serve's own lines, beside Apptainer's, in the log of a build."""


@dataclass(frozen=True, slots=True)
class BuildImage:
    """An image to build; callable, and picklable as the task of a job.

    Attributes:
        name: a key of ``render.DEFINITIONS``.
        output: the SIF to write, absolute.
        settings: variables of the definition, see ``render.definition``.
        binds: folders of this machine for %post and %test, ``SRC[:DEST]``.
        wheel_dir: folder of wheels that pip searches first, or None.
        apptainer_args: further arguments of ``apptainer build``.
        program: Apptainer's name or path.
        templates: a folder whose templates replace the bundled ones, or None.
        force: replace an existing image.
    """

    name: str
    output: str
    settings: Mapping[str, str] = field(default_factory=dict)
    binds: tuple[str, ...] = ()
    wheel_dir: str | None = None
    apptainer_args: tuple[str, ...] = ()
    program: str = "apptainer"
    templates: str | None = None
    force: bool = False

    def __call__(self) -> None:
        """Build the image, and print Apptainer's output line by line."""
        build(self, tell=lambda line: print(line, flush=True))  # noqa: T201 - a job's log

    @property
    def log(self) -> Path:
        """The file with Apptainer's output."""
        return Path(self.output).with_suffix(".build.log")


def build(order: BuildImage, *, tell: Callable[[str], None] | None = None) -> Path:
    """Build an image; the file appears only when complete and past its own test.

    Args:
        order: what to build.
        tell: called with each line of the log: first those that begin with ``NOTE``, on settings
            of this machine that the build does not get, then all that Apptainer writes.

    Returns:
        The SIF.

    Raises:
        StateError: the image exists already, or its folder cannot be written.
        ConfigError: the definition cannot be rendered.
        CommandError: Apptainer is not installed, or failed; names the cause.
    """
    settings = _carried(order)
    text = _definition(order, settings)
    output = Path(order.output)
    programs.find_program(order.program, hint="build on a node that has it: --in-job")
    try:
        files.make_folder(output.parent)
        with workplace(output.parent) as folder:
            (folder / "image.def").write_text(text, encoding="utf-8")
            image, definition = _run(order, settings, folder, tell)
            definition.chmod(private.user_mode())
            definition.replace(output.with_suffix(".def"))
            image.replace(output)
    except OSError as error:
        raise StateError(f"cannot write {output}: {error.strerror}") from error
    return output


def check(order: BuildImage) -> str:
    """Return the definition of an image to build.

    Raises:
        StateError: the image exists already.
        ConfigError: the definition cannot be rendered, or a bind is no folder.
    """
    return _definition(order, _carried(order))


def _definition(order: BuildImage, settings: Sequence[Carried]) -> str:
    if Path(order.output).exists() and not order.force:
        raise StateError(f"the image {order.output} is there already", hint="replace it: --force")
    given = _given_binds(order)
    for bind in given:
        if "," in bind or bind.count(":") != 1:
            raise ConfigError(f"Apptainer cannot bind {bind}: it splits at colons and commas")
        source = bind.partition(":")[0]
        if not Path(source).is_dir():
            raise ConfigError(f"there is no folder {source} to show to the build")
    return render.definition(
        order.name,
        _settings(order.settings),
        folders=[*(bind.partition(":")[2] for bind in given), *_shown(settings)],
        templates=Path(order.templates) if order.templates else None,
    )


def wait(order: BuildImage, job: JobHandle, *, tell: Callable[[str], None] | None = None) -> Path:
    """Wait for the end of an image's build job.

    Args:
        order: the image.
        job: the submitted job.
        tell: called with each line of the job's log.

    Returns:
        The SIF.

    Raises:
        CommandError: the job ended without an image; names the cause.
        SchedulerError: the job waits for what no time brings, such as a shorter walltime.
    """
    seen = 0
    while True:
        status = jobs.statuses([job])[job.key]
        # An earlier build of this image may have left a log.
        if order.log.exists() and order.log.stat().st_mtime >= job.submitted_at:
            seen = _follow(order.log, seen, tell)
        if status.state.over:
            break
        if status.blocked:
            raise SchedulerError(
                f"the build waits in vain (job {job.job_id}): {status.reason}",
                hint=f"free a held job with 'scontrol release {job.job_id}'; otherwise"
                f" 'scancel {job.job_id}', and build with other resources",
            )
        time.sleep(JOB_POLL_S)
    made = Path(order.output)
    if not made.exists() or made.stat().st_mtime < job.submitted_at:
        told = _last_words(order.log) if order.log.exists() else status.reason or "nothing is known"
        raise CommandError(
            f"job {job.job_id} ended without the image {order.output}: {told}",
            hint=f"all it said is in {order.log}",
        )
    return made


def _settings(given: Mapping[str, str]) -> dict[str, str]:
    wanted = given.get("bootstrap") == "debootstrap" and not given.get("mirror")
    return {**given, "mirror": apt_settings.mirror()} if wanted else dict(given)


def _carried(order: BuildImage) -> list[Carried]:
    """Return the settings of the machine's pip and apt for a build."""
    settings = _settings(order.settings)
    mirror = settings["mirror"] if settings.get("bootstrap") == "debootstrap" else None
    return [
        pip_settings.carried(
            os.environ, seen_as=render.BUILD_FOLDER, find_links=[render.WHEEL_FOLDER]
        ),
        apt_settings.carried(render.BUILD_FOLDER, mirror=mirror),
    ]


def _given_binds(order: BuildImage) -> tuple[str, ...]:
    """Return the binds of the user's options, as ``SRC:DEST``."""
    wheels = [f"{order.wheel_dir}:{render.WHEEL_FOLDER}"] if order.wheel_dir else []
    given = [bind if ":" in bind else f"{bind}:{bind}" for bind in order.binds]
    return tuple(dict.fromkeys([*wheels, *given]))


def _shown(settings: Sequence[Carried]) -> list[str]:
    """Return the folders that settings name."""
    return [folder for part in settings for folder in part.folders]


def _run(
    order: BuildImage,
    settings: Sequence[Carried],
    folder: Path,
    tell: Callable[[str], None] | None,
) -> tuple[Path, Path]:
    """Run Apptainer in a folder with a definition; return the image and the definition."""
    definition, image = folder / "image.def", folder / "image.sif"
    carried.write(folder / "settings", *settings)
    argv = apptainer.build_argv(
        image,
        definition,
        binds=(
            f"{folder}/settings:{render.BUILD_FOLDER}:ro",
            # Not to be written to: the build's root is the caller on this machine.
            *(f"{path}:{path}:ro" for path in _shown(settings)),
            *_given_binds(order),
        ),
        extra=order.apptainer_args,
        program=order.program,
    )
    order.log.unlink(missing_ok=True)
    notes = [f"{NOTE}{line}\n" for part in settings for line in part.left_out]
    files.write_text(order.log, "".join(notes))
    # Leashed: with its parent killed, it would go on with copies of passwords.
    running = programs.spawn(
        argv,
        log=order.log,
        env=_environ(),
        cwd=folder,
        leashed=True,
        umask=private.user_umask(),
    )
    seen = 0
    try:
        while running.poll() is None:
            time.sleep(POLL_S)
            seen = _follow(order.log, seen, tell)
    finally:
        code = programs.stop(running)
    _follow(order.log, seen, tell)
    if code != 0 or not image.exists():
        raise CommandError(
            f"apptainer could not build {order.name}: {_last_words(order.log)}",
            hint=f"all it said is in {order.log}",
            returncode=code,
        )
    return image, definition


def _environ() -> dict[str, str]:
    """Return the environment of Apptainer and so of %post.

    Variables of pip are in pip's settings instead, with paths of the build.
    """
    kept = {key: text for key, text in os.environ.items() if not key.startswith("PIP_")}
    kept.pop("NETRC", None)
    return {**kept, "PATH": f"{os.environ.get('PATH', '')}:{SUPERUSER_PATH}"}


def _follow(log: Path, seen: int, tell: Callable[[str], None] | None) -> int:
    """Pass on the lines of a log from a byte offset; return the offset after the last line."""
    if tell is None or not log.exists():
        return seen
    with log.open("rb") as file:
        file.seek(seen)
        whole, mark, _ = file.read().rpartition(b"\n")
    for line in whole.decode(errors="replace").splitlines():
        tell(line)
    return seen + len(whole) + len(mark)


def _last_words(log: Path) -> str:
    """Return the last error of a failed build, before Apptainer's own conclusion."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    lines = [line for line in lines[-LAST_WORDS:] if line]
    telling = [line for line in lines if not line.startswith(("INFO:", "FATAL:", "+", NOTE))]
    return (telling or lines or ["it said nothing"])[-1][:300]
