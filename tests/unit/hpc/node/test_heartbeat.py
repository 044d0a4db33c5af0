"""A replica's word about itself."""

from __future__ import annotations

import logging
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from hpc.model import Endpoint, Phase
from hpc.node.heartbeat import Announcer
from hpc.state import directory

if TYPE_CHECKING:
    from pathlib import Path


def announcer(root: Path, *, beat_at: float = 0.0) -> Announcer:
    return Announcer(
        root,
        Endpoint(
            service="tiny",
            replica=0,
            model="tiny",
            host="node7",
            port=0,
            phase=Phase.STARTING,
            job_id="17",
            ends_at=None,
            beat_at=beat_at,
        ),
    )


def heard(root: Path) -> Endpoint:
    found = directory.load_endpoint(root, "tiny", 0)
    assert found is not None
    return found


def test_nothing_is_said_before_the_first_phase(tmp_path: Path) -> None:
    announcer(tmp_path)
    assert directory.load_endpoint(tmp_path, "tiny", 0) is None


def test_phases_are_recorded_with_their_times(tmp_path: Path) -> None:
    said = announcer(tmp_path)
    before = time.time()
    for phase in (Phase.STARTING, Phase.LOADING):
        said.enter(phase)
    said.enter(Phase.READY, port=40123, slots=4)
    found = heard(tmp_path)
    assert (found.phase, found.port, found.slots) == (Phase.READY, 40123, 4)
    assert list(found.phases) == ["STARTING", "LOADING", "READY"]
    times = list(found.phases.values())
    assert before <= times[0] <= times[1] <= times[2] == found.beat_at <= time.time()


def test_port_and_slots_stay_and_a_cause_does_not(tmp_path: Path) -> None:
    said = announcer(tmp_path)
    said.enter(Phase.READY, port=40123, slots=4)
    said.enter(Phase.FAILED, cause="out of memory")
    assert (heard(tmp_path).port, heard(tmp_path).cause) == (40123, "out of memory")
    said.enter(Phase.STARTING)
    assert (heard(tmp_path).slots, heard(tmp_path).cause) == (4, None)


def test_a_phase_entered_again_has_the_later_time(tmp_path: Path) -> None:
    said = announcer(tmp_path)
    said.enter(Phase.READY)
    first = heard(tmp_path).phases["READY"]
    time.sleep(0.01)
    said.enter(Phase.READY)
    assert heard(tmp_path).phases["READY"] > first


def test_a_heartbeat_waits_for_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "BEAT_S", 600.0)
    said = announcer(tmp_path)
    said.enter(Phase.READY)
    at = heard(tmp_path).beat_at
    said.beat()
    assert heard(tmp_path).beat_at == at
    late = announcer(tmp_path, beat_at=time.time() - directory.BEAT_S)
    late.beat()
    assert heard(tmp_path).beat_at > at
    assert heard(tmp_path).phases == {}


def test_a_state_directory_that_cannot_be_written_is_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = announcer(tmp_path / "home")
    said.enter(Phase.LOADING)
    shutil.rmtree(tmp_path / "home")
    (tmp_path / "home").touch()
    with caplog.at_level(logging.WARNING):
        said.enter(Phase.READY, port=40123)
    assert "cannot write" in caplog.text
    (tmp_path / "home").unlink()
    said.enter(Phase.DRAINING)
    found = heard(tmp_path / "home")
    assert (found.phase, found.port) == (Phase.DRAINING, 40123)
    assert list(found.phases) == ["LOADING", "READY", "DRAINING"]


@pytest.mark.parametrize("phase", Phase)
def test_a_log_tells_each_phase(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, phase: Phase
) -> None:
    with caplog.at_level(logging.INFO):
        announcer(tmp_path).enter(phase, cause="why")
    assert caplog.messages == [f"phase {phase.value}: why"]


def test_it_shows_itself_without_its_record(tmp_path: Path) -> None:
    assert repr(announcer(tmp_path)) == "<Announcer tiny/0 Phase.STARTING>"
