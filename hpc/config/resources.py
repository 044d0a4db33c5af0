"""One meaning for the many ways in which sites ask sbatch for GPUs, memory and CPUs. Pure.

An option in ``extra`` that asks for the same as a key of ``resources`` becomes that key. Layers
then override each other whatever their spelling, and the engine knows its GPUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpc.config.fields import MisplacedError
from hpc.config.units import parse_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OWN_KEYS = {
    "account": "account",
    "constraint": "constraint",
    "cpus-per-task": "cpus",
    "mem": "mem",
    "partition": "partition",
    "qos": "qos",
    "time": "time",
}
"""sbatch options that are keys of ``resources``, under the same name or another."""
AMOUNTS: dict[str, Callable[[str], int]] = {
    "mem-per-cpu": parse_memory,
    "mem-per-gpu": parse_memory,
    "cpus-per-gpu": int,
}
"""sbatch options that become keys of their own, each with its reader."""
GPU_OPTIONS = ("gpus", "gpus-per-node", "gpus-per-task", "gres")
NOT_READ = ("gpus-per-socket", "tres-per-job", "tres-per-node", "tres-per-socket", "tres-per-task")
SHARES = ("shard", "mps")
"""GRES that are a part of one GPU."""
ALTERNATIVES = (("mem", "mem_per_cpu", "mem_per_gpu"), ("cpus", "cpus_per_gpu"))
"""Keys of which sbatch takes one at most."""


def spelled(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry ``resources`` of one layer, its options of ``extra`` turned into keys.

    Args:
        said: the keys of the layer; a value None unsets the key of lower layers.

    Raises:
        MisplacedError: two keys ask for the same, or an option cannot be read.
    """
    if not said.get("extra"):
        _check_alternatives(said)
        return dict(said)
    extra: dict[str, str | None] = dict(said["extra"])
    for option, key in OWN_KEYS.items():
        if extra.get(option) is not None:
            raise _misplaced(option, f"write '{key}: {extra[option]}' in resources instead")
    for option in NOT_READ:
        if asks_for_gpus(option, extra.get(option)):
            raise _misplaced(option, "write 'gpus' and 'gpu_option' in resources instead")
    amounts = {option: extra.pop(option) for option in AMOUNTS.keys() & extra.keys()}
    read = {option.replace("-", "_"): _amount(option, text) for option, text in amounts.items()}
    found = {**said, **read, **_gpus(extra, said.get("gpus")), "extra": extra}
    _check_alternatives(found)
    return found


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry ``resources`` of two layers together; None above unsets a value below.

    Args:
        below: keys of the lower layers.
        above: keys of the next layer, from ``spelled``.
    """
    found = dict(below)
    for keys in ALTERNATIVES:
        if any(above.get(key) is not None for key in keys):
            found = {key: value for key, value in found.items() if key not in keys}
    extra = {} if above.get("extra", {}) is None else {**below.get("extra", {})}
    extra |= above.get("extra") or {}
    found |= {**above, "extra": extra}
    return {key: value for key, value in found.items() if value is not None}


def asks_for_gpus(option: str, value: str | None) -> bool:
    """Return whether an sbatch option asks for GPUs, or for a part of one.

    Args:
        option: long name without dashes.
        value: the option's value; None is no option.
    """
    if value is None or option not in (*GPU_OPTIONS, *NOT_READ):
        return False
    if not option.startswith(("gres", "tres")):
        return True
    return any(_kind(item) in ("gpu", *SHARES) for item in value.split(","))


def _kind(item: str) -> str:
    """Return the name of an item of --gres or --tres-per-task, such as gpu in gres/gpu:h100=2."""
    return item.strip().removeprefix("gres/").removeprefix("gres:").split(":")[0].split("=")[0]


def _check_alternatives(said: Mapping[str, Any]) -> None:
    for keys in ALTERNATIVES:
        both = [key for key in keys if said.get(key) is not None]
        if len(both) > 1:
            raise MisplacedError((both[1],), f"sbatch takes one of {' and '.join(both)}")


def _gpus(extra: dict[str, str | None], said: int | None) -> dict[str, Any]:
    """Take the request for GPUs out of ``extra``, and return its keys."""
    asking = [option for option in GPU_OPTIONS if asks_for_gpus(option, extra.get(option))]
    unset = [option for option in GPU_OPTIONS if option != "gres" and option in extra]
    unset = [option for option in unset if extra[option] is None]
    for option in unset:
        del extra[option]
    if not asking:
        return dict.fromkeys(("gpus", "gpu_type", "gpu_option")) if unset and not said else {}
    option = asking[0]
    if len(asking) > 1:
        raise _misplaced(asking[1], f"{option!r} asks for GPUs too; keep one")
    if said:
        told = f"resources has 'gpus: {said}' too; keep that, with 'gpu_option: {option}'"
        raise _misplaced(option, told)
    items = str(extra.pop(option)).split(",")
    ours = [item for item in items if option != "gres" or _kind(item) == "gpu"]
    others = [item for item in items if item not in ours]
    if others:
        extra[option] = ",".join(others)
    if not ours:  # a part of one GPU, which stays as spelled
        return {"gpus": 1, "gpu_option": "none"}
    if len(ours) > 1:
        raise _misplaced(option, f"{','.join(ours)!r} are GPUs of several types; keep one")
    count, kind = _counted(option, ours[0])
    typed = {"gpu_type": kind} if kind else {}
    return {"gpus": count, "gpu_option": option, **typed}


def _counted(option: str, item: str) -> tuple[int, str | None]:
    """Return number and type of ``2``, ``h100:2``, ``gpu``, ``gpu:h100`` and the like."""
    parts = item.strip().removeprefix("gres/").removeprefix("gres:").replace("=", ":").split(":")
    words = parts[1:] if option == "gres" else parts
    count = words.pop() if words and words[-1].isdigit() else "1"
    if len(words) > 1 or not all(words):
        raise _misplaced(option, f"{item!r} is no number of GPUs, such as 2 or h100:2")
    return int(count), words[0] if words else None


def _amount(option: str, value: str | None) -> int | None:
    try:
        return None if value is None else AMOUNTS[option](value)
    except ValueError as error:
        raise _misplaced(option, str(error)) from error


def _misplaced(option: str, told: str) -> MisplacedError:
    return MisplacedError(("extra", option), told)
