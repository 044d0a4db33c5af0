"""A new site's first models.yaml and site file, from the site's own reports."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc import config, slurm
from hpc.errors import CommandError, ConfigError, StateError
from hpc.jobs import api as jobs
from hpc.processes import programs
from hpc.state import files

if TYPE_CHECKING:
    from pathlib import Path

    from hpc.slurm import Partition

MODELS = "models.yaml"
CONTAINERS = ("apptainer", "singularity")
SERVICE = "chat"
"""Name of the first service, whichever engine serves it, as the README submits it."""
VLLM_MODEL = "Qwen/Qwen2.5-7B-Instruct"
GGUF_MODEL = "Qwen/Qwen2.5-0.5B-Instruct-GGUF:qwen2.5-0.5b-instruct-q4_k_m.gguf"
HOURS_8 = 8 * 60
GIB = 1024
PASSING = ("preempt", "debug", "test", "dev", "interactive", "short")
"""Parts of the names of partitions that suit no service."""

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_YAML_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about a site.

    Attributes:
        partitions: Slurm's partitions; empty without Slurm.
        container: the container program on this machine, or None.
        accounting: whether sacct answers.
        needs_account: whether Slurm refuses jobs without an association.
        kill_wait_s: seconds from SIGTERM to SIGKILL of a cancelled job, or None.
    """

    partitions: tuple[Partition, ...] = ()
    container: str | None = None
    accounting: bool = False
    needs_account: bool = False
    kill_wait_s: int | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """The written files, and the commands that follow.

    Attributes:
        models: models.yaml.
        site: the site file.
        following: command lines, in their order.
    """

    models: Path
    site: Path
    following: tuple[str, ...]


def init(folder: Path, *, force: bool = False) -> Written:
    """Write models.yaml and the site file.

    Args:
        folder: folder for models.yaml.
        force: replace existing files.

    Raises:
        ConfigError: a file exists already; no file is then written.
        SchedulerError: Slurm did not answer.
        StateError: a file cannot be written.
    """
    models, site = folder.absolute() / MODELS, config.site_path()
    existing = next((path for path in (models, site) if path.exists()), None)
    if existing is not None and not force:
        raise ConfigError(f"{existing} exists already", hint="replace it with --force")
    facts = ask()
    new = not models.exists()
    files.write_text(models, models_text(facts))
    try:
        files.write_text(site, site_text(facts))
    except StateError:
        if new:
            models.unlink()
        raise
    return Written(models, site, following(facts))


def following(facts: Facts) -> tuple[str, ...]:
    """Return the commands that bring the first service up: its image where it has one, then it."""
    image = "vllm" if _gpu_partition(facts) else "llamacpp-debian"
    build = (f"hpc-serve build {image}",) if facts.partitions else ()
    return (f"hpc-serve render sbatch {SERVICE}", *build, f"hpc-serve submit {SERVICE} --wait")


def ask() -> Facts:
    """Collect the facts from Slurm and this machine.

    Raises:
        SchedulerError: Slurm did not answer.
    """
    container = next((name for name in CONTAINERS if _installed(name)), None)
    if jobs.default_cluster() == "local":
        return Facts(container=container)
    partitions = tuple(slurm.partitions())
    settings = slurm.site_settings()
    enforced = settings.get("AccountingStorageEnforce", "").lower()
    # scontrol prints "KillWait = 30 sec".
    wait = re.match(r"(\d+) sec", settings.get("KillWait", ""))
    return Facts(
        partitions,
        container,
        slurm.has_accounting(),
        needs_account="associations" in enforced,
        kill_wait_s=int(wait[1]) if wait else None,
    )


def models_text(facts: Facts) -> str:
    """Return a first models.yaml: vLLM on a site with GPUs, else llama.cpp."""
    gpu = _gpu_partition(facts)
    lines = [
        "# Models to serve. One entry is one service; see it with: hpc-serve render sbatch NAME"
    ]
    lines += ["version: 1", "models:"]
    lines += _vllm_entry(gpu) if gpu else _gguf_entry(facts)
    lines += [
        "",
        "  # A server that somebody else runs, for the gateway to route to:",
        "  # - name: llama3-8b-instruct",
        "  #   backend: vllm",
        "  #   backend_url: http://vllm-1:8000",
        "  #   format: chat_completions",
    ]
    return "\n".join(lines) + "\n"


def site_text(facts: Facts) -> str:
    """Return a first site file: defaults of every service, and commented examples."""
    lines = ["# What holds for every service of this site; models.yaml, variables and flags win."]
    lines += _partition_lines(facts)
    if facts.partitions and not facts.accounting:
        lines += [
            "#",
            "# sacct does not answer here: how a job ended is known for some minutes only.",
        ]
    if facts.needs_account:
        lines += ["#", "# Slurm takes no job here without an account that you belong to."]
    if facts.kill_wait_s is not None:
        lines += ["#", f"# A job that is cancelled gets {facts.kill_wait_s} s to end (KillWait)."]
    default = next((p for p in facts.partitions if p.default), None)
    if default is not None:
        lines += ["resources:", f"  partition: {_quoted(default.name)}"]
        lines += ["  # account: PROJECT", "  # qos: normal"]
    lines += _container_lines(facts)
    lines += [
        "# hf_home: /scratch/YOU/huggingface   # Hugging Face cache, on the shared file system",
        "# binds: [/scratch]                   # further folders that containers see",
        "# setup: [module load apptainer]      # shell lines at the start of every job",
        "# env: {HTTPS_PROXY: http://proxy:3128}",
        "# gateway_port: 8081",
        "# templates: templates                # folder with batch scripts that win over ours",
    ]
    return "\n".join(lines) + "\n"


def _vllm_entry(partition: Partition) -> list[str]:
    minutes = min(HOURS_8, partition.max_minutes or HOURS_8)
    resources = [
        f"partition: {_quoted(partition.name)}",
        "gpus: 1",
        f"cpus: {_share(partition.cpus, partition.gpus, 8)}",
        f"mem: {_share(partition.mem_mb // GIB, partition.gpus, 64)}G",
        f'time: "{config.format_time(minutes)}"',
    ]
    entry = [
        f"  - name: {SERVICE}",
        "    backend: vllm",
        f"    model: {VLLM_MODEL}   # or a folder of safetensors: /models/NAME",
        "    image: vllm.sif   # from: hpc-serve build vllm",
        "    replicas: 1",
        f"    resources: {{{', '.join(resources)}}}",
        "    engine_args: {max-model-len: 8192}",
    ]
    if len(partition.gpu_types) > 1:
        entry.insert(6, f"    # gpu_type may stand beside gpus: {', '.join(partition.gpu_types)}")
    return entry


def _gguf_entry(facts: Facts) -> list[str]:
    entry = [
        f"  - name: {SERVICE}",
        "    backend: llamacpp",
        f"    model: {GGUF_MODEL}   # or a file: /models/NAME.gguf",
    ]
    default = next((p for p in facts.partitions if p.default), None) or next(
        iter(facts.partitions), None
    )
    if default is None:
        return [*entry, "    container: none   # needs the extra llamacpp of hpc-serve"]
    minutes = min(HOURS_8, default.max_minutes or HOURS_8)
    memory = _share(default.mem_mb // GIB, 1, 8)
    time = config.format_time(minutes)
    resources = f"partition: {_quoted(default.name)}, cpus: {min(8, max(1, default.cpus))}"
    return [
        *entry,
        "    image: llamacpp-debian.sif   # from: hpc-serve build llamacpp-debian",
        f'    resources: {{{resources}, mem: {memory}G, time: "{time}"}}',
    ]


def _partition_lines(facts: Facts) -> list[str]:
    if not facts.partitions:
        return ["# There is no Slurm on this machine: services run here."]
    lines = ["#", "# Partitions, as sinfo reports them (the default one has a *):"]
    for p in facts.partitions:
        name = p.name + "*" * p.default
        gpus = f", {p.gpus} GPUs ({', '.join(p.gpu_types) or 'no type'})" if p.gpus else ""
        limit = config.format_time(p.max_minutes)
        state_word = "" if p.up else ", not up"
        lines.append(
            f"#   {name}: {p.nodes} nodes, up to {p.cpus} CPUs, {p.mem_mb // GIB} GiB{gpus} each, "
            f"walltime {limit}{state_word}"
        )
    return lines


def _container_lines(facts: Facts) -> list[str]:
    if facts.container is not None:
        return [f"apptainer: {facts.container}"]
    if not facts.partitions:
        return ["# There is no Apptainer on this machine.", "container: none"]
    return [
        "# There is no Apptainer on this machine; compute nodes may have one, say by a module.",
        "apptainer: apptainer",
    ]


def _gpu_partition(facts: Facts) -> Partition | None:
    """Return the GPU partition most suitable for services, or None."""
    found = [p for p in facts.partitions if p.gpus and p.up]

    def fitness(p: Partition) -> tuple[bool, bool, bool, int]:
        name = p.name.lower()
        long_enough = p.max_minutes == 0 or p.max_minutes >= HOURS_8
        passing = any(word in name for word in PASSING)
        telling = any(word in name for word in ("gpu", "accel", *map(str.lower, p.gpu_types)))
        return long_enough and not passing, telling, p.default, p.nodes

    return max(found, key=fitness, default=None)


def _share(whole: int, parts: int, most: int) -> int:
    """Return one GPU's share of a node, rounded down to a power of two, within a maximum."""
    share = whole // max(1, parts)
    return min(most, 1 << max(0, share.bit_length() - 1)) if share else 1


def _quoted(name: str) -> str:
    """Return a name as YAML text, quoted only if necessary."""
    plain = _PLAIN.fullmatch(name) and name.lower() not in _YAML_WORDS
    return name if plain else json.dumps(name)


def _installed(program: str) -> bool:
    try:
        programs.find_program(program)
    except CommandError:
        return False
    return True
