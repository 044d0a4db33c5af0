"""The common parts of files and batches: disk access, ownership, errors and pages of lists."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from gateway_lite import errors
from gateway_lite.errors import ApiError
from hpc.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

    from gateway_lite.auth.rate_limits import Limits

    T = TypeVar("T")
    Json = dict[str, Any]
    Page = Callable[[Request], Awaitable[Response]]

log = logging.getLogger(__name__)


def off() -> ApiError:
    """Return the error of a gateway without files and batches."""
    return ApiError(
        501,
        "this gateway serves no files and batches: batch_file_mib is 0 in its models.yaml",
        code="batches_off",
        kind=errors.SERVER,
    )


def no_file(name: str) -> ApiError:
    """Return the error for an unknown file, or for a file of another key."""
    told = f"your key has no file {name[: errors.LONGEST]!r}"
    return ApiError(404, told, code="file_not_found", param="file_id")


def no_batch(name: str) -> ApiError:
    """Return the error for an unknown batch, or for a batch of another key."""
    told = f"your key has no batch {name[: errors.LONGEST]!r}"
    return ApiError(404, told, code="batch_not_found", param="batch_id")


def over(name: str, status: str) -> ApiError:
    """Return the error for a cancellation that comes too late."""
    return ApiError(409, f"the batch {name} is already {status}", code="batch_over")


def full(most: int) -> ApiError:
    """Return the error for an upload that exceeds the key's quota, in bytes."""
    return ApiError(
        413,
        f"storing this file would exceed this key's quota of {most} bytes; delete files first",
        code="storage_full",
        headers=((b"connection", b"close"),),
    )


def too_many_files(most: int) -> ApiError:
    """Return the error for a key that has as many files as it may have."""
    return ApiError(
        429,
        f"this key has {most} files, the most allowed; delete files first",
        code="too_many_files",
        kind="rate_limit_error",
        headers=(*errors.retry_after(60), (b"connection", b"close")),
    )


def too_many_batches(most: int) -> ApiError:
    """Return the error for a key that has as many open batches as it may have."""
    return ApiError(
        429,
        f"{most} batches of this key are not over, the most allowed; wait, or cancel some",
        code="too_many_batches",
        kind="rate_limit_error",
        headers=errors.retry_after(60),
    )


def counted(limits: Limits, page: Page) -> Page:
    """Return a page whose requests count against the requests of a key."""

    async def serve(request: Request) -> Response:
        reservation = limits.reserve(request.scope["principal"], 0)
        try:
            return await page(request)
        finally:
            reservation.settle(0)

    return serve


def trouble() -> ApiError:
    """Return the error while the state directory cannot be used."""
    return ApiError(
        503,
        "the gateway cannot use its state directory just now; its log says why",
        code="state_unavailable",
        kind=errors.SERVER,
        headers=errors.retry_after(30),
    )


def owner(request: Request) -> str:
    """Return the id of the requesting key."""
    name: str = request.scope["principal"].id
    return name


async def on_disk(function: Callable[..., T], *args: Any) -> T:
    """Run a function on the state directory in a thread, and return its result.

    Raises:
        ApiError: the state directory cannot be used at present.
    """
    try:
        return await asyncio.to_thread(function, *args)
    except (StateError, OSError) as error:
        log.warning("files and batches: %s", error)
        raise trouble() from error


async def find(
    load: Callable[[Path, str, str], T | None],
    root: Path,
    request: Request,
    name: str,
    missing: Callable[[str], ApiError],
) -> T:
    """Return the file or batch of a name, of those that belong to the request's key.

    Args:
        load: reads a record by state directory, key's id and name.
        root: the state directory.
        request: shows the key.
        name: the id in the request's path.
        missing: makes the error of an unknown name.

    Raises:
        ApiError: there is none of this name, or the state directory cannot be used.
    """
    found: T | None = await on_disk(load, root, owner(request), name)
    if found is None:
        raise missing(name)
    return found


def page(known: Sequence[Json], request: Request, *, most: int) -> Json:
    """Return one page of a list, in OpenAI's form.

    Args:
        known: all entries, in order.
        request: may have ``after`` and ``limit``.
        most: entries of a page without ``limit``.

    Raises:
        ApiError: the limit is not a number from 1 to 10000, or ``after`` names no entry.
    """
    said, after = request.query_params.get("limit"), request.query_params.get("after")
    if said is not None and not (said.isascii() and said.isdecimal() and 1 <= int(said) <= 10_000):
        raise errors.bad_request("limit is no number from 1 to 10000", param="limit")
    names = [one["id"] for one in known]
    if after and after not in names:
        told = f"after names no entry of this list: {after[: errors.LONGEST]!r}"
        raise errors.bad_request(told, param="after")
    begin = names.index(after) + 1 if after else 0
    end = begin + int(said or most)
    data = list(known[begin:end])
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": end < len(known),
    }
