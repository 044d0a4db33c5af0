"""Parquet files of requests and of answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pyarrow import parquet as files

from hpc.batch.input import intake, parquet
from hpc.batch.input.jsonl import BadLine, InputRequest
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    files.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_rows_are_requests(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}]
    path = table(
        tmp_path / "in.parquet",
        [
            {"custom_id": "a", "messages": messages, "prompt": None, "max_tokens": 5},
            {"custom_id": None, "messages": None, "prompt": "say", "max_tokens": None},
            {"custom_id": "a", "messages": None, "prompt": "twice", "max_tokens": None},
        ],
    )
    first, second, third = intake.read(path, "m", None)
    assert isinstance(first, InputRequest)
    assert first.body == {"messages": messages, "max_tokens": 5, "model": "m"}
    assert isinstance(second, InputRequest)
    assert (second.custom_id, second.url) == ("line-2", "/v1/completions")
    assert isinstance(third, BadLine)
    assert third.reason == "custom_id 'a' is that of line 1"
    assert parquet.count(path) == 3


def test_messages_may_be_json_as_text(tmp_path: Path) -> None:
    text = json.dumps([{"role": "user", "content": "hi"}])
    path = table(tmp_path / "in.parquet", [{"messages": text}, {"messages": "[no"}])
    first, second = intake.read(path, "m", None)
    assert isinstance(first, InputRequest)
    assert first.body["messages"] == json.loads(text)
    assert isinstance(second, BadLine)
    assert second.reason.startswith("messages is no JSON")


def test_a_template_takes_the_columns(tmp_path: Path) -> None:
    (tmp_path / "q.j2").write_text("What is {{ word }}?")
    path = table(tmp_path / "in.PARQUET", [{"word": "rust", "other": None}])
    (found,) = intake.read(path, "m", tmp_path / "q.j2")
    assert isinstance(found, InputRequest)
    assert found.body["messages"][0]["content"] == "What is rust?"


def test_what_is_no_parquet_is_told(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    path.write_text("no")
    with pytest.raises(ConfigError, match=r"in\.parquet is no Parquet file"):
        list(intake.read(path, "m", None))
    with pytest.raises(ConfigError, match=r"cannot read .*none\.parquet"):
        parquet.count(tmp_path / "none.parquet")


def test_answers_come_in_groups_with_the_whole_response(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    body = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}
    body["usage"] = {"prompt_tokens": 3, "completion_tokens": 1}  # type: ignore[assignment]
    good = {"custom_id": "g", "response": {"status_code": 200, "body": body}, "error": None}
    bad = {"custom_id": "b", "response": None, "error": {"code": "timeout", "message": "late"}}
    with path.open("wb") as file, parquet.writer(file) as write:
        for _ in range(parquet.GROUP_ROWS):
            write(json.dumps(good).encode())
        write(json.dumps(bad).encode())
    found = files.ParquetFile(path)
    rows = found.read().to_pylist()
    assert found.num_row_groups == 2
    assert len(rows) == parquet.GROUP_ROWS + 1
    assert rows[0]["content"] == "yes"
    assert (rows[0]["status_code"], rows[0]["completion_tokens"]) == (200, 1)
    assert json.loads(rows[0]["response"]) == body
    assert json.loads(rows[-1]["error"])["code"] == "timeout"
    assert rows[-1]["content"] is None


def test_a_row_that_is_no_text_faults_itself_alone(tmp_path: Path) -> None:
    raw = pa.array([b"one", b"caf\xe9", b"three"], pa.binary())
    texts = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    extra = pa.array([1.5, 1.5, float("nan")])
    files.write_table(pa.table({"prompt": texts, "extra": extra}), tmp_path / "in.parquet")
    found = list(intake.read(tmp_path / "in.parquet", "m", None))

    assert [isinstance(one, InputRequest) for one in found] == [True, False, False]
    text, number = [one.reason for one in found if isinstance(one, BadLine)]
    assert text == "a text of the row is not in UTF-8"
    # Python 3.13 adds the value.
    why = "a column has no place in JSON: Out of range float values are not JSON compliant"
    assert number.startswith(why)


ODD: list[Any] = [
    {"choices": [{"message": {"content": "half \ud83d"}, "finish_reason": "\udc00"}]},
    {"choices": [{"message": {"content": [{"type": "text"}]}, "finish_reason": 3}]},
    {"choices": {"0": "x"}, "usage": {"prompt_tokens": "7", "completion_tokens": 2**70}},
    {"choices": ["x"], "usage": [1]},
    {"choices": [{"message": "x", "text": "a\0b"}]},
    ["no", "object"],
    "\ud83d",
]


def test_an_odd_answer_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    with path.open("wb") as file, parquet.writer(file) as write:
        for body in ODD:
            line = {"custom_id": "\udc00", "response": {"status_code": 200, "body": body}}
            write(json.dumps({**line, "error": {"message": "\ud83d"}}).encode())
    rows = files.ParquetFile(path).read().to_pylist()

    assert [json.loads(row["response"]) for row in rows] == ODD
    assert [row["content"] for row in rows[:2]] == ["half \ufffd", '[{"type": "text"}]']
    assert [row["finish_reason"] for row in rows[:2]] == ["\ufffd", "3"]
    assert rows[4]["content"] == "a\0b"
    assert {row["prompt_tokens"] for row in rows} == {None}
