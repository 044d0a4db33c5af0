"""Parquet files of requests and of answers, with a few rows in memory at a time."""

# ruff: noqa: PLC0415 - pyarrow is an extra

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hpc import own_source
from hpc.batch.input import csv_rows, jsonl
from hpc.batch.input.jsonl import BadLine, InputRequest
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

SUFFIX = ".parquet"
ROWS_READ = 256
GROUP_ROWS = 2000
GROUP_BYTES = 32 * 1024 * 1024
JSON_COLUMNS = ("messages", "body")
"""Columns whose text values are parsed as JSON."""


def is_parquet(path: Path) -> bool:
    """Return whether a file is Parquet, by its suffix."""
    return path.suffix.lower() == SUFFIX


def needed() -> Any:
    """Return pyarrow's module for Parquet.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            "Parquet files need pyarrow, which is not installed",
            hint=own_source.pip_command("parquet"),
        ) from error
    return parquet


def count(path: Path) -> int:
    """Return the number of rows of a file.

    Raises:
        ConfigError: the file cannot be read.
    """
    with _opened(path) as file:
        return int(file.metadata.num_rows)


def read(
    path: Path, model: str | None, template: Path | None, *, any_model: bool = False
) -> Iterator[InputRequest | BadLine]:
    """Yield a request for each row.

    Args:
        path: the file; without a template its columns are the fields of a JSONL line, where
            ``messages`` and ``body`` may hold JSON as text.
        model: model name for rows without a model.
        template: Jinja2 template of the user's message over the columns.
        any_model: send rows that name another model to this one, too.

    Raises:
        ConfigError: a file cannot be read, or the template is faulty.
    """
    # A few rows at a time: a large file may not fit into memory.
    made = csv_rows.compiled(template) if template is not None else None
    with _opened(path) as file:
        number = 0
        for batch in file.iter_batches(batch_size=ROWS_READ):
            for row in _rows(batch):
                number += 1
                if row is None:
                    yield BadLine(number, "a text of the row is not in UTF-8")
                elif made is not None:
                    yield csv_rows.request(number, row, made, model)
                else:
                    yield _plain(number, row, model, any_model=any_model)


@contextmanager
def writer(file: BinaryIO) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that takes the output lines of a batch.

    Args:
        file: the Parquet file to write.
    """
    parquet = needed()
    import pyarrow as pa

    schema = _schema(pa)
    rows: list[dict[str, Any]] = []
    size = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as made:

        def flush() -> None:
            if rows:
                made.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows.clear()

        def write(line: bytes) -> None:
            nonlocal size
            rows.append(_row(json.loads(line)))
            size += len(line)
            # Rows wait in memory for their row group: bounded in number and, for long ones, bytes.
            if len(rows) >= GROUP_ROWS or size > GROUP_BYTES:
                flush()
                size = 0

        yield write
        flush()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    parquet = needed()
    import pyarrow as pa

    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{path} is no Parquet file: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error


def _rows(batch: Any) -> list[dict[str, Any] | None]:
    """Return the rows of a record batch; None for a row with a text that is not in UTF-8."""
    try:
        rows: list[dict[str, Any] | None] = batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        # By halves: one faulty row of many costs a few conversions.
        half = batch.num_rows // 2
        return _rows(batch.slice(0, half)) + _rows(batch.slice(half))
    return rows


def _plain(
    number: int, row: dict[str, Any], model: str | None, *, any_model: bool
) -> InputRequest | BadLine:
    data = {key: value for key, value in row.items() if value is not None}
    for name in JSON_COLUMNS:
        if isinstance(data.get(name), str):
            try:
                data[name] = jsonl.parsed(data[name].encode())
            except ValueError as error:
                return BadLine(number, f"{name} is no JSON: {error}")
    data.setdefault("custom_id", f"line-{number}")
    try:
        text = json.dumps(data, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        return BadLine(number, f"a column has no place in JSON: {error}")
    return jsonl.check(number, data, model, text, any_model=any_model)


def _schema(pa: Any) -> Any:
    kinds = {
        "custom_id": pa.string(),
        "status_code": pa.int32(),
        "content": pa.string(),
        "finish_reason": pa.string(),
        "prompt_tokens": pa.int64(),
        "completion_tokens": pa.int64(),
        "response": pa.string(),
        "error": pa.string(),
    }
    return pa.schema(list(kinds.items()))


def _row(line: dict[str, Any]) -> dict[str, Any]:
    """Return the most wanted fields as columns, and the complete answer as JSON."""
    response, error = line.get("response") or {}, line.get("error")
    body = response.get("body")
    choices = _fields(body).get("choices")
    choice = _fields(choices[0] if isinstance(choices, list) and choices else None)
    usage = _fields(_fields(body).get("usage"))
    return {
        "custom_id": _text(line["custom_id"]),
        "status_code": _count(response.get("status_code")),
        "content": _text(_content(_fields(body), choice)),
        "finish_reason": _text(choice.get("finish_reason")),
        "prompt_tokens": _count(usage.get("prompt_tokens", usage.get("input_tokens"))),
        "completion_tokens": _count(usage.get("completion_tokens", usage.get("output_tokens"))),
        "response": None if body is None else json.dumps(body),
        "error": None if error is None else json.dumps(error),
    }


# An engine may write anything: a value of another kind must not end the output of all others.
def _fields(value: Any) -> dict[str, Any]:
    """Return an object of an answer, empty where another value stands."""
    return value if isinstance(value, dict) else {}


def _content(body: dict[str, Any], choice: dict[str, Any]) -> Any:
    """Return the words of an answer: of a chat, a completion, or one of ``/v1/responses``."""
    output = body.get("output")
    if not isinstance(output, list):
        return _fields(choice.get("message")).get("content", choice.get("text"))
    contents = [_fields(item).get("content") for item in output]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    texts = [_fields(part).get("text") for part in parts]
    return "".join(text for text in texts if isinstance(text, str))


def _count(value: Any) -> int | None:
    """Return a number of an answer; None for another value, and beyond 32 bits."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and abs(value) < 2**31 else None


def _text(value: Any) -> str | None:
    """Return a text of an answer in UTF-8, halves of surrogate pairs as U+FFFD, else JSON."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
