"""The prober: asks static servers whether they serve, and each replica once for its context.

A probe is one short GET over a new connection, every 20 seconds while a server serves and every 5
seconds while it does not. Requests are no probes and probes no requests: a server that fails a
probe gets requests only where its model has no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway_lite.catalog import engine_reports
from gateway_lite.catalog.engine_reports import MODELS, PROPS, EngineReport
from gateway_lite.upstream.fetch import FetchError, fetch
from hpc.model import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway_lite.catalog.models import Catalog
    from gateway_lite.catalog.replica import Replica
    from gateway_lite.upstream.fetch import FetchedAnswer
    from gateway_lite.upstream.pool import Upstream

log = logging.getLogger(__name__)

READY_S = 20.0
"""Seconds between two probes of a server that serves."""
FAILED_S = 5.0
"""Seconds between two probes of a server that does not serve, and of a replica without an answer.
"""
TRIES = 5
"""Questions for the context of a replica of hpc-serve, whose own record says whether it serves."""
OK = 200


class Prober:
    """The watch over the engines behind a catalog; for use in the event loop.

    Args:
        upstream: connections to replicas.
        changed: called when a report has changed.

    Attributes:
        reports: last report by key of the replica; replaced as a whole.
    """

    def __init__(self, upstream: Upstream, changed: Callable[[], None]) -> None:
        self._upstream = upstream
        self._changed = changed
        self._watched: dict[str, tuple[Replica, asyncio.Task[None]]] = {}
        self._names: dict[str, str] = {}
        self._asked = asyncio.Event()
        self.reports: Mapping[str, EngineReport] = {}

    def adopt(self, catalog: Catalog) -> None:
        """Watch the engines of a catalog from now on, and no others."""
        wanted: dict[str, Replica] = {}
        for model in catalog.models.values():
            for each in (*model.static, *model.replicas):
                if each.secret is not None or each.health is not None:
                    wanted[each.key] = each
                    self._names[each.key] = model.name
        for key, (known, task) in tuple(self._watched.items()):
            if wanted.get(key) != known:
                task.cancel()
                del self._watched[key]
        gone = self.reports.keys() - wanted.keys()
        self.reports = {key: said for key, said in self.reports.items() if key not in gone}
        self._names = {key: name for key, name in self._names.items() if key in wanted}
        for key, replica in wanted.items():
            if key not in self._watched:
                task = asyncio.get_running_loop().create_task(self._watch(replica))
                self._watched[key] = (replica, task)

    async def first(self, timeout_s: float) -> None:
        """Wait for the first report of each static server, for a limited time."""
        self._look_around()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._asked.wait(), timeout_s)

    def _look_around(self) -> None:
        watched = self._watched.items()
        if all(each.secret is not None or key in self.reports for key, (each, _) in watched):
            self._asked.set()

    def warnings(self) -> tuple[str, ...]:
        """Return a sentence for each server that does not serve; called in any thread."""
        names = self._names
        return tuple(
            f"a server of the model {names.get(key, key)!r} {said.reason}"
            for key, said in sorted(self.reports.items())
            if said.phase is not Phase.READY and said.reason
        )

    def close(self) -> None:
        """End all probes."""
        for _, task in self._watched.values():
            task.cancel()
        self._watched.clear()

    async def _watch(self, replica: Replica) -> None:
        if replica.secret is not None:
            await self._ask_replica(replica)
            return
        while True:
            report = await self._ask(replica)
            self._note(replica, report)
            await asyncio.sleep(READY_S if report.phase is Phase.READY else FAILED_S)

    async def _ask_replica(self, replica: Replica) -> None:
        """Ask a replica of hpc-serve for its models, until it answers."""
        for _ in range(TRIES):
            with contextlib.suppress(FetchError):
                report = await self._models(replica, EngineReport(Phase.READY))
                if report.models:
                    self._note(replica, report)
                    return
            await asyncio.sleep(FAILED_S)

    async def _ask(self, replica: Replica) -> EngineReport:
        """Return the present report of a static server."""
        path = replica.health or MODELS
        try:
            answer = await self._get(replica, path)
            report = engine_reports.judged(answer, path)
            if report.phase is not Phase.READY:
                return report
            if path == MODELS:
                return await self._with_props(replica, report)
            before = self.reports.get(replica.key)
            if before is not None and before.models:
                return replace(report, models=before.models)
            with contextlib.suppress(FetchError):
                return await self._models(replica, report)
        except FetchError as error:
            return EngineReport(Phase.FAILED, str(error))
        return report

    async def _models(self, replica: Replica, report: EngineReport) -> EngineReport:
        answer = await self._get(replica, MODELS)
        if answer.status != OK:
            return report
        found = replace(report, models=engine_reports.models_of(answer.body))
        return await self._with_props(replica, found)

    async def _with_props(self, replica: Replica, report: EngineReport) -> EngineReport:
        """Return a report with the context that llama.cpp serves, which its list leaves out."""
        if not any(each.context is None and each.trained for each in report.models):
            return report
        with contextlib.suppress(FetchError):
            answer = await self._get(replica, PROPS)
            context = engine_reports.context_in_props(answer.body) if answer.status == OK else None
            if context is not None:
                models = tuple(
                    each if each.context else replace(each, context=context)
                    for each in report.models
                )
                return replace(report, models=models)
        return report

    async def _get(self, replica: Replica, path: str) -> FetchedAnswer:
        pool = self._upstream.pool(replica.peer)
        return await fetch(self._upstream, pool, path, token=replica.token)

    def _note(self, replica: Replica, report: EngineReport) -> None:
        before = self.reports.get(replica.key)
        if report == before:
            return
        self.reports = {**self.reports, replica.key: report}
        name = self._names.get(replica.key, replica.name)
        if report.phase is not Phase.READY:
            log.warning("the server %s of the model %r %s", replica.url, name, report.reason)
        elif before is not None and before.phase is not Phase.READY:
            log.info("the server %s of the model %r serves again", replica.url, name)
        self._look_around()
        self._changed()
