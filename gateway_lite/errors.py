"""The gateway's own error answers, in OpenAI's form."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpc.model import Phase

INVALID = "invalid_request_error"
SERVER = "server_error"
DONE = b"data: [DONE]\n\n"
RETRY_AFTER_S = {
    "QUEUED": 30,
    "STARTING": 10,
    "LOADING": 5,
    "WARMING": 5,
    "DRAINING": 10,
    "READY": 5,
}
"""Seconds after which a model in a phase is worth another try; 60 for other phases."""
LONGEST = 100
"""Characters of a client's own words that an error repeats."""
RETRY_S = 5
"""Seconds after which an unreachable replica may be replaced."""


class ApiError(Exception):
    """An error answer of the gateway, not of an engine.

    Args:
        status: HTTP status.
        message: the failure and its object, in words.
        code: OpenAI's machine-readable code.
        kind: OpenAI's error type.
        param: field of the request at fault.
        headers: further headers of the answer.

    Attributes:
        limit: the key's limit that refused the request; empty for other errors.
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
        """Whether the connection must be closed after the answer."""
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
        """Return the error as the end of an event stream."""
        # The empty line ends an event that broke off in the middle; otherwise the error would be
        # lost in it.
        return b"\n\ndata: " + self.body() + b"\n\n" + DONE


def retry_after(seconds: int) -> tuple[tuple[bytes, bytes], ...]:
    """Return the ``retry-after`` header for a number of seconds."""
    return ((b"retry-after", str(seconds).encode()),)


def unauthorized() -> ApiError:
    """Return the error for a missing, wrong, expired or revoked key."""
    return ApiError(
        401,
        "a valid key is needed, as 'Authorization: Bearer KEY', 'x-api-key: KEY' or 'api-key: KEY'",
        code="invalid_api_key",
        # Closed: another attempt costs another connection, of which there are few without a key.
        headers=((b"www-authenticate", b"Bearer"), (b"connection", b"close")),
    )


def unproved() -> ApiError:
    """Return a sidecar's error for a connection that has not proved that it is the gateway's."""
    return ApiError(
        401,
        "this connection has not proved that it holds the replica's secret",
        code="unproved_connection",
        headers=((b"www-authenticate", b"hpc-serve-proof"), (b"connection", b"close")),
    )


def keys_unusable() -> ApiError:
    """Return the error while the keys file is unusable."""
    return ApiError(
        503,
        "the gateway cannot use its keys file; its log says why",
        code="keys_unusable",
        kind=SERVER,
        headers=retry_after(30),
    )


def misdirected(host: str) -> ApiError:
    """Return the error for a request without a key to another host than this machine."""
    return ApiError(
        421,
        f"without a key this gateway answers to 127.0.0.1, localhost and [::1], not to"
        f" {host[:LONGEST]!r}",
        code="misdirected_request",
        headers=((b"connection", b"close"),),
    )


def cross_site() -> ApiError:
    """Return the error for a request without a key that another site's page caused."""
    return ApiError(
        403,
        "without a key this gateway answers no page of another site; name the page's origin under"
        " gateway.cors, or send a key",
        code="cross_site_request",
        headers=((b"connection", b"close"),),
    )


def not_json() -> ApiError:
    """Return the error for a request without a key whose body is not declared as JSON."""
    return ApiError(
        415,
        "without a key this path takes a body with 'Content-Type: application/json' only",
        code="unsupported_media_type",
        headers=((b"connection", b"close"),),
    )


def unsupported_coding(coding: str, accepted: str) -> ApiError:
    """Return the error for a body that is packed in a way that is not read.

    Args:
        coding: the request's Content-Encoding.
        accepted: the codings that are read, separated by commas.
    """
    return ApiError(
        415,
        f"a body with 'Content-Encoding: {coding[:LONGEST]}' is not read here; send it as"
        f" {accepted}, or plain",
        code="unsupported_content_encoding",
        headers=((b"accept-encoding", accepted.encode()),),
    )


def model_not_allowed(model: str) -> ApiError:
    """Return the error for a model outside the key's allow-list."""
    return ApiError(
        403,
        f"this key may not use the model {model[:LONGEST]!r}",
        code="model_not_allowed",
        param="model",
    )


def model_not_found(model: str) -> ApiError:
    """Return the error for a model that no service has."""
    return ApiError(
        404,
        f"the model {model[:LONGEST]!r} does not exist",
        code="model_not_found",
        param="model",
    )


def model_not_ready(model: str, phase: Phase) -> ApiError:
    """Return the error for a known model without a replica that takes requests."""
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
    """Return the error for a request that finds the queue full."""
    return ApiError(
        429,
        f"too many requests wait for the model {model!r}",
        code="queue_full",
        kind="rate_limit_error",
        headers=retry_after(5),
    )


def queue_timeout(model: str) -> ApiError:
    """Return the error for a request that waited too long for a slot."""
    return ApiError(
        503,
        f"no replica of the model {model!r} became free in time",
        code="queue_timeout",
        kind=SERVER,
        headers=retry_after(10),
    )


def starting() -> ApiError:
    """Return the error before the first read of the state directory."""
    return ApiError(
        503,
        "the gateway has not read its state directory yet",
        code="starting",
        kind=SERVER,
        headers=retry_after(2),
    )


def upstream_unreachable(message: str) -> ApiError:
    """Return the error for a request that reached no replica; the client may try again."""
    return ApiError(502, message, code="upstream_error", kind=SERVER, headers=retry_after(RETRY_S))


def upstream_error(message: str) -> ApiError:
    """Return the error for a failed replica, after the gateway's own retries."""
    return ApiError(
        502,
        message,
        code="upstream_error",
        kind=SERVER,
        headers=((b"x-should-retry", b"false"),),
    )


def upstream_timeout(message: str) -> ApiError:
    """Return the error for a silent replica."""
    return ApiError(504, message, code="upstream_timeout", kind=SERVER)


def draining() -> ApiError:
    """Return the error for a new request while the server finishes its last streams."""
    return ApiError(
        503,
        "the server is shutting down",
        code="draining",
        kind=SERVER,
        headers=(*retry_after(5), (b"connection", b"close")),
    )


def too_large(limit: int) -> ApiError:
    """Return the error for a request body above the limit in bytes."""
    return ApiError(
        413,
        f"the request is larger than {limit} bytes",
        code="request_too_large",
        headers=((b"connection", b"close"),),
    )


def too_many_parts(most: str) -> ApiError:
    """Return the error for a body with more parts than the gateway decodes, such as "9 strings"."""
    return ApiError(400, f"the request has more than {most}", code="request_too_complex")


def busy() -> ApiError:
    """Return the error for a body without room in the gateway's memory."""
    return ApiError(
        503,
        "too many large requests are in progress, most of them of this key",
        code="too_busy",
        kind=SERVER,
        headers=(*retry_after(RETRY_S), (b"connection", b"close")),
    )


def head_too_large() -> ApiError:
    """Return the error for too long or too many headers."""
    return ApiError(
        431,
        "the request's headers are too large",
        code="headers_too_large",
        headers=((b"connection", b"close"),),
    )


def too_slow() -> ApiError:
    """Return the error for a request that did not arrive in time."""
    return ApiError(
        408,
        "the request did not arrive in time",
        code="request_timeout",
        headers=((b"connection", b"close"),),
    )


def bad_request(message: str, *, param: str | None = None) -> ApiError:
    """Return the error for a malformed request."""
    return ApiError(400, message, code="invalid_request", param=param)


def media_refused() -> ApiError:
    """Return the error for media at an address that the model's settings do not name."""
    return ApiError(
        400,
        "media must be part of the request, as data: URLs, or come from a host that the model's"
        " media_domains name",
        code="media_not_allowed",
    )


def not_found(path: str) -> ApiError:
    """Return the error for an unknown path."""
    return ApiError(404, f"the path {path} is not served", code="unknown_url")


def wrong_method(method: str, path: str, allowed: str) -> ApiError:
    """Return the error for another method than the allowed ones, separated by commas."""
    return ApiError(
        405,
        f"{path} does not take {method}",
        code="method_not_allowed",
        headers=((b"allow", allowed.encode()),),
    )


def internal() -> ApiError:
    """Return the error for a fault of the gateway."""
    return ApiError(500, "the gateway failed; its log says why", code="internal", kind=SERVER)
