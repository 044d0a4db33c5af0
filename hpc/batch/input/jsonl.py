"""Requests in JSONL: OpenAI's batch lines, or a prompt or messages on each line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
ANY = "*"
"""The model of a check without a batch: requests may name any model, or none."""
LINE_LIMIT = 16 * 1024 * 1024
"""Largest line in bytes; OpenAI allows 200 MB for a whole file of 50,000 requests."""


@dataclass(frozen=True, slots=True)
class InputRequest:
    """One request of a batch.

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


def read(path: Path, model: str | None = None) -> Iterator[InputRequest | BadLine]:
    """Yield the requests of a JSONL file one by one.

    Args:
        path: the file.
        model: model name for lines without a model.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, text in enumerate(_lines(file), 1):
                if text.strip():
                    yield parse(number, text, model)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def _lines(file: Any) -> Iterator[bytes]:
    """Yield lines; a line over the limit is cut, so that memory holds no more than the limit."""
    while text := file.readline(LINE_LIMIT + 1):
        rest = text
        while len(rest) > LINE_LIMIT and not rest.endswith(b"\n"):
            rest = file.readline(LINE_LIMIT + 1)
        yield text


def parse(number: int, text: bytes, model: str | None = None) -> InputRequest | BadLine:
    """Return the request of a line, or Bad with the reason."""
    if len(text) > LINE_LIMIT:
        return BadLine(number, f"the line is longer than {LINE_LIMIT} bytes", text[:200])
    try:
        data = json.loads(text, parse_constant=_refuse)
    except ValueError as error:
        return BadLine(number, f"no JSON: {error}", text)
    except RecursionError:  # thousands of brackets, by mistake or malice
        return BadLine(number, "the JSON is nested too deeply", text)
    if not isinstance(data, dict):
        return BadLine(number, "no JSON object", text)
    return check(number, data, model, text)


def check(
    number: int, data: dict[str, Any], model: str | None, text: bytes
) -> InputRequest | BadLine:
    """Return the request in the fields of a line or row, or Bad with the reason."""
    found = _openai(data) if "body" in data or "url" in data else _plain(data, number)
    if isinstance(found, str):
        return BadLine(number, found, text)
    custom_id, url, body = found
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
    if not isinstance(url, str) or url not in URLS:
        return f"url is {url!r}, not one of {', '.join(URLS)}"
    if not isinstance(body, dict):
        return "body is no JSON object"
    return custom_id, url, body


def _plain(data: dict[str, Any], number: int) -> tuple[str, str, dict[str, Any]] | str:
    custom_id = data.get("custom_id", f"line-{number}")
    if not isinstance(custom_id, str) or not custom_id:
        return "custom_id is no text"
    body = {key: value for key, value in data.items() if key != "custom_id"}
    if "messages" in body:
        return custom_id, URLS[0], body
    if "prompt" in body:
        return custom_id, URLS[1], body
    return "there is neither body, prompt nor messages"


def _with_model(request: InputRequest, model: str | None, text: bytes) -> InputRequest | BadLine:
    body = request.body
    key = {URLS[0]: "messages", URLS[1]: "prompt", URLS[2]: "input"}[request.url]
    if key not in body:
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
        return BadLine(request.number, f"unknown model {said!r}; this batch has {model!r}", text)
    return request
