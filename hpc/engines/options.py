"""A model's ``engine_args`` as a server's command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from hpc.model import Scalar, ServiceSpec


def given(spec: ServiceSpec, *, reserved: Collection[str]) -> dict[str, Scalar]:
    """Return a model's engine arguments under the names that servers use.

    Args:
        spec: the model; ``max_model_len`` and ``--max-model-len`` both mean ``max-model-len``.
        reserved: options that only this program may set.

    Raises:
        ConfigError: an argument is reserved.
    """
    found = {
        key.strip().lstrip("-").replace("_", "-"): value for key, value in spec.engine_args.items()
    }
    for key in found:
        if key in reserved:
            raise ConfigError(
                f"engine_args of {spec.name}: {key} is set by hpc-serve itself",
                hint=f"not allowed there: {', '.join(sorted(reserved))}",
            )
    return found


def flags(options: Mapping[str, Scalar], *, negate: bool) -> tuple[str, ...]:
    """Return options as arguments, in the order given.

    Args:
        options: names without dashes; a one-letter name gets one dash, True is a bare flag.
        negate: write False as ``--no-NAME``; else it leaves the option out.
    """
    words: list[str] = []
    for key, value in options.items():
        dashed = f"-{key}" if len(key) == 1 else f"--{key}"
        if value is True:
            words.append(dashed)
        elif value is False:
            words.extend([f"--no-{key}"] if negate else [])
        else:
            words.extend((dashed, str(value)))
    return tuple(words)
