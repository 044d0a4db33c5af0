"""Apptainer's command lines, and the variables of a container. Pure.

A container sees the node's devices (GPUs, fabric, ``/dev/shm`` for NCCL) and the site's own
default binds, but neither the user's home nor the caller's folder nor variables: its HOME is a
private folder of this start, since the real one may be read-only or hold a stray ``.local``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from hpc.model import Accelerator

FLAGS: dict[Accelerator, tuple[str, ...]] = {"cuda": ("--nv",), "rocm": ("--rocm",), "none": ()}
APPTAINER, SINGULARITY = "APPTAINERENV_", "SINGULARITYENV_"
FOREIGN = (APPTAINER, SINGULARITY)


OPTION = re.compile(r"(?:APPTAINER|SINGULARITY)_(\w+)")
BINDS = frozenset({"BIND", "BINDPATH", "MOUNT"})
KEPT = BINDS | {
    "CACHEDIR", "CONFIGDIR", "CONFIG_FILE", "DEBUG", "DISABLE_CACHE", "DOCKER_HOST",
    "DOCKER_PASSWORD", "DOCKER_USERNAME", "ENCRYPTION_PASSPHRASE", "ENCRYPTION_PEM_PATH",
    "LOCALCACHEDIR", "MESSAGELEVEL", "NOCOLOR", "PULLDIR", "TMPDIR", "UNSQUASH", "USERNS",
}  # fmt: skip
"""Variables of Apptainer for binds, its own folders, logins and messages.

Each option of ``apptainer exec`` has a variable of its name. APPTAINER_NET or _CONTAINALL would
change the engine's surroundings, of which this module's command alone decides.
"""


def dropped(env: Mapping[str, str]) -> list[str]:
    """Return Apptainer's variables of a shell that do not reach Apptainer."""
    found = ((name, OPTION.fullmatch(name)) for name in sorted(env))
    return [name for name, match in found if match and match[1] not in KEPT and env[name]]


def shell_notes(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return sentences on a shell's variables for containers, one for each kind of effect."""
    found = {name: OPTION.fullmatch(name) for name in sorted(env)}
    bound = [name for name, match in found.items() if match and match[1] in BINDS and env[name]]
    foreign = sorted(name for name in env if name.startswith(FOREIGN))
    lost = dropped(env)
    return (
        *(f"{name} of this shell is honoured: {env[name]} is bound too" for name in bound),
        *([f"{', '.join(lost)}: no effect; write options under apptainer_args"] if lost else []),
        *([f"{', '.join(foreign)}: no effect; write variables under env"] if foreign else []),
    )


def exec_argv(
    image: str,
    argv: Sequence[str],
    *,
    run_dir: str,
    binds: Sequence[str] = (),
    accelerator: Accelerator = "none",
    extra: Sequence[str] = (),
    program: str = "apptainer",
) -> tuple[str, ...]:
    """Return the command that runs a program in an image.

    Args:
        image: path of a SIF or sandbox folder, or an address that Apptainer fetches.
        argv: the program in the image, with its arguments.
        run_dir: private folder of this start; ``run_dir/home`` becomes HOME.
        binds: ``SRC[:DEST[:ro]]`` as for --bind, or ``type=bind,...`` as for --mount.
        accelerator: driver libraries to bring into the container.
        extra: further arguments of ``apptainer exec``; as the last ones they win.
        program: Apptainer's name or path.
    """
    # --no-eval: without it Apptainer's start script evaluates values of variables as shell code.
    return (
        *(program, "exec", "--cleanenv", "--no-eval", "--no-mount", "cwd"),
        *("--home", f"{run_dir}/home", "--pwd", run_dir),
        *FLAGS[accelerator],
        *(word for bind in binds for word in (_bind_flag(bind), bind)),
        *extra,
        image,
        *argv,
    )


def _bind_flag(bind: str) -> str:
    return "--mount" if bind.startswith("type=") else "--bind"


def prefixes(version: str) -> tuple[str, ...]:
    """Return the prefixes by which a container program finds the variables of the container.

    SingularityCE and SingularityPRO read none of Apptainer's variables, and Apptainer 2 none of
    theirs. The name of the file tells nothing: Apptainer installs a link ``singularity`` to itself.

    Args:
        version: output of ``PROGRAM --version``, such as ``apptainer version 1.3.4`` or
            ``singularity-ce version 4.1.0``; of another text, both prefixes.
    """
    name = version.strip().lower()
    if name.startswith("apptainer"):
        return (APPTAINER,)
    return (SINGULARITY,) if name.startswith("singularity") else FOREIGN


def container_env(
    env: Mapping[str, str], base: Mapping[str, str], prefixes: Sequence[str] = (APPTAINER,)
) -> dict[str, str]:
    """Return the variables of the ``apptainer`` process, which passes on exactly *env*.

    The variables travel by environment, never by argument: every user of a node can read arguments.

    Args:
        env: variables of the program in the container.
        base: the caller's own variables, for Apptainer itself; variables meant for other
            containers, and for options of the command, are dropped.
        prefixes: prefixes that the program at hand reads.
    """
    lost = set(dropped(base))
    kept = {k: value for k, value in base.items() if k not in lost and not k.startswith(FOREIGN)}
    return kept | {prefix + key: value for prefix in prefixes for key, value in env.items()}


def build_argv(
    image: Path,
    definition: Path,
    *,
    binds: Sequence[str] = (),
    extra: Sequence[str] = (),
    program: str = "apptainer",
) -> tuple[str, ...]:
    """Return the command that builds an image as an ordinary user.

    Args:
        image: the SIF to write; must not exist.
        definition: the definition file.
        binds: ``SRC:DEST`` visible to %post and %test.
        extra: further arguments of ``apptainer build``.
        program: Apptainer's name or path.
    """
    mounts = (word for bind in binds for word in ("--bind", bind))
    return (program, "build", *mounts, *extra, str(image), str(definition))
