"""Batches as OpenAI's clients see them: what is asked, what is told, and forms taken apart."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Batch, FileObject

from gateway_lite.api.batches import batches, files, multipart
from gateway_lite.api.openapi.schemas import SCHEMAS
from gateway_lite.errors import ApiError
from hpc.batch.input.jsonl import parse
from hpc.openai_batches import input_check
from hpc.openai_batches import records as batch_records
from hpc.openai_batches.records import BatchProgress, BatchRecord, StoredFile

ASKED: dict[str, Any] = {
    "input_file_id": "file-1",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
}
ORDER = BatchRecord(
    "batch_1", "0123abcd", "file-1", ASKED["endpoint"], "24h", 100, 86500, {"a": "b"}
)
LATE = BatchProgress(batch="x", total=9, completed=7, failed=2, in_progress_at=110, ended_at=120)


def told(**said: Any) -> str:
    """Return why a request is refused."""
    with pytest.raises(ApiError) as caught:
        batches.asked(json.dumps({**ASKED, **said}).encode(), "0123abcd", 100)
    assert caught.value.status == 400
    return str(caught.value.param)


def test_what_is_asked_for_is_written_down() -> None:
    body = json.dumps({**ASKED, "completion_window": "7d", "metadata": {"a": "b"}}).encode()
    order = batches.asked(body, "0123abcd", 100)

    assert batch_records.BATCH_ID.fullmatch(order.id)
    assert (order.key, order.file, order.window) == ("0123abcd", "file-1", "7d")
    assert order.expires_at == 100 + 7 * 86400
    assert order.metadata == {"a": "b"}
    assert order.output_s is None
    kept = {"anchor": "created_at", "seconds": 3600}
    body = json.dumps({**ASKED, "output_expires_after": kept}).encode()
    assert batches.asked(body, "0123abcd", 100).output_s == 3600


def test_what_is_not_served_is_named() -> None:
    assert told(input_file_id=None) == "input_file_id"
    assert told(endpoint="/v1/images") == "endpoint"
    refused = [{}, 3, {"anchor": "created_at", "seconds": 3599}]
    more = {"anchor": "last_active_at", "seconds": 3600}
    for after in (*refused, more, {**more, "x": 1}, {"anchor": "created_at", "seconds": "3600"}):
        assert told(output_expires_after=after) == "output_expires_after"
    for window in ("31d", "0h", "24", 24, None, "721h"):
        assert told(completion_window=window) == "completion_window"
    notes_: list[Any] = [[], {"a": 1}, {"a" * 65: "b"}, {"a": "b" * 513}]
    for notes in (*notes_, {str(n): "" for n in range(17)}):
        assert told(metadata=notes) == "metadata"


@pytest.mark.parametrize(
    ("status", "cancelled_at", "shown", "when"),
    [
        ("validating", None, "validating", None),
        ("validating", 115, "cancelling", "cancelling_at"),
        ("in_progress", None, "in_progress", None),
        ("in_progress", 115, "cancelling", "cancelling_at"),
        ("finalizing", None, "finalizing", None),
        ("completed", None, "completed", "completed_at"),
        ("completed", 115, "completed", "completed_at"),
        ("failed", None, "failed", "failed_at"),
        ("expired", None, "expired", "expired_at"),
        ("cancelled", 115, "cancelled", "cancelled_at"),
    ],
)
def test_a_batch_is_told_as_openai_tells_it(
    status: str, cancelled_at: int | None, shown: str, when: str | None
) -> None:
    ended = 120 if status in batch_records.FINAL else None
    progress = BatchProgress(status=status, total=9, completed=7, failed=2, ended_at=ended)
    found = batches.shown(ORDER, progress, cancelled_at)
    schema = {**SCHEMAS["Batch"], "components": {"schemas": SCHEMAS}}
    jsonschema.validate(found, schema)
    batch = Batch.model_validate(found, strict=True)

    assert batch.status == shown
    at = ("completed_at", "failed_at", "expired_at", "cancelled_at", "cancelling_at")
    said = {name for name in at if found[name] is not None}
    assert said - {"cancelling_at"} == ({when} - {"cancelling_at", None})
    assert ("cancelling_at" in said) == (shown in ("cancelling", "cancelled"))
    assert when is None or found[when] in (115, 120)


def test_a_file_is_told_as_openai_tells_it() -> None:
    found = files.shown(StoredFile("file-1", "k", "a.jsonl", "batch", 7, 100))
    jsonschema.validate(found, SCHEMAS["File"])

    assert FileObject.model_validate(found, strict=True).bytes == 7


def test_each_fault_of_a_line_has_openais_code() -> None:
    good = {"custom_id": "a", "method": "POST", "url": ASKED["endpoint"]}
    body = {"model": "m", "messages": []}
    lines: list[tuple[Any, str | None]] = [
        ({**good, "body": body}, None),
        ("{", "invalid_json_line"),
        ("[1]", "invalid_json_line"),
        ("[" * 100_000, "invalid_json_line"),
        ({**good, "custom_id": 7, "body": body}, "missing_required_parameter"),
        ({**good, "method": "PUT", "body": body}, "invalid_method"),
        ({**good, "url": "/v1/x", "body": body}, "invalid_url"),
        ({**good, "body": 7}, "missing_required_parameter"),
        ({**good, "body": {"model": "m"}}, "missing_required_parameter"),
        ({**good, "body": {"messages": []}}, "missing_required_parameter"),
        ({**good, "body": {**body, "model": ["m"]}}, "model_not_found"),
        ({**good, "body": {**body, "stream": True}}, "invalid_request"),
        (
            {**good, "url": "/v1/embeddings", "body": {"model": "m", "input": ""}},
            "mismatched_endpoint",
        ),
    ]
    for number, (said, code) in enumerate(lines, 1):
        text = said if isinstance(said, str) else json.dumps(said)
        seen = input_check.judge([parse(number, text.encode())], ASKED["endpoint"], {"m"})

        assert [(one["code"], one["line"]) for one in seen.errors] == (
            [] if code is None else [(code, number)]
        ), said
        assert (seen.total, seen.bad) == ((1, 0) if code is None else (0, 1))


def form(content: bytes, boundary: bytes = b"x0x") -> bytes:
    return (
        b'--%b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--%b\r\nContent-Disposition: form-data; name="file"; filename="../a/b.jsonl"\r\n'
        b"content-type: application/octet-stream\r\n\r\n%b\r\n--%b--\r\n"
    ) % (boundary, boundary, content, boundary)


@given(st.binary(max_size=300), st.integers(1, 40))
def test_a_form_is_read_the_same_in_whatever_pieces_it_comes(content: bytes, step: int) -> None:
    data = form(content)
    if b"\r\n--x0x" in content:
        return
    parser = multipart.Parser(b"x0x", limit=1000)
    got = b"".join(parser.feed(data[at : at + step]) for at in range(0, len(data), step))

    assert got == content
    assert parser.complete
    assert parser.form == multipart.Form({"purpose": "batch"}, "b.jsonl", len(content))


def test_a_form_that_is_too_large_or_none_is_refused_as_it_comes() -> None:
    with pytest.raises(ApiError, match="larger than 10 bytes"):
        multipart.Parser(b"x0x", limit=10).feed(form(b"x" * 11))
    with pytest.raises(ApiError, match="is no form"):
        multipart.Parser(b"x0x", limit=10).feed(b"no form at all")
    field = b'--x0x\r\ncontent-disposition: form-data; name="n"\r\n\r\n' + b"x" * 70_000
    with pytest.raises(ApiError, match="beside its file"):
        multipart.Parser(b"x0x", limit=10).feed(field)


HEADS = st.sampled_from(
    [b"--x0x", b"--", b"\r\n", b"content-disposition: ", b'form-data; name="file"', b"; filename=",
     b'"', b"\\", b"*=utf-8''%ff", b"\xff", b":", b";"]
)  # fmt: skip


@given(st.lists(HEADS | st.binary(max_size=4), max_size=30))
def test_what_is_no_form_is_refused_and_breaks_nothing(pieces: list[bytes]) -> None:
    parser = multipart.Parser(b"x0x", limit=1000)
    try:
        parser.feed(b"--x0x\r\n" + b"".join(pieces))
    except ApiError as error:
        assert error.status in (400, 413)  # noqa: PT017
