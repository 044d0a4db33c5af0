"""A plot of a batch's throughput over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc.errors import BatchError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hpc.batch.throughput import Pace

KINDS = (".svg", ".png", ".pdf")
INCHES = (8.0, 6.0)


def draw(paces: Sequence[Pace], path: Path, *, title: str) -> None:
    """Draw requests per second, tokens per second and workers over the time since the start.

    Args:
        paces: throughput of successive intervals.
        path: file to write; its suffix selects the format.
        title: heading of the plot.

    Raises:
        ConfigError: the suffix is unknown, or matplotlib is not installed.
        BatchError: no data exist yet, or the file cannot be written.
    """
    if path.suffix.lower() not in KINDS:
        raise ConfigError(f"cannot draw {path}: the name must end in {', '.join(KINDS)}")
    if not paces:
        raise BatchError("nothing to draw: no worker has recorded its throughput yet")
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise ConfigError(
            "plots need matplotlib, which is not installed",
            hint="python3 -m pip install 'hpc-serve[plot]'",
        ) from error
    figure = Figure(figsize=INCHES, layout="constrained")
    figure.suptitle(title)
    minutes = [(pace.at - paces[0].at) / 60 for pace in paces]
    series = {
        "requests/s": [pace.requests for pace in paces],
        "tokens/s": [pace.tokens for pace in paces],
        "workers": [pace.workers for pace in paces],
    }
    for axes, (name, values) in zip(
        figure.subplots(len(series), sharex=True), series.items(), strict=True
    ):
        axes.plot(minutes, values)
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    axes.set_xlabel("minutes")
    try:
        figure.savefig(path)
    except OSError as error:
        raise BatchError(f"cannot write {path}: {error.strerror}") from error
