"""A model's ``engine_args`` as command-line options of a server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hpc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from hpc.model import EngineValue, ServiceSpec


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
SHORTEST_PREFIX = 2
"""Letters from which a name counts as the beginning of a reserved option."""


def given(
    spec: ServiceSpec,
    *,
    reserved: Collection[str],
    synonyms: Mapping[str, str] | None = None,
    instead: Mapping[str, str] | None = None,
) -> dict[str, EngineValue]:
    """Return a model's engine arguments under the servers' own option names.

    Args:
        spec: the model; ``max_model_len`` and ``--max-model-len`` both mean ``max-model-len``.
        reserved: options that only hpc-serve may set.
        synonyms: long names by the short ones.
        instead: hints for some reserved options; the others are listed.

    Raises:
        ConfigError: an argument is reserved, no option's name, or given twice.
    """
    found: dict[str, EngineValue] = {}
    for said, value in spec.engine_args.items():
        bare = said.strip().lstrip("-").replace("_", "-")
        key = (synonyms or {}).get(bare, bare)
        if not NAME.fullmatch(key):
            raise ConfigError(
                f"engine_args of {spec.name}: {said!r} is no option's name",
                hint="allowed: an option without dashes and its value, such as max-model-len: 8192",
            )
        if owner := _owner(key, reserved, frozenset((synonyms or {}).values())):
            raise ConfigError(
                f"engine_args of {spec.name}: {_spelled(said, owner)} is set by hpc-serve itself",
                hint=(instead or {}).get(owner)
                or f"not allowed there: {_listed(reserved, instead)}",
            )
        if key in found:
            raise ConfigError(f"engine_args of {spec.name}: {_spelled(said, key)} is given twice")
        found[key] = value
    return found


def _listed(reserved: Collection[str], instead: Mapping[str, str] | None) -> str:
    return ", ".join(sorted(set(reserved) - set(instead or {})))


def _owner(key: str, reserved: Collection[str], options: Collection[str]) -> str | None:
    """Return a server's reserved option for a name, or None.

    Servers in Python take the beginning of an option for the option (argparse), unless the
    beginning is one of their *options* itself.
    """
    if key in reserved:
        return key
    if len(key) < SHORTEST_PREFIX or key in options:
        return None
    return next((one for one in sorted(reserved) if one.startswith(key)), None)


def _spelled(said: str, key: str) -> str:
    plain = said.strip().lstrip("-")
    return plain if plain.replace("_", "-") == key else f"{plain} ({key})"


def flags(
    options: Mapping[str, EngineValue], *, negate: bool, repeat: bool = False
) -> tuple[str, ...]:
    """Return options as command-line words, in the given order.

    Args:
        options: values by name; a one-letter name gets one dash, True becomes a bare flag.
        negate: write False as ``--no-NAME``; otherwise a False option is left out.
        repeat: write the option before each value of a list; otherwise once before all.
    """
    words: list[str] = []
    for key, value in options.items():
        dashed = f"-{key}" if len(key) == 1 else f"--{key}"
        if value is True:
            words.append(dashed)
        elif value is False:
            words.extend([f"--no-{key}"] if negate else [])
        elif isinstance(value, tuple):
            each = [(dashed, str(one)) if repeat else (str(one),) for one in value]
            words.extend([] if repeat or not value else [dashed])
            words.extend(word for pair in each for word in pair)
        else:
            words.extend((dashed, str(value)))
    return tuple(words)
