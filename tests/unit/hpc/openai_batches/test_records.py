"""Files and batches on disk: whose they are, and which machine sees to them."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hpc.errors import StateError
from hpc.model import GatewayRecord
from hpc.openai_batches import processor_heartbeat
from hpc.openai_batches import records as batch_records
from hpc.openai_batches.records import BatchProgress, BatchRecord, StoredFile
from hpc.state import directory, records

if TYPE_CHECKING:
    from pathlib import Path

KEY, OTHER = "0123abcd", "ffffffff"
BATCH = "batch_" + "0" * 24
FILE = StoredFile("file-" + "1" * 24, KEY, "a.jsonl", "batch", 3, 100)
ORDER = BatchRecord(BATCH, KEY, FILE.id, "/v1/completions", "24h", 100, 200, {"a": "b"}, "there")
BEAT = GatewayRecord("there", "127.0.0.1", 1, 1, 0.0, 0.0, "1")


def kept(root: Path, file: StoredFile = FILE) -> None:
    draft = batch_records.drafted(root, file.key)
    (draft / "content").write_text("abc")
    batch_records.keep(root, draft, file)


def test_a_file_is_there_whole_for_its_key_alone(tmp_path: Path) -> None:
    draft = batch_records.drafted(tmp_path, KEY)
    (draft / "content").write_text("abc")
    assert batch_records.files(tmp_path, KEY) == []
    batch_records.keep(tmp_path, draft, FILE)
    kept(tmp_path, replace(FILE, filename="again"))

    assert batch_records.load_file(tmp_path, KEY, FILE.id) == FILE
    assert batch_records.load_file(tmp_path, OTHER, FILE.id) is None
    assert batch_records.files(tmp_path, KEY) == [FILE]
    assert [one.name for one in (tmp_path / "files" / KEY).iterdir()] == [FILE.id]
    for _ in range(2):
        batch_records.drop_file(tmp_path, KEY, FILE.id)
        assert list((tmp_path / "files" / KEY).iterdir()) == []


@pytest.mark.parametrize("name", ["..", "../x", "", ".", "file-1", FILE.id + "\n", "/etc"])
def test_nothing_but_an_id_is_looked_for(tmp_path: Path, name: str) -> None:
    kept(tmp_path)

    assert batch_records.load_file(tmp_path, KEY, name) is None
    assert batch_records.load_batch(tmp_path, KEY, name) is None


def test_a_batch_is_open_until_it_is_closed(tmp_path: Path) -> None:
    batch_records.place(tmp_path, ORDER)
    assert list(batch_records.open_batches(tmp_path)) == [(KEY, BATCH)]
    assert batch_records.load_batch(tmp_path, KEY, BATCH) == ORDER
    assert batch_records.batches(tmp_path, OTHER) == []
    assert batch_records.load_progress(tmp_path, ORDER) == BatchProgress()
    faulty = BatchProgress("failed", errors=({"line": 3, "code": "x"},), ended_at=7)
    records.write_record(batch_records.record_dir(tmp_path, KEY, BATCH) / "progress.json", faulty)
    batch_records.close(tmp_path, KEY, BATCH)

    assert batch_records.load_progress(tmp_path, ORDER) == faulty
    assert list(batch_records.open_batches(tmp_path)) == []
    assert batch_records.batches(tmp_path, KEY) == [ORDER]


def test_a_batch_that_cannot_be_written_is_not_open(tmp_path: Path) -> None:
    (tmp_path / "openai-batches").mkdir()
    (tmp_path / "openai-batches" / KEY).write_text("a file where a folder should be")
    with pytest.raises(StateError, match="cannot write"):
        batch_records.place(tmp_path, ORDER)

    assert list(batch_records.open_batches(tmp_path)) == []


def test_the_first_cancellation_counts(tmp_path: Path) -> None:
    assert batch_records.cancelled_at(tmp_path, ORDER) is None
    batch_records.cancel(tmp_path, ORDER)
    path = batch_records.record_dir(tmp_path, KEY, BATCH) / "cancel"
    path.write_text("100\n")
    batch_records.cancel(tmp_path, ORDER)

    assert batch_records.cancelled_at(tmp_path, ORDER) == 100


def test_a_batch_is_another_machines_while_that_is_heard_of(tmp_path: Path) -> None:
    here = socket.gethostname()
    assert not processor_heartbeat.elsewhere(tmp_path, ORDER, "there")
    assert not processor_heartbeat.elsewhere(tmp_path, ORDER, here)
    processor_heartbeat.beat(tmp_path, "there")
    assert processor_heartbeat.elsewhere(tmp_path, ORDER, here)
    processor_heartbeat.rest(tmp_path, "there")
    assert not processor_heartbeat.elsewhere(tmp_path, ORDER, here)
    for ago_s, lives in ((1, True), (500, False)):
        directory.save_gateway(tmp_path, replace(BEAT, beat_at=time.time() - ago_s))
        assert processor_heartbeat.elsewhere(tmp_path, ORDER, here) == lives
    processor_heartbeat.beat(tmp_path, "there")
    taken = BatchProgress(hostname=here)
    records.write_record(batch_records.record_dir(tmp_path, KEY, BATCH) / "progress.json", taken)
    assert not processor_heartbeat.elsewhere(tmp_path, ORDER, here)


def test_a_file_expires_at_its_time_and_then_goes(tmp_path: Path) -> None:
    brief = replace(FILE, id="file-" + "2" * 24, expires_at=200)
    kept(tmp_path)
    kept(tmp_path, brief)

    assert batch_records.load_file(tmp_path, KEY, brief.id) is None
    assert batch_records.files(tmp_path, KEY) == [FILE]
    assert batch_records.stock(tmp_path, KEY).files == 1
    batch_records.remove_expired(tmp_path, now=199)
    assert batch_records.file_dir(tmp_path, KEY, brief.id).exists()
    batch_records.remove_expired(tmp_path, now=200)
    assert [one.name for one in (tmp_path / "files" / KEY).iterdir()] == [FILE.id]
