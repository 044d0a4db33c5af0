"""What the gateway itself answers when it cannot serve: OpenAI's error object."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpc.model import Phase

INVALID = "invalid_request_error"
SERVER = "server_error"
DONE = b"data: [DONE]\n\n"
RETRY_AFTER_S = {"QUEUED": 30, "STARTING": 10, "LOADING": 5, "DRAINING": 10, "READY": 5}
"""Seconds after which a model in that phase is worth another try; 60 for the rest."""
LONGEST = 100
"""Characters of a client's own words that an error repeats."""
RETRY_S = 5
"""Seconds after which a replica that cannot be reached may be replaced."""


class ApiError(Exception):
    """An answer that is an error of ours, not the engine's.

    Args:
        status: HTTP status.
        message: what failed, and on what.
        code: OpenAI's machine-readable code.
        kind: OpenAI's error type.
        param: the field of the request that is at fault.
        headers: further headers of the answer.

    Attributes:
        limit: which limit of a key refuses; empty where none does.
    """

    limit = ""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        kind: str = INVALID,
        param: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.kind = kind
        self.param = param
        self.headers = headers

    @property
    def closes(self) -> bool:
        """Whether the connection must not be used again after it."""
        return any(name == b"connection" for name, _ in self.headers)

    def body(self) -> bytes:
        """Return the JSON of the answer."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return json.dumps({"error": error}, separators=(",", ":")).encode()

    def frames(self) -> bytes:
        """Return the error as the end of an event stream, whatever came before it."""
        return b"\n\ndata: " + self.body() + b"\n\n" + DONE


def retry_after(seconds: int) -> tuple[tuple[bytes, bytes], ...]:
    """Return the header that says when to come back."""
    return ((b"retry-after", str(seconds).encode()),)


def unauthorized() -> ApiError:
    """Return what a missing, wrong, expired or revoked key gets."""
    return ApiError(
        401,
        "a valid key is needed, as 'Authorization: Bearer KEY'",
        code="invalid_api_key",
        headers=((b"www-authenticate", b"Bearer"),),
    )


def keys_unusable() -> ApiError:
    """Return what everybody gets while the keys file may not be used."""
    return ApiError(
        503,
        "the gateway cannot use its keys file; its log says why",
        code="keys_unusable",
        kind=SERVER,
        headers=retry_after(30),
    )


def model_not_allowed(model: str) -> ApiError:
    """Return what a key gets for a model outside its allow-list."""
    return ApiError(
        403,
        f"this key may not use the model {model[:LONGEST]!r}",
        code="model_not_allowed",
        param="model",
    )


def model_not_found(model: str) -> ApiError:
    """Return what a name gets that nobody serves."""
    return ApiError(
        404,
        f"the model {model[:LONGEST]!r} does not exist",
        code="model_not_found",
        param="model",
    )


def model_not_ready(model: str, phase: Phase) -> ApiError:
    """Return what a known model gets while none of its replicas takes requests."""
    return ApiError(
        503,
        f"the model {model!r} is not ready: {phase.value}",
        code="model_not_ready",
        kind=SERVER,
        headers=(
            *retry_after(RETRY_AFTER_S.get(phase.value, 60)),
            (b"x-model-phase", phase.value.encode()),
        ),
    )


def queue_full(model: str) -> ApiError:
    """Return what a request gets when too many wait already."""
    return ApiError(
        429,
        f"too many requests wait for the model {model!r}",
        code="queue_full",
        kind="rate_limit_error",
        headers=retry_after(5),
    )


def queue_timeout(model: str) -> ApiError:
    """Return what a request gets that waited too long for a free slot."""
    return ApiError(
        503,
        f"no replica of the model {model!r} became free in time",
        code="queue_timeout",
        kind=SERVER,
        headers=retry_after(10),
    )


def starting() -> ApiError:
    """Return what everybody gets until the state directory was read for the first time."""
    return ApiError(
        503,
        "the gateway has not read its state directory yet",
        code="starting",
        kind=SERVER,
        headers=retry_after(2),
    )


def upstream_unreachable(message: str) -> ApiError:
    """Return what a request gets that reached no replica, so that the client may try again."""
    return ApiError(502, message, code="upstream_error", kind=SERVER, headers=retry_after(RETRY_S))


def upstream_error(message: str) -> ApiError:
    """Return what a request gets when its replica failed it; the gateway has retried already."""
    return ApiError(
        502,
        message,
        code="upstream_error",
        kind=SERVER,
        headers=((b"x-should-retry", b"false"),),
    )


def upstream_timeout(message: str) -> ApiError:
    """Return what a request gets when its replica stays silent."""
    return ApiError(504, message, code="upstream_timeout", kind=SERVER)


def draining() -> ApiError:
    """Return what a new request gets while the server finishes its last streams."""
    return ApiError(
        503,
        "the server is shutting down",
        code="draining",
        kind=SERVER,
        headers=(*retry_after(5), (b"connection", b"close")),
    )


def too_large(limit: int) -> ApiError:
    """Return what a request body above the limit, in bytes, gets."""
    return ApiError(
        413,
        f"the request is larger than {limit} bytes",
        code="request_too_large",
        headers=((b"connection", b"close"),),
    )


def head_too_large() -> ApiError:
    """Return what a request with too long or too many headers gets."""
    return ApiError(
        431,
        "the request's headers are too large",
        code="headers_too_large",
        headers=((b"connection", b"close"),),
    )


def too_slow() -> ApiError:
    """Return what a request gets that does not come to its end."""
    return ApiError(
        408,
        "the request did not arrive in time",
        code="request_timeout",
        headers=((b"connection", b"close"),),
    )


def bad_request(message: str, *, param: str | None = None) -> ApiError:
    """Return what a request gets that cannot be understood."""
    return ApiError(400, message, code="invalid_request", param=param)


def not_found(path: str) -> ApiError:
    """Return what an unknown path gets."""
    return ApiError(404, f"there is no {path}", code="unknown_url")


def wrong_method(method: str, path: str, allowed: str) -> ApiError:
    """Return what a known path gets with another method than those allowed, parted by commas."""
    return ApiError(
        405,
        f"{path} does not take {method}",
        code="method_not_allowed",
        headers=((b"allow", allowed.encode()),),
    )


def internal() -> ApiError:
    """Return what a fault of ours gets."""
    return ApiError(500, "the gateway failed; its log says why", code="internal", kind=SERVER)
