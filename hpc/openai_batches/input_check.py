"""The check of an uploaded batch file, with errors in OpenAI's wording."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from hpc.batch.input import intake, jsonl
from hpc.batch.input.documents import UnreadableFileError
from hpc.batch.input.jsonl import BadLine
from hpc.errors import ConfigError
from hpc.keys import store as key_store
from hpc.state import directory

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping
    from pathlib import Path

    from hpc.batch.input.jsonl import InputRequest

SHOWN = 100
"""Faulty lines that are reported one by one."""
# The first match counts: the longer beginnings stand before the shorter.
CODES = (
    ("no JSON", "invalid_json_line", None),
    ("the line is longer", "line_too_long", None),
    ("custom_id is missing", "missing_required_parameter", "custom_id"),
    ("custom_id", "duplicate_custom_id", "custom_id"),
    ("method", "invalid_method", "method"),
    ("url", "invalid_url", "url"),
    ("there is no model", "missing_required_parameter", "body.model"),
    ("body", "missing_required_parameter", "body"),
    ("stream", "invalid_request", "body.stream"),
)
"""Beginnings of our reasons, each with OpenAI's code and the field at fault."""


class RefusedError(Exception):
    """The end of a batch before its start.

    Args:
        status: the batch's final status, in OpenAI's words.
        errors: the reasons.
    """

    def __init__(self, status: str, *errors: Mapping[str, Any]) -> None:
        super().__init__(status)
        self.status = status
        self.errors = errors


@dataclass(slots=True)
class CheckedInput:
    """The findings in a file.

    Attributes:
        total: number of valid requests.
        bad: number of faulty lines.
        errors: the first faults, as OpenAI's errors.
        models: requested model names.
    """

    total: int = 0
    bad: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    models: set[str] = field(default_factory=set)


def error(code: str, message: str, line: int | None = None, param: str | None = None) -> Any:
    """Return one error of a batch in OpenAI's form."""
    return {"code": code, "message": message, "param": param, "line": line}


def read(path: Path, endpoint: str, models: Container[str], most: int) -> CheckedInput:
    """Check every line of a file.

    Args:
        path: the file.
        endpoint: URL path that every request must have.
        models: allowed model names.
        most: most bytes of the file, once unpacked.

    Raises:
        RefusedError: the file is missing or cannot be unpacked, or a line is faulty.
    """
    try:
        seen = judge(intake.unique(jsonl.read(path, most=most)), endpoint, models)
    except UnreadableFileError as unreadable:
        told = str(unreadable).replace(str(path), f"the file {path.parent.name}")
        raise RefusedError("failed", error("invalid_file_format", told)) from unreadable
    except ConfigError as gone:
        told = f"the file {path.parent.name} has been deleted, or cannot be read"
        raise RefusedError("failed", error("file_not_found", told)) from gone
    if seen.errors:
        raise RefusedError("failed", *seen.errors)
    return seen


def judge(
    found: Iterable[InputRequest | BadLine], endpoint: str, models: Container[str]
) -> CheckedInput:
    """Check requests while they are read."""
    seen = CheckedInput()
    for one in found:
        wrong = _of_line(one) if isinstance(one, BadLine) else _of_request(one, endpoint, models)
        if wrong is None and not isinstance(one, BadLine):
            seen.total += 1
            seen.models.add(one.body["model"])
            continue
        seen.bad += 1
        if len(seen.errors) < SHOWN:
            seen.errors.append(wrong)
    if not seen.total and not seen.bad:
        seen.errors.append(error("empty_file", "there is no request in the file"))
    return seen


def _of_line(bad: BadLine) -> Any:
    for beginning, code, param in CODES:
        if bad.reason.startswith(beginning):
            return error(code, bad.reason, bad.number, param)
    return error("invalid_request", bad.reason, bad.number)


def _of_request(one: InputRequest, endpoint: str, models: Container[str]) -> Any:
    if one.url != endpoint:
        told = f"url is {one.url!r}, and the batch is for {endpoint!r}"
        return error("mismatched_endpoint", told, one.number, "url")
    model = one.body["model"]
    if not isinstance(model, str) or model not in models:
        told = (
            f"the model {str(model)[:100]!r} does not exist, or this key may not use it;"
            " an alias in models.yaml gives a model another name"
        )
        return error("model_not_found", told, one.number, "body.model")
    return None


def check_key(root: Path, key: str) -> None:
    """Check that the key of a batch is in force.

    Args:
        root: the state directory.
        key: id of the client key.

    Raises:
        RefusedError: the key is revoked or has expired.
        HpcServeError: the keys file is not usable at the moment.
    """
    if key == key_store.ANONYMOUS_ID:
        return
    now = datetime.now(timezone.utc)
    known = key_store.load(directory.keys_path(root))
    if not any(one.id == key and one.in_force(now) for one in known):
        told = "the key of this batch has been revoked or has expired"
        raise RefusedError("failed", error("invalid_api_key", told))
