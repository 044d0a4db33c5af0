"""The variables that an engine without a container takes from its job."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpc.engines import GPU_MASKS, Launch, ReadinessProbe
from hpc.node import engine_process

LAUNCH = Launch(("vllm",), {}, (), (), ReadinessProbe(), None, "unix", "KEY")


@pytest.mark.parametrize(
    ("ours", "left"),
    [
        ({"HIP_VISIBLE_DEVICES": "2"}, set()),
        ({"CUDA_VISIBLE_DEVICES": ""}, set()),
        ({}, {"ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"}),
    ],
)
def test_a_mask_of_the_launch_replaces_those_of_the_job(
    ours: dict[str, str], left: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in GPU_MASKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "2")
    monkeypatch.setenv("GPU_DEVICE_ORDINAL", "2")
    monkeypatch.setenv("OTHER", "1")
    found = engine_process._inherited(replace(LAUNCH, env=ours))
    assert {name for name in found if name in GPU_MASKS} == left
    assert found["OTHER"] == "1"
