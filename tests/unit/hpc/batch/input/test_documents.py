"""Batch files as people have them: packed, in another encoding, as one array."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from hpc.batch.input import csv_rows, documents, intake
from hpc.batch.input.jsonl import BadLine, InputRequest
from hpc.errors import BatchError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SAID = [{"custom_id": f"r{n}", "prompt": f"sag \u2028 {n} é 😀"} for n in range(3)]
LINES = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in SAID)
ARRAY = json.dumps(SAID, ensure_ascii=False, indent=2)


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, "zstd", asbytes=True))


def twice(data: bytes) -> bytes:
    """Return two members of gzip, as ``cat a.gz b.gz`` makes them."""
    return gzip.compress(data[:40]) + gzip.compress(data[40:])


@pytest.mark.parametrize("text", [LINES, LINES.rstrip("\n"), ARRAY, "\n " + ARRAY + "\n"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, twice, bz2.compress, lzma.compress, zstd])
def test_a_file_of_any_form_holds_the_same_requests(
    tmp_path: Path, text: str, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(pack(text.encode(encoding)))
    found = list(intake.read(path, "m", None))

    assert [one.custom_id for one in found if isinstance(one, InputRequest)] == ["r0", "r1", "r2"]
    assert found[2].body["prompt"] == SAID[2]["prompt"]  # type: ignore[union-attr]
    assert documents.count(path) in (3, 4)


def test_an_array_is_read_a_piece_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in.json"
    path.write_text(" [ 1 , 23,{}, [ ] ,\n" + ARRAY[1:])
    whole = list(documents.documents(path))
    monkeypatch.setattr(documents, "PIECE", 1)

    assert list(documents.documents(path)) == whole
    assert whole[:4] == [b"1", b"23", b"{}", b"[ ]"]
    assert [json.loads(one) for one in whole[4:]] == SAID


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[{"prompt": "x"}', "at item 1, the array ends here"),
        ('[{"prompt": "x"} {"prompt": "y"}]', "at item 1, a comma is missing"),
        ('[{"prompt": "x"},]', "at item 2, Expecting value"),
        ('[{"prompt": "x"}] more', "at item 1, more text stands behind the array"),
        ("[" * 100_000, "at item 1, it is nested too deeply"),
    ],
)
def test_a_broken_array_is_told_by_its_item(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "in.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"in.json is no JSON array: {why}"):
        list(intake.read(path, "m", None))


def test_an_item_that_is_no_request_faults_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_bytes(b'[{"prompt": "a"}, 3, {"prompt": "\xff"}, {"prompt": "d"}]')
    found = list(intake.read(path, "m", None))

    assert [isinstance(one, InputRequest) for one in found] == [True, False, False, True]
    assert [one.number for one in found] == [1, 2, 3, 4]


def test_a_packed_file_is_bounded_and_a_torn_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "x"}\n' * 100_000))
    with pytest.raises(documents.UnreadableFileError, match="is too large once unpacked"):
        list(documents.documents(path, most=1_000_000))
    for data in (path.read_bytes()[:-9], path.read_bytes()[:-1000] + b"\0" * 1000):
        path.write_bytes(data)
        with pytest.raises(documents.UnreadableFileError, match="cannot unpack"):
            list(documents.documents(path))


def test_a_table_of_excel_s_unicode_text_is_read(tmp_path: Path) -> None:
    table, template = tmp_path / "in.csv", tmp_path / "t.j2"
    table.write_bytes(gzip.compress("word\r\ncafé\r\n".encode("utf-16")))
    template.write_text("{{ word }}")
    (found,) = csv_rows.read(table, "m", template)

    assert isinstance(found, InputRequest)
    assert found.body["messages"][0]["content"] == "café"


def test_lines_for_another_model_are_told_or_sent_to_this_one(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "x", "model": "gpt-4o-mini"}\n{"prompt": "y"}\n')
    with pytest.raises(BatchError, match="unknown model 'gpt-4o-mini'") as caught:
        intake.take_in(intake.read(path, "m", None), tmp_path, chunk_rows=2, skip_bad=False)
    sent = list(intake.read(path, "m", None, any_model=True))

    assert "--any-model" in str(caught.value.hint)
    assert [one.body["model"] for one in sent if isinstance(one, InputRequest)] == ["m", "m"]
    assert not any(isinstance(one, BadLine) for one in sent)
