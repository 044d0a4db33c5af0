"""The assembly of one gateway process."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router

from gateway_lite import errors
from gateway_lite.api import base_urls
from gateway_lite.api.batches.batches import BatchPages
from gateway_lite.api.batches.expiry import ExpiredFiles
from gateway_lite.api.batches.files import FilePages
from gateway_lite.api.batches.processor import ProcessorStarter
from gateway_lite.api.dashboard import PAGE, Dashboard, Sources
from gateway_lite.api.middleware import HEALTH, AuthMiddleware
from gateway_lite.api.ollama import ROOT, OllamaPages
from gateway_lite.api.openapi.document import Documents
from gateway_lite.api.responses import TOPIC, ResponsePages
from gateway_lite.api.status import READY, StatusPages
from gateway_lite.auth.client_keys import ClientKeys
from gateway_lite.auth.rate_limits import Limits
from gateway_lite.auth.web_pages import WebPageGuard
from gateway_lite.catalog import engine_reports
from gateway_lite.catalog.job_status import NAME, JobStatuses
from gateway_lite.catalog.prober import Prober
from gateway_lite.catalog.scanner import Scanner
from gateway_lite.catalog.watcher import Watcher
from gateway_lite.features import tracing
from gateway_lite.features.anthropic import requests as anthropic_requests
from gateway_lite.features.cors import Cors
from gateway_lite.features.ollama import requests as ollama_requests
from gateway_lite.features.stored_responses import StoredResponses
from gateway_lite.in_flight import InFlight
from gateway_lite.request.gateway_handler import GatewayHandler
from gateway_lite.routing.balancer import Balancer
from gateway_lite.routing.model_rules import Table
from gateway_lite.telemetry.access_log import AccessLog
from gateway_lite.telemetry.history import History
from gateway_lite.telemetry.metrics import Metrics
from gateway_lite.telemetry.observer import RequestObserver
from gateway_lite.telemetry.workers import DASHBOARD, METRICS, WorkerMessages
from gateway_lite.upstream.pool import Upstream
from gateway_lite.wire.write_batching import WriteBatcher
from hpc.api_paths import POST_PATHS
from hpc.state import directory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gateway_lite.catalog.models import Catalog
    from gateway_lite.catalog.models_file import ModelsFile
    from gateway_lite.routing.shared_slots import SlotTable
    from gateway_lite.settings import GatewaySettings
    from gateway_lite.telemetry.workers import WorkerGroup
    from gateway_lite.wire.asgi import App, Receive, Scope, Send

POSTS = (*POST_PATHS, *ollama_requests.PATHS, *anthropic_requests.PATHS)
HOT = {(b"POST", path.encode()): path for path in POSTS}

OPEN = frozenset({PAGE, READY, ROOT, *(path for _, path in Documents.OWN)})
"""Paths that browsers and probes ask for without a key."""
FIRST_PROBE_S = 2.0
"""Longest time in seconds that a start waits for the word of static servers."""


class Gateway:
    """All parts of a gateway process; made in the event loop.

    Args:
        root: the state directory.
        models: the models.yaml in force.
        settings: timeouts and bounds.
        beat: publishes the gateway's heartbeat, or None.
        access_log: path of the access log, or None.
        limits: limits of keys.
        anonymous: admit requests without a key.
        proof_secret: the secret by which the gateway proves itself, or None.
        group: identity of one of several workers; None for a single process.
        slots: engine slots shared by all workers; None for a single process.
    """

    def __init__(  # noqa: PLR0913 - what differs between gateways meets here
        self,
        root: Path,
        models: ModelsFile,
        settings: GatewaySettings,
        *,
        beat: Callable[[], None] | None = None,
        access_log: Path | None = None,
        limits: Limits | None = None,
        anonymous: bool = False,
        proof_secret: bytes | None = None,
        group: WorkerGroup | None = None,
        slots: SlotTable | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._beat = beat
        self._proof_secret = proof_secret
        self._models = models
        self.in_flight = InFlight()
        self._catalog: Catalog | None = None
        self._scanned: Catalog | None = None
        self._table = Table(models.policy, ())
        self._processor = ProcessorStarter(root, socket.gethostname())
        self._expired = ExpiredFiles(root)
        # One step per room, from the lowest up: each is made of those before it.
        batcher = WriteBatcher()
        self._upstream = Upstream(settings, batcher)
        self._stored = StoredResponses(lambda: self._others(TOPIC))
        keys = self._keys = ClientKeys(root, anonymous=anonymous)
        self._in_force: frozenset[str] = frozenset()
        self._slots = slots
        self._balancer = Balancer(settings, slots=slots)
        self._job_statuses = _job_statuses(root, group)
        self._prober = Prober(self._upstream, self._publish_again)
        self.watcher = self._make_watcher(root, keys, settings)
        self._history, self._seen = self._make_telemetry(access_log)
        dashboard = self._make_dashboard(keys)
        topics = {METRICS: self._seen.render, DASHBOARD: dashboard.share, TOPIC: self._stored.share}
        self._messages = None if group is None else WorkerMessages(group, topics)
        self._guard = WebPageGuard() if anonymous else None
        self.app = self._cors = Cors(self._make_pages(root, keys, dashboard))
        self._tracer = tracing.configured(None)
        self.handler = GatewayHandler(
            catalog=self._known,
            keys=keys,
            limits=self._limits,
            balancer=self._balancer,
            upstream=self._upstream,
            watcher=self.watcher,
            seen=self._seen,
            in_flight=self.in_flight,
            batcher=batcher,
            settings=settings,
            cors=self._cors,
            tracer=self._tracer,
            workers=1 if group is None else group.workers,
            guard=self._guard,
            stored=self._stored,
        )

    def _make_watcher(self, root: Path, keys: ClientKeys, settings: GatewaySettings) -> Watcher:
        scanner = Scanner(root, self._models.backends, self._job_statuses.look)
        return Watcher(
            scanner,
            keys,
            self._models,
            beat=self._record,
            publish=self._publish,
            settings=settings,
            warnings=self._prober.warnings,
        )

    def _make_telemetry(self, access_log: Path | None) -> tuple[History, RequestObserver]:
        metrics = Metrics()
        observer = RequestObserver(
            models=lambda: self._catalog.models if self._catalog else {},
            metrics=metrics,
            log=None if access_log is None else AccessLog(access_log),
            balancer=self._balancer,
            file=self._models,
        )
        return History(metrics.counters), observer

    def _make_dashboard(self, keys: ClientKeys) -> Dashboard:
        return Dashboard(
            Sources(
                live=self._seen.live,
                history=self._history,
                keys=keys.all,
                use=self._limits.use,
                models=self._models,
                draining=lambda: self.in_flight.draining,
                others=lambda: self._others(DASHBOARD),
            )
        )

    def _make_pages(self, root: Path, keys: ClientKeys, dashboard: Dashboard) -> App:
        """Return the application for all paths but those of engines, behind the check of keys."""
        metrics = self._seen.render if self._messages is None else self._messages.metrics
        status = StatusPages(self._known, self._models, metrics, lambda: self._table.aliases)
        pages = [
            *status.routes(),
            *OllamaPages(self._known, lambda: self._table.aliases).routes(),
            *ResponsePages(
                self._stored,
                self._known,
                lambda: self._table.aliases,
                self._upstream,
                self._limits,
            ).routes(),
            *dashboard.routes(),
            *FilePages(root, lambda: self._models.policy, self._limits).routes(),
            *BatchPages(
                root, lambda: self._models.policy, self._limits, status.open_names
            ).routes(),
        ]
        return AuthMiddleware(
            _router([*pages, *Documents(_served(pages)).routes()]),
            keys.find,
            self.in_flight,
            open_health=True,
            proof_secret=self._proof_secret,
            open_paths=OPEN,
            seen=self._seen,
            guard=self._guard,
        )

    async def start(self) -> None:
        """Start the watching thread, and wait for the first read of the state directory."""
        if self._messages is not None:
            await self._messages.start()
        if self._slots is not None:
            self._slots.listen(self._balancer.wake_all)
        self.watcher.start()
        await self.watcher.again(timeout_s=10.0)
        await self._prober.first(FIRST_PROBE_S)

    async def close(self) -> None:
        """Close all connections to replicas, and write the rest of logs, usage and traces."""
        self.handler.close()
        self.watcher.stop()
        self._prober.close()
        self._job_statuses.close()
        await self._upstream.close()
        self._seen.close()
        self._limits.close()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
        if self._messages is not None:
            self._messages.close()

    def _record(self) -> None:
        """Publish heartbeat and usage; called by the watching thread."""
        if self._beat is not None:
            self._beat()
            self._expired.look()
            self._processor.look()  # of several workers the one that publishes
        self._limits.sync()

    def _others(self, topic: str) -> list[bytes]:
        """Return the data of other workers; called in a thread."""
        return [] if self._messages is None else self._messages.others(topic)

    def _known(self) -> Catalog:
        if self._catalog is None:
            raise errors.starting()
        return self._catalog

    def _publish(self, scanned: Catalog) -> None:
        """Serve by a new catalog, with the last word of its engines."""
        self._scanned = scanned
        self._prober.adopt(scanned)
        catalog = self._catalog = engine_reports.informed(scanned, self._prober.reports)
        policy = self._models.policy
        self._table = Table(policy, catalog.models, catalog.bases())
        self.handler.adopt(policy, self._table)
        self._cors.adopt(policy.cors)
        if self._guard is not None:
            self._guard.adopt(policy.cors)
        self._balancer.update(catalog.pools(), self._table.routing)
        # After the balancer: from here on no request chooses a removed replica, so its pool may
        # close.
        self._upstream.keep(catalog.peers())
        self.handler.forget()

    def _publish_again(self) -> None:
        """Serve by the last catalog with a new word of its engines."""
        if self._scanned is not None:
            self._publish(self._scanned)

    def _end_revoked(self) -> None:
        """End the requests in progress of keys that were revoked or have expired."""
        known = self._keys.in_force()
        # An unusable keys file admits nobody, but says nothing of who was admitted before.
        if known is not None and known != self._in_force:
            self._in_force = known
            self.in_flight.revoke(lambda key: key.id in known)

    def look(self, passed_s: float) -> None:
        """Check the timeouts of replicas and connections; called about once a second."""
        self._end_revoked()
        self._upstream.look(passed_s)
        self._balancer.tick(passed_s)
        self.handler.look(passed_s)
        self._limits.tick()
        self._history.look()


def _job_statuses(root: Path, group: WorkerGroup | None) -> JobStatuses:
    """Return the source of job states; of several workers the first one queries Slurm."""
    if group is None:
        return JobStatuses()
    return JobStatuses(
        directory.gateway_dir(root, socket.gethostname()) / NAME, asks=not group.worker
    )


def _served(pages: Sequence[Route]) -> list[tuple[str, str]]:
    """Return method and path of all served operations, in OpenAPI's form."""
    own = [
        (method, route.path.replace(":path}", "}"))
        for route in pages
        for method in route.methods or ()
        if method != "HEAD"
    ]
    return [*own, *(("POST", path) for path in POSTS), *(("GET", path) for path in HEALTH)]


def _router(pages: Sequence[Route]) -> App:
    router = Router(pages, redirect_slashes=False)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = router
        try:
            await router(scope, receive, send)
        except HTTPException as error:
            path = scope["path"]
            allowed = "POST" if path in POSTS else (error.headers or {}).get("Allow")
            if allowed is not None and not (path in POSTS and scope["method"] == "POST"):
                raise errors.wrong_method(scope["method"], path, allowed) from error
            raise errors.not_found(path, base_urls.hint(path, POSTS)) from error

    return dispatch
