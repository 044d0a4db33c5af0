"""Requests in JSON: OpenAI's batch lines, or a prompt or messages in each document."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpc import api_paths
from hpc.batch.input.documents import LINE_LIMIT, documents

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OTHER_MODEL = "unknown model"
"""Beginning of the reason for a line that names another model than the batch's."""
SPARE = 200
"""Levels of nesting that are left for the lines around a document, and for deeper stacks."""
ANY = "*"
"""The model of a check without a batch: requests may name any model, or none."""


@dataclass(frozen=True, slots=True)
class InputRequest:
    """A request of a batch.

    Attributes:
        number: line of the input, from 1.
    """

    number: int
    custom_id: str
    url: str
    body: dict[str, Any]

    def line(self) -> bytes:
        """Return the request as a line of OpenAI's format; workers read this line."""
        data = {"custom_id": self.custom_id, "method": "POST", "url": self.url, "body": self.body}
        return json.dumps(data, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line without a valid request, and the reason."""

    number: int
    reason: str
    text: bytes = b""


def read(
    path: Path, model: str | None = None, most: int | None = None, *, any_model: bool = False
) -> Iterator[InputRequest | BadLine]:
    """Yield the requests of a file of JSON one by one.

    Args:
        path: the file: a document per line, or one array of them.
        model: model name for lines without a model.
        most: most bytes of the unpacked file; None is no bound.
        any_model: send lines that name another model to this one, too.

    Raises:
        ConfigError: the file cannot be read.
    """
    for number, text in enumerate(documents(path, most), 1):
        if text.strip():
            yield parse(number, text, model, any_model=any_model)


def parse(
    number: int, text: bytes, model: str | None = None, *, any_model: bool = False
) -> InputRequest | BadLine:
    """Return the request of a line, or Bad with the reason."""
    if len(text) > LINE_LIMIT:
        return BadLine(number, f"the line is longer than {LINE_LIMIT} bytes", text[:200])
    try:
        data = parsed(text)
    except ValueError as error:
        return BadLine(number, f"no JSON: {error}", text)
    if not isinstance(data, dict):
        return BadLine(number, "no JSON object", text)
    return check(number, data, model, text, any_model=any_model)


def parsed(text: bytes) -> Any:
    """Return a decoded document.

    Raises:
        ValueError: the text is no JSON, or nested too deeply.
    """
    if too_deep(text):
        raise ValueError("it is nested too deeply")
    return json.loads(text, parse_constant=_refuse)


def too_deep(text: bytes) -> bool:
    """Return whether a document is nested too deeply to be written and read within another one."""
    # Python bounds the depth by its stack's: what one function reads another may fail to write.
    if text.count(b"[") + text.count(b"{") <= SPARE:
        return False
    try:
        json.loads(b"[" * SPARE + text + b"]" * SPARE)
    except RecursionError:
        return True
    except ValueError:
        return False
    return False


def check(
    number: int, data: dict[str, Any], model: str | None, text: bytes, *, any_model: bool = False
) -> InputRequest | BadLine:
    """Return the request in the fields of a line or row, or Bad with the reason."""
    found = _openai(data) if "body" in data or "url" in data else _plain(data, number)
    if isinstance(found, str):
        return BadLine(number, found, text)
    custom_id, url, body = found
    if any_model and model is not None:
        body = {**body, "model": model}
    return _with_model(InputRequest(number, custom_id, url, body), model, text)


def _refuse(name: str) -> None:
    """Refuse NaN and Infinity, which Python reads although JSON has no such values."""
    raise ValueError(f"{name} is no JSON value")


def _openai(data: dict[str, Any]) -> tuple[str, str, dict[str, Any]] | str:
    custom_id, url, body = data.get("custom_id"), data.get("url"), data.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        return "custom_id is missing or no text"
    if data.get("method", "POST") != "POST":
        return f"method is {data['method']!r}, not 'POST'"
    if not isinstance(url, str) or url not in api_paths.BATCHED:
        return f"url is {url!r}, not one of {', '.join(api_paths.BATCHED)}"
    if not isinstance(body, dict):
        return "body is no JSON object"
    return custom_id, url, body


def _plain(data: dict[str, Any], number: int) -> tuple[str, str, dict[str, Any]] | str:
    custom_id = data.get("custom_id", f"line-{number}")
    if not isinstance(custom_id, str) or not custom_id:
        return "custom_id is no text"
    body = {key: value for key, value in data.items() if key != "custom_id"}
    if "messages" in body:
        return custom_id, api_paths.CHAT, body
    if "prompt" in body:
        return custom_id, api_paths.TEXT, body
    return "there is neither body, prompt nor messages"


def _with_model(request: InputRequest, model: str | None, text: bytes) -> InputRequest | BadLine:
    body = request.body
    key = api_paths.missing(request.url, body)
    if key is not None:
        return BadLine(request.number, f"body has no {key}", text)
    if body.get("stream"):
        return BadLine(request.number, "stream is set; a batch cannot stream its answers", text)
    said = body.get("model")
    if said is None:
        if model is None:
            return BadLine(request.number, "there is no model", text)
        return InputRequest(
            request.number, request.custom_id, request.url, {**body, "model": model}
        )
    if model not in (None, ANY) and said != model:
        return BadLine(request.number, f"{OTHER_MODEL} {said!r}; this batch has {model!r}", text)
    return request
