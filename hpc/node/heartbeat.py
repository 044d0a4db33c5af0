"""A replica's endpoint record: one JSON file, rewritten at each phase and heartbeat."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from hpc.errors import StateError
from hpc.state import directory

if TYPE_CHECKING:
    from pathlib import Path

    from hpc.model import Endpoint, Phase
    from hpc.node.addresses import NodeAddresses

log = logging.getLogger(__name__)


class Announcer:
    """The publisher of a replica's endpoint record.

    An unwritable state directory is logged and survived: a full or hanging file system must not
    end a serving model.

    Args:
        root: state directory.
        endpoint: the first record.
    """

    def __init__(self, root: Path, endpoint: Endpoint) -> None:
        self._root = root
        self.endpoint = endpoint

    def __repr__(self) -> str:
        return f"<Announcer {self.endpoint.service}/{self.endpoint.replica} {self.endpoint.phase}>"

    def enter(
        self,
        phase: Phase,
        *,
        port: int | None = None,
        slots: int | None = None,
        certificate: str | None = None,
        place: NodeAddresses | None = None,
        cause: str | None = None,
    ) -> None:
        """Publish a new phase.

        Args:
            phase: the replica's phase from now on.
            port: the sidecar's port, once known.
            slots: requests the engine serves at once, once known.
            certificate: PEM of the sidecar's certificate, once known.
            place: the node's addresses, once known.
            cause: the reason of a failure, in one sentence.
        """
        now = time.time()
        self.endpoint = replace(
            self.endpoint,
            phase=phase,
            beat_at=now,
            port=self.endpoint.port if port is None else port,
            slots=self.endpoint.slots if slots is None else slots,
            certificate=self.endpoint.certificate if certificate is None else certificate,
            host=self.endpoint.host if place is None else place.host,
            addresses=self.endpoint.addresses if place is None else place.others,
            cause=cause,
            phases={**self.endpoint.phases, phase.value: now},
        )
        log.info("phase %s%s", phase.value, f": {cause}" if cause else "")
        self._publish()

    def beat(self) -> None:
        """Publish a heartbeat if the last is older than ``BEAT_S`` seconds."""
        if time.time() - self.endpoint.beat_at >= directory.BEAT_S:
            self.endpoint = replace(self.endpoint, beat_at=time.time())
            self._publish()

    def _publish(self) -> None:
        try:
            directory.save_endpoint(self._root, self.endpoint)
        except StateError as error:
            log.warning("%s", error)
