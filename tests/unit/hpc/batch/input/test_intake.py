"""Requests as people write them, checked line by line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from hpc.batch.input import csv_rows, documents, intake, jsonl
from hpc.batch.input.jsonl import BadLine, InputRequest
from hpc.errors import BatchError, ConfigError

if TYPE_CHECKING:
    from pathlib import Path

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def openai_line(**changes: object) -> bytes:
    data = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": BODY}
    return json.dumps({**data, **changes}).encode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "no JSON: "),
        (b"[1]", "no JSON object"),
        (b'{"prompt": NaN}', "NaN is no JSON value"),
        (openai_line(custom_id=None), "custom_id is missing or no text"),
        (openai_line(method="GET"), "method is 'GET', not 'POST'"),
        (openai_line(url="/v1/images"), "url is '/v1/images', not one of /v1/chat"),
        (openai_line(url=["x"]), "url is ['x'], not one of"),
        (openai_line(body=3), "body is no JSON object"),
        (openai_line(body={"model": "m"}), "body has no messages"),
        (openai_line(url="/v1/rerank", body={"model": "m", "query": "q"}), "body has no documents"),
        (openai_line(url="/v1/responses", body={"model": "m"}), "body has no input"),
        (openai_line(url="/v1/score", body={"model": "m", "text_1": "a"}), "body has no text_2"),
        (openai_line(url="/classify", body={"model": "m"}), "body has no input"),
        (openai_line(body={**BODY, "model": "x"}), "unknown model 'x'; this batch has 'm'"),
        (openai_line(body={**BODY, "stream": True}), "stream is set"),
        (b'{"text": "x"}', "neither body, prompt nor messages"),
    ],
)
def test_a_faulty_line_is_told_with_its_number(line: bytes, reason: str) -> None:
    found = jsonl.parse(17, line, "m")

    assert isinstance(found, BadLine)
    assert found.number == 17
    assert reason in found.reason


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("/v2/rerank", {"query": "q", "documents": ["d"]}),
        ("/score", {"queries": "q", "items": ["d"]}),
        ("/v1/score", {"text_1": "a", "text_2": ["b", "c"]}),
        ("/pooling", {"input": "a"}),
        ("/classify", {"messages": []}),
        ("/v1/moderations", {"input": ["a"]}),
    ],
)
def test_a_line_may_go_to_any_path_with_numbers_for_an_answer(
    url: str, fields: dict[str, Any]
) -> None:
    found = jsonl.parse(1, openai_line(url=url, body=fields), "m")
    assert found == InputRequest(1, "a", url, {**fields, "model": "m"})


def test_the_three_forms_of_a_line() -> None:
    full = jsonl.parse(1, openai_line(), "m")
    prompt = jsonl.parse(2, b'{"prompt": "p", "max_tokens": 3}', "m")
    messages = jsonl.parse(3, b'{"custom_id": "z", "messages": []}', "m")

    assert full == InputRequest(1, "a", "/v1/chat/completions", BODY)
    wanted = {"prompt": "p", "max_tokens": 3, "model": "m"}
    assert prompt == InputRequest(2, "line-2", "/v1/completions", wanted)
    assert messages == InputRequest(3, "z", "/v1/chat/completions", {"messages": [], "model": "m"})


def test_a_line_over_the_limit_is_told_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "LINE_LIMIT", 60)
    monkeypatch.setattr(documents, "LINE_LIMIT", 60)
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"prompt": "' + b"x" * 500 + b'"}\n\n{"prompt": "y"}')
    first, second = jsonl.read(path, "m")

    assert isinstance(first, BadLine)
    assert (first.number, "longer than 60 bytes" in first.reason) == (1, True)
    assert isinstance(second, InputRequest)
    assert second.number == 3


def test_chunks_hold_every_request_and_rejects_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    ids = ["a", "b", "a", "c", "d", "e"]
    path.write_text("".join(json.dumps({"custom_id": i, "prompt": i}) + "\n" for i in ids) + "{\n")
    found = intake.unique(jsonl.read(path, "m"))
    seen = intake.take_in(found, tmp_path, chunk_rows=2, skip_bad=True)
    parts = [[json.loads(x)["custom_id"] for x in intake.requests(tmp_path, n)] for n in range(3)]
    rejects = [json.loads(x) for x in (tmp_path / "rejects.jsonl").read_text().splitlines()]

    assert (seen.good, seen.bad) == (5, 2)
    assert parts == [["a", "b"], ["c", "d"], ["e"]]
    assert rejects[0]["reason"] == "custom_id 'a' is that of line 1"
    assert [one["line"] for one in rejects] == [3, 7]
    assert (tmp_path / "requests.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_faulty_file_is_refused_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "x"}\n{"x": 1}\n')
    with pytest.raises(BatchError, match=r"1 line\(s\) are no request; line 2: there is neither"):
        intake.take_in(jsonl.read(path, "m"), tmp_path, chunk_rows=2, skip_bad=False)
    with pytest.raises(BatchError, match="no request in the file"):
        intake.take_in([], tmp_path, chunk_rows=2, skip_bad=True)
    with pytest.raises(ConfigError, match=r"cannot read .*none: No such file"):
        list(jsonl.read(tmp_path / "none"))


def test_a_row_of_a_table_becomes_a_message(tmp_path: Path) -> None:
    table, template = tmp_path / "in.csv", tmp_path / "t.j2"
    table.write_text('custom_id,name\na,"Ann, ""A"""\n,Bob\nc\n')
    template.write_text("Hello {{ name }}!")
    first, second, third = csv_rows.read(table, "m", template)

    def body(text: str) -> dict[str, object]:
        return {"model": "m", "messages": [{"role": "user", "content": text}]}

    assert first == InputRequest(2, "a", "/v1/chat/completions", body('Hello Ann, "A"!'))
    assert second == InputRequest(3, "line-3", "/v1/chat/completions", body("Hello Bob!"))
    assert isinstance(third, BadLine)
    assert "has not as many fields" in third.reason


def test_a_template_that_names_no_column_is_told_by_row(tmp_path: Path) -> None:
    table, template = tmp_path / "in.csv", tmp_path / "t.j2"
    table.write_text("name\nAnn\n")
    template.write_text("{{ nobody }}")
    (found,) = csv_rows.read(table, "m", template)
    assert isinstance(found, BadLine)
    assert "'nobody' is undefined" in found.reason
    template.write_text("{{ name")
    with pytest.raises(ConfigError, match=r"t.j2 is no Jinja2 template"):
        list(csv_rows.read(table, "m", template))


def test_a_row_that_is_no_text_faults_itself_alone(tmp_path: Path) -> None:
    table, template = tmp_path / "in.csv", tmp_path / "t.j2"
    table.write_bytes(b'word\nfirst\ncaf\xe9\n"open" x\nlast\n')
    template.write_text("{{ word }}")
    found = list(csv_rows.read(table, "m", template))

    assert [isinstance(one, InputRequest) for one in found] == [True, False, False, True]
    assert [(one.number, one.reason) for one in found if isinstance(one, BadLine)] == [
        (3, "the row is not in UTF-8"),
        (4, "no CSV: ',' expected after '\"'"),
    ]
    table.write_bytes(b"caf\xe9\nx\n")
    with pytest.raises(ConfigError, match=r"in\.csv is no CSV file: the names of its columns"):
        list(csv_rows.read(table, "m", template))


def test_half_a_character_faults_no_other_line(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    half = json.dumps({"custom_id": "\ud83d", "prompt": "\udc00"}).encode()
    deep = b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    path.write_bytes(b"\n".join([half, b'{"prompt": "\xff"}', b'{"prompt": "\0"}', deep, half]))
    seen = intake.take_in(intake.read(path, "m", None), tmp_path, chunk_rows=9, skip_bad=True)
    (line,) = intake.requests(tmp_path, 0)

    assert [one.number for one in seen.first] == [2, 3, 4, 5]
    assert seen.first[2].reason == "no JSON: it is nested too deeply"
    assert json.loads(line)["custom_id"] == "\ud83d"


def test_a_check_without_a_batch_takes_any_model_and_none(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_bytes(b'{"prompt": "x"}\n' + openai_line() + b"\n" + openai_line(custom_id="b"))
    assert intake.validate(intake.read(file, jsonl.ANY, None)).bad == 0
    assert intake.validate(intake.read(file, "other", None)).bad == 2
