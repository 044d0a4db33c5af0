"""Requests from a CSV file: one per row, its text from a Jinja2 template over the columns."""

# ruff: noqa: PLC0415 - most input needs none of these

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

from hpc.batch import source
from hpc.batch.source import Bad, Request
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from jinja2 import Template

UNEVEN = "the row has not as many fields as the first row names"


def read(path: Path, model: str | None, template: Path) -> Iterator[Request | Bad]:
    """Yield a chat request for each row of a CSV file whose first row names the columns.

    Args:
        path: the file.
        model: name of the model.
        template: Jinja2 template of the user's message; a column it names must be there.

    Raises:
        ConfigError: a file cannot be read, or the template is faulty.
    """
    made = compiled(template)
    csv.field_size_limit(source.LINE_LIMIT)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            for row in rows:
                if None in row or None in row.values():
                    yield Bad(rows.line_num, UNEVEN)
                else:
                    yield request(rows.line_num, row, made, model)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no CSV file in UTF-8: {error}") from error


def compiled(path: Path) -> Template:
    """Return the template in a file.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(undefined=StrictUndefined)
    try:
        return environment.from_string(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (TemplateError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no Jinja2 template: {error}") from error


def request(
    number: int, row: Mapping[str, Any], template: Template, model: str | None
) -> Request | Bad:
    """Return the chat request of a row, or why there is none."""
    from jinja2 import TemplateError

    if model is None:
        return Bad(number, "there is no model")
    try:
        text = template.render(row)
    except (TemplateError, TypeError, ValueError) as error:
        return Bad(number, f"the template does not take it: {error}")
    custom_id = str(row.get("custom_id") or f"line-{number}")
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return Request(number, custom_id, source.URLS[0], body)
