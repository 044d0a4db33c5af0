"""Prometheus' text format: written from samples, and cut to the samples that a key may see.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from gateway_lite.telemetry.metrics import OTHER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Sample


def visible(text: str, key: str, allows: Callable[[str], bool]) -> str:
    """Return the metrics that a key may see: its own requests, and its models.

    Args:
        text: all metrics.
        key: name of the key.
        allows: returns whether the key may use a model.
    """
    families = []
    for family in text_string_to_metric_families(text):
        family.samples = [one for one in family.samples if _is_visible(one.labels, key, allows)]
        if family.samples:
            families.append(family)
    return "".join(written(family) for family in families)


def _is_visible(labels: Mapping[str, str], key: str, allows: Callable[[str], bool]) -> bool:
    if labels.get("key", key) != key:
        return False
    model = labels.get("model")
    if not model:
        # Requests without a model: the key's own are known by their label, others' stay hidden.
        return model is None or "key" in labels
    # Models that nobody serves are hidden too: their count would rise for a wrong name and not for
    # the name of a hidden model, and so would tell which of them exists.
    return model != OTHER and allows(model)


def written(family: Metric) -> str:
    """Return one family in the text format."""
    name = family.name + ("_total" if family.type == "counter" else "")
    documentation = family.documentation.replace("\\", "\\\\").replace("\n", "\\n")
    lines = [f"# HELP {name} {documentation}\n", f"# TYPE {name} {family.type}\n"]
    return "".join([*lines, *map(_line, family.samples)])


def _line(sample: Sample) -> str:
    labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels.items())
    braces = f"{{{labels}}}" if labels else ""
    return f"{sample.name}{braces} {sample.value!r}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
