"""A new site's first models.yaml and site file, from the site's own reports."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpc import config, own_source, slurm
from hpc.errors import CommandError, ConfigError, StateError
from hpc.jobs import api as jobs
from hpc.processes import programs
from hpc.slurm import Permissions
from hpc.state import files

if TYPE_CHECKING:
    from collections.abc import Sequence
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
        permissions: the user's accounts, QOS and partitions.
    """

    partitions: tuple[Partition, ...] = ()
    container: str | None = None
    accounting: bool = False
    needs_account: bool = False
    kill_wait_s: int | None = None
    permissions: Permissions = field(default_factory=Permissions)


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
    # For ``connect``, whose login shell may not have this environment on its PATH.
    files.write_text(config.config_folder() / own_source.BIN_PATH, f"{own_source.programs()}\n")
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
        permissions=slurm.permissions(
            pwd.getpwuid(os.getuid()).pw_name, _groups(), settings.get("ClusterName")
        ),
    )


def _groups() -> set[str]:
    """Return the names of the user's groups; a group may have lost its name."""
    found = set()
    for number in {os.getgid(), *os.getgroups()}:
        with contextlib.suppress(KeyError):
            found.add(grp.getgrgid(number).gr_name)
    return found


def models_text(facts: Facts) -> str:
    """Return a first models.yaml: vLLM on a site with GPUs, else llama.cpp."""
    gpu = _gpu_partition(facts)
    lines = [
        "# Models to serve. One entry is one service; see it with: hpc-serve render sbatch NAME"
    ]
    lines += ["version: 1", "models:"]
    lines += _vllm_entry(facts, gpu) if gpu else _gguf_entry(facts)
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
    default = _cpu_partition(facts)
    if default is not None:
        lines += ["resources:", f"  partition: {_quoted(default.name)}"]
        lines += _charged(facts)
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


def _vllm_entry(facts: Facts, partition: Partition) -> list[str]:
    resources = [
        f"partition: {_quoted(partition.name)}",
        *_permission_keys(facts, partition),
        "gpus: 1",
        # Without a type Slurm may give a slice of a GPU.
        *([f"gpu_type: {_quoted(partition.gpu_types[0])}"] if _needs_type(partition) else []),
        f"cpus: {_share(partition.cpus, partition.gpus, 8)}",
        *_memory(partition, partition.gpus, 64),
        _walltime(partition),
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
    chosen = _cpu_partition(facts)
    if chosen is None:
        return [*entry, "    container: none   # needs the extra llamacpp of hpc-serve"]
    resources = [
        f"partition: {_quoted(chosen.name)}",
        *_permission_keys(facts, chosen),
        f"cpus: {min(8, max(1, chosen.cpus))}",
        *_memory(chosen, 1, 8),
        _walltime(chosen),
    ]
    return [
        *entry,
        "    image: llamacpp-debian.sif   # from: hpc-serve build llamacpp-debian",
        f"    resources: {{{', '.join(resources)}}}",
    ]


def _walltime(partition: Partition) -> str:
    minutes = min(HOURS_8, partition.max_minutes or HOURS_8)
    return f'time: "{config.format_time(minutes)}"'


def _memory(partition: Partition, parts: int, most_gib: int) -> list[str]:
    """Return the memory to ask for; nothing where Slurm does not know the nodes' memory.

    RealMemory is 1 where a site has not configured the memory of its nodes.
    """
    if partition.mem_mb <= 1:
        return []
    mib = _share(partition.mem_mb, parts, most_gib * GIB)
    return [f"mem: {mib // GIB}G" if mib >= GIB else f"mem: {mib}M"]


def _needs_type(partition: Partition) -> bool:
    return bool(partition.gpu_parts and partition.gpu_types)


def _permission_keys(facts: Facts, partition: Partition) -> list[str]:
    """Return account and QOS where a partition refuses the defaults of the user."""
    needed = {
        "account": facts.permissions.needed_account(partition.name),
        "qos": facts.permissions.needed_qos(partition.name),
    }
    return [f"{key}: {_quoted(name)}" for key, name in needed.items() if name]


def _charged(facts: Facts) -> list[str]:
    """Return the lines of the site file on accounts and QOS."""
    known = facts.permissions
    accounts = list(dict.fromkeys(one.account for one in known.associations))
    qos = list(dict.fromkeys(qos for one in known.associations for qos in one.qos))
    told = known.default_account or "PROJECT"
    lines = []
    if accounts:
        lines.append(f"  # Your accounts: {', '.join(accounts)}; the default is {told}.")
    if accounts and known.default_account is None:
        lines.append(f"  account: {_quoted(accounts[0])}")
    else:
        lines.append(f"  # account: {_quoted(told)}")
    if qos:
        lines.append(f"  # Your QOS: {', '.join(qos)}")
    return [*lines, f"  # qos: {_quoted(qos[0]) if qos else 'normal'}"]


def _partition_lines(facts: Facts) -> list[str]:
    if not facts.partitions:
        return ["# There is no Slurm on this machine: services run here."]
    lines = ["#", "# Partitions, as sinfo reports them (the default one has a *):"]
    for p in facts.partitions:
        name = p.name + "*" * p.default
        gpus = f", {p.gpus} GPUs ({', '.join(p.gpu_types) or 'no type'})" if p.gpus else ""
        gpus += f", parts of GPUs ({', '.join(p.gpu_parts)})" if p.gpu_parts else ""
        memory = "memory not known" if p.mem_mb <= 1 else f"{p.mem_mb // GIB} GiB"
        lines.append(
            f"#   {name}: {p.nodes} nodes, up to {p.cpus} CPUs, {memory}{gpus} each, "
            f"walltime {config.format_time(p.max_minutes)}{_limits(facts, p)}"
        )
    return lines


def _limits(facts: Facts, p: Partition) -> str:
    """Return the reasons for which jobs of the user may not start in a partition."""
    told = [] if p.up else ["not up"]
    told += [f"{p.away} nodes down or drained"] if p.away else []
    told += [] if facts.permissions.opens(p.name) else ["not open to you"]
    return "".join(f", {one}" for one in told)


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
    found = [p for p in _usable(facts) if p.gpus]

    def fitness(p: Partition) -> tuple[bool, bool, bool, int]:
        name = p.name.lower()
        long_enough = p.max_minutes == 0 or p.max_minutes >= HOURS_8
        passing = any(word in name for word in PASSING)
        telling = any(word in name for word in ("gpu", "accel", *map(str.lower, p.gpu_types)))
        return long_enough and not passing, telling, p.default, p.nodes

    return max(found, key=fitness, default=None)


def _usable(facts: Facts) -> Sequence[Partition]:
    """Return the partitions that start jobs of the user."""
    return [
        p
        for p in facts.partitions
        if p.up and (p.away < p.nodes or not p.nodes) and facts.permissions.opens(p.name)
    ]


def _cpu_partition(facts: Facts) -> Partition | None:
    """Return the partition for jobs without GPUs: the default if it starts jobs of the user."""
    found = _usable(facts) or facts.partitions
    lasting = [p for p in found if not any(word in p.name.lower() for word in PASSING)]
    default = next((p for p in found if p.default), None)
    return default or next(iter(lasting or found), None)


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
