"""CORS: access for web pages from the configured origins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware

if TYPE_CHECKING:
    from gateway_lite.wire.asgi import App, Receive, Scope, Send

EXPOSED = (
    *("retry-after", "retry-after-ms", "server-timing", "x-request-id", "x-should-retry"),
    "request-id",
    *("x-gateway-backend", "x-gateway-cache", "x-gateway-model"),
    *(
        f"x-ratelimit-{w}-{u}"
        for w in ("limit", "remaining", "reset")
        for u in ("requests", "tokens")
    ),
)
AGE_S = 600


class Cors:
    """A wrapper that adds CORS headers to an application's answers, if origins are configured.

    Args:
        app: the wrapped application.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._inner: App = app
        self._origins: tuple[str, ...] = ()

    def adopt(self, origins: tuple[str, ...]) -> None:
        """Allow pages of these origins from now on; "*" allows all."""
        if origins == self._origins:
            return
        self._origins = origins
        self._inner = self._app
        if origins:
            self._inner = CORSMiddleware(
                self._app,
                allow_origins=origins,
                allow_methods=("GET", "POST", "DELETE"),
                allow_headers=("*",),
                expose_headers=EXPOSED,
                max_age=AGE_S,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or answer a browser's preflight request."""
        await self._inner(scope, receive, send)

    def lines(self, origin: bytes | None) -> bytes:
        """Return the CORS header lines for an answer that bypasses this wrapper.

        Args:
            origin: origin of the requesting page, or None.
        """
        if origin is None or not self._origins:
            return b""
        every = "*" in self._origins
        if not every and origin.decode("latin-1") not in self._origins:
            # A shared cache must not give this answer, without permission, to a page of an allowed
            # origin.
            return b"vary: Origin\r\n"
        allowed = b"*" if every else origin
        return b"access-control-allow-origin: %b\r\n%baccess-control-expose-headers: %b\r\n" % (
            allowed,
            b"" if every else b"vary: Origin\r\n",
            ", ".join(EXPOSED).encode(),
        )
