"""The live dashboard: a public HTML page, and data for a key."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
import re
import socket
import time
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from gateway_lite import errors
from gateway_lite.api import dashboard_data
from gateway_lite.api.dashboard_data import DashboardView, Share
from hpc.errors import GatewayError
from hpc.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from starlette.requests import Request

    from gateway_lite.catalog.models_file import ModelsFile
    from gateway_lite.telemetry.history import History
    from gateway_lite.telemetry.metrics import LiveSnapshot
    from hpc.keys.store import ClientKey
    from hpc.keys.usage import Use

    Json = dict[str, Any]

log = logging.getLogger(__name__)

PAGE = "/dashboard"
DATA = "/dashboard/data"
INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
PRIVATE = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of the dashboard's data.

    Attributes:
        live: returns the values measured now.
        history: recent counts.
        keys: returns all keys of the file.
        use: returns the usage of keys, by id; called in the event loop.
        models: the models.yaml in force.
        draining: returns whether the gateway is about to end.
        others: returns the data of other workers; called in a thread.
    """

    live: Callable[[], LiveSnapshot]
    history: History
    keys: Callable[[], Iterable[ClientKey]]
    use: Callable[[], Mapping[str, Use]]
    models: ModelsFile
    draining: Callable[[], bool]
    others: Callable[[], Iterable[bytes]] = tuple


class Dashboard:
    """The page and its data.

    Args:
        sources: sources of the data.
        clock: returns Unix time.
    """

    def __init__(self, sources: Sources, clock: Callable[[], float] = time.time) -> None:
        self._from = sources
        self._clock = clock
        self._started_at = clock()
        self._hostname = socket.gethostname()
        self._html = (files("gateway_lite") / "pages" / "dashboard.html").read_bytes()
        self._headers = {**PRIVATE, "content-security-policy": policy(self._html.decode())}

    def routes(self) -> list[Route]:
        """Return the routes of page and data; the page needs no key."""
        return [Route(PAGE, self.page), Route(DATA, self.data)]

    async def page(self, request: Request) -> Response:
        """Answer with the page, which is the same for all users."""
        del request
        return Response(self._html, media_type="text/html", headers=self._headers)

    async def data(self, request: Request) -> Response:
        """Answer with the data that the key may see.

        Raises:
            ApiError: the key may not see the requested model.
        """
        key: ClientKey = request.scope["principal"]
        chosen = request.query_params.get("model", "")
        if chosen and not key.allows(chosen):
            raise errors.model_not_allowed(chosen)
        use: Mapping[str, Use] = {}
        try:
            use = self._from.use()
        except GatewayError as error:
            log.error("%s", error)  # noqa: TRY400 - a sentence, no fault of ours
        # In a thread: the other workers are queried over blocking sockets.
        told = await asyncio.to_thread(self._told, key, chosen, use)
        body = msgspec.json.encode(told)
        return Response(body, media_type="application/json", headers=PRIVATE)

    def share(self) -> bytes:
        """Return this worker's data for the joint view; called in any thread."""
        return msgspec.json.encode(self._share(self._from.live()))

    def _share(self, live: LiveSnapshot) -> Share:
        return dashboard_data.share(self._from.history.steps(), live)

    def _told(self, key: ClientKey, chosen: str, use: Mapping[str, Use]) -> Json:
        live, now = self._from.live(), self._clock()
        shares = [self._share(live)]
        for told in self._from.others():
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                shares.append(msgspec.json.decode(told, type=Share))
        models = dashboard_data.visible(live.models, key)
        if chosen and chosen not in models:
            raise errors.model_not_found(chosen)
        found = DashboardView(
            dashboard_data.together(shares), models, now=now, started_at=self._started_at
        )
        names = (chosen,) if chosen else dashboard_data.counted(models, everything=key.sees_all())
        return {
            "time": now,
            "gateway": self._gateway(now, len(shares)),
            "you": {"name": key.name, "sees_all": key.sees_all()},
            "models_file": self._models_file(),
            "model": chosen,
            "models": found.models(),
            "windows": found.windows(names),
            "chart": found.chart(names),
            "keys": found.keys(self._keys(key, now), use),
        }

    def _gateway(self, now: float, workers: int) -> Json:
        return {
            "version": __version__,
            "host": self._hostname,
            "started_at": self._started_at,
            "uptime_s": round(now - self._started_at, 1),
            "workers": workers,
            "draining": self._from.draining(),
        }

    def _models_file(self) -> Json:
        """Return the state of models.yaml, without its folder, which users need not learn."""
        found, path = self._from.models.outcome, self._from.models.path
        refused = found.refused
        if refused is not None and path is not None:
            refused = refused.replace(f"{path.parent}/", "")
        return {
            "taken_at": found.taken_at,
            "refused": refused,
            "refused_at": found.refused_at,
            "added": found.added,
            "removed": found.removed,
            "changed": found.changed,
        }

    def _keys(self, key: ClientKey, now: float) -> list[ClientKey]:
        known = dashboard_data.in_force(self._from.keys(), now)
        return known if key.sees_all() else [one for one in known if one.id == key.id]


def policy(html: str) -> str:
    """Return a content security policy that allows only the page's own inline code.

    Source: https://www.w3.org/TR/CSP3/
    """
    found: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        found[kind].append(f"'sha256-{digest}'")
    return (
        f"default-src 'none'; script-src {' '.join(found['script'])};"
        f" style-src {' '.join(found['style'])}; connect-src 'self'; img-src data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
