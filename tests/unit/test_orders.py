"""Files and batches on disk: whose they are, and which machine sees to them."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hpc import clerks, orders, state
from hpc.errors import StateError
from hpc.model import GatewayRecord
from hpc.orders import Order, Progress, StoredFile

if TYPE_CHECKING:
    from pathlib import Path

KEY, OTHER = "0123abcd", "ffffffff"
BATCH = "batch_" + "0" * 24
FILE = StoredFile("file-" + "1" * 24, KEY, "a.jsonl", "batch", 3, 100)
ORDER = Order(BATCH, KEY, FILE.id, "/v1/completions", "24h", 100, 200, {"a": "b"}, "there")
BEAT = GatewayRecord("there", "127.0.0.1", 1, 1, 0.0, 0.0, "1")


def kept(root: Path, file: StoredFile = FILE) -> None:
    draft = orders.drafted(root, file.key)
    (draft / "content").write_text("abc")
    orders.keep(root, draft, file)


def test_a_file_is_there_whole_for_its_key_alone(tmp_path: Path) -> None:
    draft = orders.drafted(tmp_path, KEY)
    (draft / "content").write_text("abc")
    assert orders.files(tmp_path, KEY) == []
    orders.keep(tmp_path, draft, FILE)
    kept(tmp_path, replace(FILE, filename="again"))

    assert orders.load_file(tmp_path, KEY, FILE.id) == FILE
    assert orders.load_file(tmp_path, OTHER, FILE.id) is None
    assert orders.files(tmp_path, KEY) == [FILE]
    assert [one.name for one in (tmp_path / "files" / KEY).iterdir()] == [FILE.id]
    for _ in range(2):
        orders.drop_file(tmp_path, KEY, FILE.id)
        assert list((tmp_path / "files" / KEY).iterdir()) == []


@pytest.mark.parametrize("name", ["..", "../x", "", ".", "file-1", FILE.id + "\n", "/etc"])
def test_nothing_but_an_id_is_looked_for(tmp_path: Path, name: str) -> None:
    kept(tmp_path)

    assert orders.load_file(tmp_path, KEY, name) is None
    assert orders.load_order(tmp_path, KEY, name) is None


def test_a_batch_is_open_until_it_is_closed(tmp_path: Path) -> None:
    orders.place(tmp_path, ORDER)
    assert list(orders.open_orders(tmp_path)) == [(KEY, BATCH)]
    assert orders.load_order(tmp_path, KEY, BATCH) == ORDER
    assert orders.orders(tmp_path, OTHER) == []
    assert orders.load_progress(tmp_path, ORDER) == Progress()
    faulty = Progress("failed", errors=({"line": 3, "code": "x"},), ended_at=7)
    state.write_record(orders.order_dir(tmp_path, KEY, BATCH) / "progress.json", faulty)
    orders.close(tmp_path, KEY, BATCH)

    assert orders.load_progress(tmp_path, ORDER) == faulty
    assert list(orders.open_orders(tmp_path)) == []
    assert orders.orders(tmp_path, KEY) == [ORDER]


def test_a_batch_that_cannot_be_written_is_not_open(tmp_path: Path) -> None:
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / KEY).write_text("a file where a folder should be")
    with pytest.raises(StateError, match="cannot write"):
        orders.place(tmp_path, ORDER)

    assert list(orders.open_orders(tmp_path)) == []


def test_the_first_cancellation_counts(tmp_path: Path) -> None:
    assert orders.cancelled_at(tmp_path, ORDER) is None
    orders.cancel(tmp_path, ORDER)
    path = orders.order_dir(tmp_path, KEY, BATCH) / "cancel"
    path.write_text("100\n")
    orders.cancel(tmp_path, ORDER)

    assert orders.cancelled_at(tmp_path, ORDER) == 100


def test_a_batch_is_another_machines_while_that_is_heard_of(tmp_path: Path) -> None:
    here = socket.gethostname()
    assert not clerks.elsewhere(tmp_path, ORDER, "there")
    assert not clerks.elsewhere(tmp_path, ORDER, here)
    clerks.beat(tmp_path, "there")
    assert clerks.elsewhere(tmp_path, ORDER, here)
    clerks.rest(tmp_path, "there")
    assert not clerks.elsewhere(tmp_path, ORDER, here)
    for ago_s, lives in ((1, True), (500, False)):
        state.save_gateway(tmp_path, replace(BEAT, beat_at=time.time() - ago_s))
        assert clerks.elsewhere(tmp_path, ORDER, here) == lives
    clerks.beat(tmp_path, "there")
    taken = Progress(hostname=here)
    state.write_record(orders.order_dir(tmp_path, KEY, BATCH) / "progress.json", taken)
    assert not clerks.elsewhere(tmp_path, ORDER, here)
