"""The metrics and dashboard data of several workers, joined as if from one gateway."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import operator
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from gateway_lite.telemetry import prometheus_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Sample

log = logging.getLogger(__name__)

PATIENCE_S = 2.0
METRICS = "metrics"
DASHBOARD = "dashboard"
SAME = (
    "_replicas",
    "_heartbeats_stale",
    "_build_info",
    "_start_time_seconds",
    "_max_fds",
    *("_replica_up", "_replica_breaker", "_replica_stalled_seconds"),
    *("_timestamp_seconds", "_file_refused", "_reloads"),
)
"""Ends of metric names whose values are equal in all workers, or known to a single worker; the
maximum is taken, not the sum.
"""


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """The identity of one of several workers.

    Attributes:
        name: name shared by these workers and by no other gateway.
        worker: number of this worker.
        workers: number of workers.
    """

    name: str
    worker: int
    workers: int


class WorkerMessages:
    """Queries to the other workers over sockets without a file.

    Args:
        group: identity of this worker.
        topics: functions that return this worker's data, by topic; called in a thread.
    """

    def __init__(self, group: WorkerGroup, topics: Mapping[str, Callable[[], bytes]]) -> None:
        self._names = [f"\0{group.name}-{number}" for number in range(group.workers)]
        self._worker = group.worker
        self._topics = topics
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to answer the other workers."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(self._names[self._worker])
        self._server = await asyncio.start_unix_server(self._tell, sock=sock)

    def close(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.close()

    def metrics(self) -> bytes:
        """Return the sums over all answering workers; called in a thread."""
        texts = [self._topics[METRICS](), *self.others(METRICS)]
        return merge([text.decode() for text in texts]).encode()

    def others(self, topic: str) -> list[bytes]:
        """Return the data of the other answering workers; called in a thread."""
        found = []
        for number, name in enumerate(self._names):
            if number != self._worker:
                with contextlib.suppress(OSError):
                    found.append(_ask(name, topic))
        return found

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Write this worker's data to a process of the same user."""
        try:
            # Abstract sockets have no permissions: any user of the machine can connect.
            if _peer(writer.get_extra_info("socket")) == os.getuid():
                asked = await asyncio.wait_for(reader.readline(), PATIENCE_S)
                writer.write(await asyncio.to_thread(self._topics[asked.decode().strip()]))
                await writer.drain()
        except (OSError, KeyError, asyncio.TimeoutError) as error:
            log.debug("a worker did not take what we know: %r", error)
        finally:
            writer.close()


def merge(texts: Sequence[str]) -> str:
    """Return one gateway's metrics from the texts of its workers, in Prometheus' text format.

    Counts are added; of values that all workers share, the maximum is taken.
    """
    families: dict[str, Metric] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            known = families.setdefault(family.name, family)
            if known is not family:
                known.samples = _joined(family.name, [*known.samples, *family.samples])
    return "".join(prometheus_text.written(family) for family in families.values())


def _joined(name: str, samples: Iterable[Sample]) -> list[Sample]:
    found: dict[tuple[str, frozenset[tuple[str, str]]], Sample] = {}
    join: Callable[[float, float], float] = max if name.endswith(SAME) else operator.add
    for sample in samples:
        key = sample.name, frozenset(sample.labels.items())
        known = found.get(key)
        value = sample.value if known is None else join(known.value, sample.value)
        found[key] = sample._replace(value=value)
    return list(found.values())


def _ask(name: str, topic: str) -> bytes:
    """Return the data of another worker, if the other process belongs to the same user."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(name)
        if _peer(sock) != os.getuid():
            return b""
        sock.sendall(topic.encode() + b"\n")
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


def _peer(sock: socket.socket) -> int:
    """Return the user id at the other end."""
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", found)[1])
