"""Which web pages may ask, as browsers want to hear it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware

if TYPE_CHECKING:
    from gateway_lite.asgi import App, Receive, Scope, Send

EXPOSED = (
    *("retry-after", "retry-after-ms", "server-timing", "x-request-id", "x-should-retry"),
    *("x-gateway-backend", "x-gateway-cache", "x-gateway-model"),
    *(
        f"x-ratelimit-{w}-{u}"
        for w in ("limit", "remaining", "reset")
        for u in ("requests", "tokens")
    ),
)
AGE_S = 600


class Cors:
    """Wraps an application; without origins it does nothing.

    Args:
        app: what is served.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._inner: App = app
        self._origins: tuple[str, ...] = ()

    def adopt(self, origins: tuple[str, ...]) -> None:
        """Let pages of these origins ask from now on; "*" is all."""
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
        """Serve one request; answer a browser that only asks whether it may."""
        await self._inner(scope, receive, send)

    def lines(self, origin: bytes | None) -> bytes:
        """Return the header lines of an answer that does not pass through here.

        Args:
            origin: of the page that asks, or None.
        """
        if origin is None or not self._origins:
            return b""
        every = "*" in self._origins
        if not every and origin.decode("latin-1") not in self._origins:
            return b"vary: Origin\r\n"
        allowed = b"*" if every else origin
        return b"access-control-allow-origin: %b\r\n%baccess-control-expose-headers: %b\r\n" % (
            allowed,
            b"" if every else b"vary: Origin\r\n",
            ", ".join(EXPOSED).encode(),
        )
