"""The outermost ASGI layer: request ids, authentication, draining, and answers to failures."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from gateway_lite import errors
from gateway_lite.telemetry.request_record import RequestRecord, request_id, shown_key
from gateway_lite.wire import error_forms
from gateway_lite.wire.asgi import ClientGone, header, send_error, send_json
from hpc import peer_proof

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from gateway_lite.auth.web_pages import WebPageGuard
    from gateway_lite.in_flight import InFlight
    from gateway_lite.telemetry.observer import RequestObserver
    from gateway_lite.wire.asgi import App, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

HEALTH = ("/healthz", "/health")


class AuthMiddleware:
    """A wrapper of an application that admits only requests with a key.

    Args:
        app: serves an admitted request.
        authenticate: takes the bearer token, returns the principal or None; raises ApiError.
        in_flight: request counter, shared with the draining server.
        open_health: answer ``/healthz`` without a key.
        proof_secret: the secret by which ``/healthz`` answers challenges; None answers none.
        open_paths: further paths without a key, whose answers reveal nothing.
        seen: observer of every request; None observes nothing.
        guard: check of requests without a key, where such requests are served; None checks nothing.
    """

    def __init__(
        self,
        app: App,
        authenticate: Callable[[bytes], object | None],
        in_flight: InFlight,
        *,
        open_health: bool,
        proof_secret: bytes | None = None,
        open_paths: Collection[str] = (),
        seen: RequestObserver | None = None,
        guard: WebPageGuard | None = None,
    ) -> None:
        self._app = app
        self._authenticate = authenticate
        self._in_flight = in_flight
        self._open_health = open_health
        self._proof_secret = proof_secret
        self._open_paths = open_paths
        self._seen = seen
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        record = RequestRecord(request_id(header(scope, b"x-request-id")), path=scope["path"])
        name = record.name.encode()
        # Anthropic's clients name the version of their API with each request.
        named = header(scope, b"anthropic-version") is not None
        answer = _Answer(send, name, record, error_forms.MESSAGES if named else record.path)
        if self._seen is not None:
            self._seen.begin(record)
        guest = _Guest()
        self._in_flight.enter(guest)
        try:
            await self._serve(scope, receive, answer.send, record, guest)
        except asyncio.CancelledError:
            if not guest.revoked:
                raise
            await answer.fail(errors.unauthorized())
        except ClientGone:
            answer.abandon()
            log.debug("request %s: the client left", record.name)
        except errors.ApiError as error:
            await answer.fail(error)
        except Exception:
            log.exception("request %s failed", record.name)
            await answer.fail(errors.internal())
        # Also for cancelled requests: a lost count would keep the drain waiting.
        finally:
            self._in_flight.leave(guest)
            if self._seen is not None:
                self._seen.end(record)

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, record: RequestRecord, guest: _Guest
    ) -> None:
        if self._in_flight.draining:
            raise errors.draining()
        # From the last to the first: of two headers with one name the first counts.
        headers = dict(reversed(scope["headers"]))
        token = shown_key(headers)
        if self._guard is not None and not token:
            self._guard.check(scope["method"], scope["path"], headers, scope["server"])
        if self._open_health and scope["path"] in HEALTH:
            if scope["method"] not in ("GET", "HEAD"):
                raise errors.wrong_method(scope["method"], scope["path"], "GET, HEAD")
            return await send_json(send, {"status": "ok"}, headers=self._proof(scope))
        if scope["path"] in self._open_paths:
            return await self._app(scope, receive, send)
        principal = guest.principal = scope["principal"] = self._authenticate(token)
        if principal is None:
            raise errors.unauthorized()
        record.key = getattr(principal, "name", "")
        return await self._app(scope, receive, send)

    def _proof(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Return the header that answers a challenge, for the address that the client dialled."""
        challenge = (header(scope, peer_proof.CHALLENGE.encode()) or b"").decode("latin-1")
        if self._proof_secret is None or not peer_proof.is_challenge(challenge):
            return []
        # The connection's own end, not the listener's 0.0.0.0; a Unix socket has a path, no port.
        host, port = scope.get("server") or ("", None)
        place = None if port is None else (host, port)
        proof = peer_proof.prove_gateway(self._proof_secret, place, challenge)
        return [(peer_proof.PROOF.encode(), proof.encode())]


class _Guest:
    """A request in progress, which ends with its key: an upload or a download may last."""

    def __init__(self) -> None:
        self.principal: object | None = None
        self.revoked = False
        self._task = asyncio.current_task()

    def expire(self) -> None:
        """Go on: the server's end waits for the short pages and cuts the long ones."""

    def revoke(self) -> None:
        """End the request, as its key is no longer in force."""
        self.revoked = True
        if self._task is not None:
            self._task.cancel()


class _Answer:
    """The outgoing answer, with the progress so far."""

    def __init__(self, send: Send, name: bytes, record: RequestRecord, form: str) -> None:
        self._send = send
        self._name = name
        self._record = record
        self._form = form  # a path in whose form errors are told
        self._begun = False
        self._events = False

    async def send(self, message: Message) -> None:
        """Pass a message on, with the request's id in the first message."""
        if message["type"] == "http.response.start":
            self._begun = True
            self._events = _is_event_stream(message["headers"])
            message["headers"] = [*message["headers"], (b"x-request-id", self._name)]
            if error_forms.is_anthropic(self._form):
                message["headers"].append((b"request-id", self._name))
            self._record.status = message["status"]
            return await self._send(message)
        await self._send(message)
        self._record.sent(message.get("body", b""), more=message.get("more_body", False))
        return None

    def abandon(self) -> None:
        """Record that the client left."""
        self._record.left()

    async def fail(self, error: errors.ApiError) -> None:
        """Answer with an error, end a begun stream with an error frame, or cut the answer short."""
        self._record.failed(error.status, error.code)
        if not self._begun:
            await send_error(self.send, error, self._form)
        elif self._events:
            await self._send(
                {"type": "http.response.body", "body": error_forms.frames(error, self._form)}
            )


def _is_event_stream(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(n == b"content-type" and v.startswith(b"text/event-stream") for n, v in headers)
