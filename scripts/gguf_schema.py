"""What gguf_api_server.py reads and answers: OpenAI's requests and errors."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from jinja2 import TemplateError
from pydantic import AfterValidator, BaseModel, Field
from starlette.exceptions import HTTPException

BUSY = 503
ELSEWHERE = "llama-server has it (server: llama-server in models.yaml)"
UNLIMITED = -1


def _tokens(value: int | None) -> int | None:
    """Return a limit of tokens; -1 is none, as llama-server has it."""
    if value is not None and value != UNLIMITED and value < 1:
        raise ValueError("allowed: 1 and more, or -1 for as much as the context holds")
    return value


def _one(value: int | None) -> int | None:
    if value not in (None, 1):
        raise ValueError(f"one answer per request is served here; {ELSEWHERE}")
    return value


Tokens = Annotated[int | None, AfterValidator(_tokens)]


class StreamOptions(BaseModel):
    """OpenAI's ``stream_options``."""

    include_usage: bool = False


class Body(BaseModel):
    """What both kinds of completions take; anything else is ignored, as other servers do."""

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int | None, AfterValidator(_one)] = None
    max_tokens: Tokens = None
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = None
    min_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: float | None = Field(None, gt=0)
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    logit_bias: dict[str, float] | None = None


class ChatBody(Body):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: Tokens = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class TextBody(Body):
    """POST /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]] = Field(min_length=1)
    echo: bool | None = None
    logprobs: int | None = None


class ApiError(Exception):
    """An answer in OpenAI's error schema."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": None, "code": code}}

    def response(self) -> JSONResponse:
        """Return it as an answer; a full or loading server says when to come back."""
        headers = {"Retry-After": "1"} if self.status == BUSY else None
        return JSONResponse(self.body, self.status, headers)


def explained(error: Exception) -> ApiError:
    """Return what a failed request means to its client."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail))
    for kind, explain in (
        (RequestValidationError, _invalid),
        (TemplateError, _template),
        (ValueError, _refused),
    ):
        if isinstance(error, kind):
            return explain(error)
    return ApiError(500, "the model failed on this request", kind="server_error")


def _invalid(error: Any) -> ApiError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return ApiError(400, f"{where}: {first['msg'].removeprefix('Value error, ')}")


def _template(error: Exception) -> ApiError:
    return ApiError(400, f"the model's chat template refuses these messages: {error}")


def _refused(error: Exception) -> ApiError:
    if "logits_all" in str(error):
        return ApiError(400, f"logprobs are not served here; {ELSEWHERE}")
    long = "exceed context window" in str(error)
    return ApiError(400, str(error), code="context_length_exceeded" if long else None)


def json_schema(wanted: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the JSON schema that an answer must follow, which the library takes in its own way.

    Raises:
        ApiError: it is asked for, and not there.
    """
    if wanted is None or wanted.get("type") != "json_schema":
        return None
    schema = (wanted.get("json_schema") or {}).get("schema")
    if not isinstance(schema, dict):
        raise ApiError(400, "response_format: json_schema has no schema")
    return schema


def text_only(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages whose text parts are joined, as chat templates expect them.

    Raises:
        ApiError: a part is not text, or a message has no role.
    """
    found = []
    for index, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise ApiError(400, f"messages.{index}.role is missing or no text")
        # A tool call comes with null or no content; chat templates join texts, and fail on None.
        content = message.get("content") or ""
        if isinstance(content, list):
            if any(not isinstance(part, dict) or part.get("type") != "text" for part in content):
                raise ApiError(400, "this server reads text only")
            content = "".join(str(part.get("text") or "") for part in content)
        if not isinstance(content, str):
            raise ApiError(400, f"messages.{index}.content is neither text nor a list of parts")
        found.append({**message, "content": content})
    return found
