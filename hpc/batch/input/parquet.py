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


def read(path: Path, model: str | None, template: Path | None) -> Iterator[InputRequest | BadLine]:
    """Yield a request for each row.

    Args:
        path: the file; without a template its columns are the fields of a JSONL line, where
            ``messages`` and ``body`` may hold JSON as text.
        model: model name for rows without a model.
        template: Jinja2 template of the user's message over the columns.

    Raises:
        ConfigError: a file cannot be read, or the template is faulty.
    """
    # A few rows at a time: a large file may not fit into memory.
    made = csv_rows.compiled(template) if template is not None else None
    with _opened(path) as file:
        number = 0
        for batch in file.iter_batches(batch_size=ROWS_READ):
            for row in batch.to_pylist():
                number += 1
                if made is not None:
                    yield csv_rows.request(number, row, made, model)
                else:
                    yield _plain(number, row, model)


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


def _plain(number: int, row: dict[str, Any], model: str | None) -> InputRequest | BadLine:
    data = {key: value for key, value in row.items() if value is not None}
    for name in JSON_COLUMNS:
        if isinstance(data.get(name), str):
            try:
                data[name] = json.loads(data[name])
            except ValueError as error:
                return BadLine(number, f"{name} is no JSON: {error}")
    data.setdefault("custom_id", f"line-{number}")
    try:
        text = json.dumps(data).encode()
    except TypeError as error:
        return BadLine(number, f"a column has no place in JSON: {error}")
    return jsonl.check(number, data, model, text)


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
    found = body if isinstance(body, dict) else {}
    choice = next(iter(found.get("choices") or ()), None) or {}
    usage = found.get("usage") or {}
    return {
        "custom_id": line["custom_id"],
        "status_code": response.get("status_code"),
        "content": (choice.get("message") or {}).get("content", choice.get("text")),
        "finish_reason": choice.get("finish_reason"),
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "response": None if body is None else json.dumps(body),
        "error": None if error is None else json.dumps(error),
    }
