"""OpenAI's Batches API: requests are recorded here, and processed by the batch processor.

Descriptions of batches are made from the processor's records.
"""

from __future__ import annotations

import re
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway_lite import errors
from gateway_lite.api.batches import common, expiry
from gateway_lite.wire.asgi import read_body
from hpc.openai_batches import records as batch_records
from hpc.openai_batches.records import FINAL, BatchProgress, BatchRecord
from hpc.state import directory, lock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from starlette.requests import Request

    from gateway_lite.api.batches.common import Json
    from gateway_lite.auth.rate_limits import Limits
    from hpc.gateway_policy import GatewayPolicy

BODY_BYTES = 64 * 1024
MIB = 1024 * 1024
BATCHES = 20
"""Batches on a page if the client gives no limit."""
KEPT = 10
"""Kept records of a key's batches, as a multiple of its most open batches."""
WINDOW = re.compile(r"([1-9][0-9]{0,2})([hd])")
HOURS = {"h": 1, "d": 24}
LONGEST_H = 30 * 24
PAIRS, NAME, VALUE = 16, 64, 512
"""Entries of metadata, and characters of their names and values, as in OpenAI's API."""
FIELDS = frozenset(
    {"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"}
)


class BatchPages:
    """The paths below ``/v1/batches``.

    Args:
        root: the state directory.
        policy: returns the gateway's policy; a largest file of 0 serves no batches.
        limits: the limits of keys, which hold here too.
        names: returns the names of models that a key may use, by the key's check of a name.
    """

    def __init__(
        self,
        root: Path,
        policy: Callable[[], GatewayPolicy],
        limits: Limits,
        names: Callable[[Callable[[str], bool]], tuple[str, ...]],
    ) -> None:
        self._root = root
        self._policy = policy
        self._limits = limits
        self._names = names

    def routes(self) -> list[Route]:
        """Return the routes of these paths."""
        every, one, cancel = (
            common.counted(self._limits, page) for page in (self.all, self.one, self.cancel)
        )
        return [
            Route("/v1/batches", every, methods=["GET", "POST"]),
            Route("/v1/batches/{batch_id}", one),
            Route("/v1/batches/{batch_id}/cancel", cancel, methods=["POST"]),
        ]

    async def all(self, request: Request) -> Response:
        """List the batches of the key, or create a batch.

        Raises:
            ApiError: the request is invalid, or the state directory not usable.
        """
        if not self._policy().batch_file_mib:
            raise common.off()
        if request.method == "POST":
            return JSONResponse(await self._take(request))
        known = await common.on_disk(self._listed, common.owner(request))
        return JSONResponse(common.page(known, request, most=BATCHES))

    def _listed(self, key: str) -> list[Json]:
        return [self._shown(order) for order in batch_records.batches(self._root, key)]

    async def _take(self, request: Request) -> Json:
        key = common.owner(request)
        body = await read_body(request.scope, request.receive, BODY_BYTES)
        order = asked(body, key, int(time.time()))
        file = await common.on_disk(batch_records.load_file, self._root, key, order.file)
        if file is None:
            raise common.no_file(order.file)
        # The batch processor checks the lines by these names: its batch token opens no list.
        order = replace(
            order,
            models=self._names(request.scope["principal"].allows),
            most_bytes=self._policy().batch_file_mib * MIB,
        )
        await common.on_disk(self._place, order)
        return shown(order, BatchProgress(), None)

    def _place(self, order: BatchRecord) -> None:
        """Record a batch, if the key may have another one.

        Raises:
            ApiError: the key has too many open batches, or no room for the files of answers.
        """
        policy = self._policy()
        # Locked: of batches that are created at once, at several workers, each sees those before.
        with lock.exclusive(directory.batch_records_dir(self._root, order.key) / "batches"):
            if batch_records.count_open(self._root, order.key) >= policy.open_batches:
                raise common.too_many_batches(policy.open_batches)
            if batch_records.stock(self._root, order.key).files >= policy.batch_files:
                raise common.too_many_files(policy.batch_files)
            batch_records.place(self._root, order)
            batch_records.forget_oldest(self._root, order.key, KEPT * policy.open_batches)

    async def one(self, request: Request) -> Response:
        """Describe a batch.

        Raises:
            ApiError: no batch has this id, or the state directory is not usable.
        """
        order = await self._find(request)
        return JSONResponse(await common.on_disk(self._shown, order))

    async def cancel(self, request: Request) -> Response:
        """Request the end of a batch.

        Raises:
            ApiError: no batch has this id, the batch is over, or the state directory not usable.
        """
        order = await self._find(request)
        progress = await common.on_disk(batch_records.load_progress, self._root, order)
        if progress.status in FINAL - {"cancelled"}:
            raise common.over(order.id, progress.status)
        await common.on_disk(batch_records.cancel, self._root, order)
        return JSONResponse(await common.on_disk(self._shown, order))

    async def _find(self, request: Request) -> BatchRecord:
        if not self._policy().batch_file_mib:
            raise common.off()
        name = request.path_params["batch_id"]
        return await common.find(
            batch_records.load_batch, self._root, request, name, common.no_batch
        )

    def _shown(self, order: BatchRecord) -> Json:
        cancelled_at = batch_records.cancelled_at(self._root, order)
        return shown(order, batch_records.load_progress(self._root, order), cancelled_at)


def asked(body: bytes, key: str, now: int) -> BatchRecord:
    """Return the batch that a request asks for.

    Args:
        body: the request's JSON.
        key: id of the requesting key.
        now: Unix time.

    Raises:
        ApiError: the request is invalid; names the field at fault.
    """
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.bad_request("the body is no JSON") from error
    if not isinstance(said, dict):
        raise errors.bad_request("the body is no JSON object")
    more = sorted(said.keys() - FIELDS)
    if more:
        name = more[0][: errors.LONGEST]
        raise errors.bad_request(f"the field {name!r} is not served for batches", param=name)
    file, endpoint = said.get("input_file_id"), said.get("endpoint")
    if not isinstance(file, str):
        raise errors.bad_request("input_file_id is missing or no text", param="input_file_id")
    if endpoint not in batch_records.ENDPOINTS:
        told = f"the endpoint is none of {', '.join(batch_records.ENDPOINTS)}"
        raise errors.bad_request(told, param="endpoint")
    window = said.get("completion_window")
    return BatchRecord(
        id=batch_records.new_id("batch_"),
        key=key,
        file=file,
        endpoint=endpoint,
        window=str(window),
        created_at=now,
        expires_at=now + seconds(window),
        metadata=notes(said.get("metadata")),
        output_s=expiry.lifetime(said.get("output_expires_after"), "output_expires_after"),
        hostname=socket.gethostname(),
    )


def seconds(window: Any) -> int:
    """Return the longest duration of a batch in seconds.

    Raises:
        ApiError: the window is neither ``24h`` nor another time up to 30 days.
    """
    found = WINDOW.fullmatch(window) if isinstance(window, str) else None
    hours = 0 if found is None else int(found[1]) * HOURS[found[2]]
    if not 1 <= hours <= LONGEST_H:
        told = "completion_window is not '24h', nor another number of hours or days up to '30d'"
        raise errors.bad_request(told, param="completion_window")
    return hours * 3600


def notes(said: Any) -> dict[str, str] | None:
    """Return the client's metadata of a batch.

    Raises:
        ApiError: the metadata are not up to 16 pairs of short texts.
    """
    if said is None:
        return None
    fits = isinstance(said, dict) and len(said) <= PAIRS
    if fits and all(
        isinstance(value, str) and len(name) <= NAME and len(value) <= VALUE
        for name, value in said.items()
    ):
        return dict(said)
    told = f"metadata is no object of up to {PAIRS} texts, with {NAME} and {VALUE} characters"
    raise errors.bad_request(told, param="metadata")


def shown(order: BatchRecord, progress: BatchProgress, cancelled_at: int | None) -> Json:
    """Return a batch in OpenAI's form.

    Args:
        order: the batch record.
        progress: the processor's last report.
        cancelled_at: Unix time of a request to cancel, or None.
    """
    status, ended = progress.status, progress.ended_at
    if cancelled_at is not None and status not in FINAL:
        status = "cancelling"
    errors_ = {"object": "list", "data": list(progress.errors)} if progress.errors else None
    return {
        "id": order.id,
        "object": "batch",
        "endpoint": order.endpoint,
        "errors": errors_,
        "input_file_id": order.file,
        "completion_window": order.window,
        "status": status,
        "output_file_id": progress.output,
        "error_file_id": progress.error,
        "created_at": order.created_at,
        "in_progress_at": progress.in_progress_at,
        "expires_at": order.expires_at,
        "finalizing_at": progress.finalizing_at,
        "completed_at": ended if status == "completed" else None,
        "failed_at": ended if status == "failed" else None,
        "expired_at": ended if status == "expired" else None,
        "cancelling_at": cancelled_at if status in ("cancelling", "cancelled") else None,
        "cancelled_at": ended if status == "cancelled" else None,
        "request_counts": {
            "total": progress.total,
            "completed": progress.completed,
            "failed": progress.failed,
        },
        "usage": None if progress.usage is None else used(progress.usage),
        "metadata": None if order.metadata is None else dict(order.metadata),
    }


def used(usage: Mapping[str, int]) -> Json:
    """Return the tokens of a batch in OpenAI's form."""
    taken, made = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
    return {
        "input_tokens": taken,
        "input_tokens_details": {"cached_tokens": usage.get("cached_tokens", 0)},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": usage.get("reasoning_tokens", 0)},
        "total_tokens": taken + made,
    }
