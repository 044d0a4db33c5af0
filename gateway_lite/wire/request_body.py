"""The request fields that routing needs, decoded without the rest of the body."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway_lite import errors

USUAL_TOKENS = 256
"""Assumed tokens of an answer without a limit in the request."""
BYTES_PER_TOKEN = 4
LENGTHS = {
    "/v1/chat/completions": ("max_completion_tokens", "max_tokens", "n_predict"),
    "/v1/completions": ("max_tokens", "n_predict", "max_completion_tokens"),
    "/v1/responses": ("max_output_tokens",),
}
"""The fields with the length of an answer, by path; the first in a request counts."""
SYSTEM_BYTES = 2048
FIRST_BYTES = 512
LONG_BYTES = 1024
"""Bytes of a system prompt from which the shared prompt decides about affinity, not the
conversation.
"""


class RequestFields(msgspec.Struct, gc=False):
    """The decoded fields of a request; fields that engines check are not checked here.

    Attributes:
        model: requested model.
        stream: whether the client wants a stream.
        messages: raw JSON of a chat; empty for other requests.
    """

    model: str = ""
    stream: bool | None = False
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    n_predict: Any = None
    n: Any = None
    temperature: Any = None
    user: Any = None
    prompt_cache_key: Any = None
    previous_response_id: Any = None
    request_id: Any = None
    stream_options: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()

    def limit(self, path: str) -> int | None:
        """Return the request's limit on the answer in tokens, or None.

        Args:
            path: path in OpenAI's API.
        """
        for name in LENGTHS.get(path, ()):
            value = getattr(self, name)
            if type(value) is int and value > 0:
                return value
        return None

    def tokens(self, prompt: int, limit: int | None) -> int:
        """Return an estimate of the request's tokens, prompt and answer together.

        Args:
            prompt: estimated tokens of the prompt.
            limit: result of ``limit``.
        """
        n = self.n
        each = USUAL_TOKENS if limit is None else limit
        return prompt + (each * n if type(n) is int and n > 0 else each)


class _Message(msgspec.Struct, gc=False):
    role: Any = ""
    content: msgspec.Raw = msgspec.Raw()


_ASK = msgspec.json.Decoder(RequestFields)
_MESSAGES = msgspec.json.Decoder(list[_Message])


def read(body: bytes) -> RequestFields:
    """Return the decoded fields of a request.

    Raises:
        ApiError: the body is not a JSON object, or names no model.
    """
    try:
        # Raw fields are skipped over, not decoded: the cost of a long prompt is one scan.
        ask = _ASK.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.bad_request(f"the request is not valid JSON: {_reason(error)}") from error
    if not ask.model:
        raise errors.bad_request("the request names no model", param="model")
    return ask


def _reason(error: Exception) -> str:
    """Return the decoder's reason, which holds no word of the request."""
    if isinstance(error, msgspec.DecodeError):
        return str(error).removeprefix("JSON is malformed: ")
    return "invalid UTF-8" if isinstance(error, UnicodeDecodeError) else "nested too deeply"


def _invalid(told: str) -> errors.ApiError:
    """Return the error for the decoder's complaint about a typed field."""
    if "$.model" in told:
        return errors.bad_request("the request names no model", param="model")
    if "$.stream" in told:
        return errors.bad_request("'stream' must be true or false", param="stream")
    return errors.bad_request("the request is not a JSON object")


def beginnings(ask: RequestFields, session: str | None) -> tuple[bytes, bytes]:
    """Return the two affinity keys of a request: shared beginning and conversation.

    Args:
        ask: the request.
        session: name of the conversation, or None.
    """
    parts = [session.encode("utf-8", "replace")] if session else []
    if not ask.messages:
        parts.append(bytes(ask.prompt or ask.input)[:SYSTEM_BYTES])
        found = b"\0".join(parts)
        return found, found
    system, first = _opening(bytes(ask.messages))
    parts += system
    chat = b"\0".join([*parts, first])
    return (b"\0".join(parts) if sum(map(len, system)) >= LONG_BYTES else chat), chat


def _opening(messages: bytes) -> tuple[list[bytes], bytes]:
    """Return the system prompt, and the beginning of the first user message."""
    try:
        found = _MESSAGES.decode(messages)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [], messages[:FIRST_BYTES]
    parts: list[bytes] = []
    for message in found:
        if message.role == "user":
            return parts, bytes(message.content)[:FIRST_BYTES]
        parts.append(bytes(message.content)[:SYSTEM_BYTES])
    return parts, b""
