"""A model's ``engine_args`` as command-line options of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from hpc.model import Scalar, ServiceSpec


def given(spec: ServiceSpec, *, reserved: Collection[str]) -> dict[str, Scalar]:
    """Return a model's engine arguments under the servers' own option names.

    Args:
        spec: the model; ``max_model_len`` and ``--max-model-len`` both mean ``max-model-len``.
        reserved: options that only hpc-serve may set.

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
    """Return options as command-line words, in the given order.

    Args:
        options: values by name; a one-letter name gets one dash, True becomes a bare flag.
        negate: write False as ``--no-NAME``; otherwise a False option is left out.
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
