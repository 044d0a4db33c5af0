"""Requests from a CSV file: one for each row, with a Jinja2 template over the columns."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

from hpc import api_paths
from hpc.batch.input import documents
from hpc.batch.input.jsonl import BadLine, InputRequest
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import TextIO

    from jinja2 import Template

UNEVEN = "the row has not as many fields as the first row names"


def read(path: Path, model: str | None, template: Path) -> Iterator[InputRequest | BadLine]:
    """Yield a chat request for each row of a CSV file; the first row names the columns.

    Args:
        path: the file.
        model: name of the model.
        template: Jinja2 template of the user's message; every column in the template must exist.

    Raises:
        ConfigError: a file cannot be read, or the template is faulty.
    """
    made = compiled(template)
    csv.field_size_limit(documents.LINE_LIMIT)  # by default a field ends at 128 KiB
    try:
        with documents.text(path) as file:
            yield from _requests(file, made, model)
    except csv.Error as error:
        raise ConfigError(f"{path} is no CSV file: {error}") from error


def _requests(
    file: TextIO, template: Template, model: str | None
) -> Iterator[InputRequest | BadLine]:
    """Yield the requests of a file's rows.

    Raises:
        csv.Error: the first row cannot be read.
    """
    rows = csv.DictReader(file, strict=True)
    if any(map(_is_no_utf8, rows.fieldnames or ())):
        raise csv.Error("the names of its columns are not in UTF-8")
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:  # the reader begins anew at the next line
            yield BadLine(rows.reader.line_num, f"no CSV: {error}")
            continue
        if row is None:
            return
        if None in row or None in row.values():
            yield BadLine(rows.line_num, UNEVEN)
        elif any(map(_is_no_utf8, row.values())):
            yield BadLine(rows.line_num, "the row is not in UTF-8")
        else:
            yield request(rows.line_num, row, template, model)


def _is_no_utf8(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)


def compiled(path: Path) -> Template:
    """Return the compiled template of a file.

    Raises:
        ConfigError: the file cannot be read, or holds no valid template.
    """
    from jinja2 import StrictUndefined, TemplateError  # noqa: PLC0415 - most input needs none
    from jinja2.sandbox import SandboxedEnvironment  # noqa: PLC0415

    # Sandboxed: a template from somebody else must not run code as this user.
    environment = SandboxedEnvironment(undefined=StrictUndefined)
    try:
        return environment.from_string(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (TemplateError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no Jinja2 template: {error}") from error


def request(
    number: int, row: Mapping[str, Any], template: Template, model: str | None
) -> InputRequest | BadLine:
    """Return the chat request of a row, or Bad with the reason."""
    from jinja2 import TemplateError  # noqa: PLC0415

    if model is None:
        return BadLine(number, "there is no model")
    try:
        text = template.render(row)
    except (TemplateError, TypeError, ValueError) as error:
        return BadLine(number, f"the template fails for this row: {error}")
    custom_id = str(row.get("custom_id") or f"line-{number}")
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return InputRequest(number, custom_id, api_paths.CHAT, body)
