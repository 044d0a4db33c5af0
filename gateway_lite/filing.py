"""What files and batches have in common: the disk, whose they are, and what goes wrong."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from gateway_lite import errors
from gateway_lite.errors import ApiError
from hpc.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.requests import Request

    T = TypeVar("T")
    Json = dict[str, Any]

log = logging.getLogger(__name__)


def off() -> ApiError:
    """Return what everybody gets where there are no files and batches."""
    return ApiError(
        501,
        "this gateway serves no files and batches: batch_file_mib is 0 in its models.yaml",
        code="batches_off",
        kind=errors.SERVER,
    )


def no_file(name: str) -> ApiError:
    """Return what a file gets that is not there, or is another key's."""
    told = f"there is no file {name[: errors.LONGEST]!r}"
    return ApiError(404, told, code="file_not_found", param="file_id")


def no_batch(name: str) -> ApiError:
    """Return what a batch gets that is not there, or is another key's."""
    told = f"there is no batch {name[: errors.LONGEST]!r}"
    return ApiError(404, told, code="batch_not_found", param="batch_id")


def over(name: str, status: str) -> ApiError:
    """Return what a cancellation gets that comes too late."""
    return ApiError(409, f"the batch {name} is {status} already", code="batch_over")


def full(most: int) -> ApiError:
    """Return what an upload gets for which the key's other files leave no room, in bytes."""
    return ApiError(
        413,
        f"with this file, those of this key would have more than {most} bytes; delete some",
        code="storage_full",
        headers=((b"connection", b"close"),),
    )


def trouble() -> ApiError:
    """Return what a request gets while the state directory cannot be written."""
    return ApiError(
        503,
        "the gateway cannot use its state directory just now; its log says why",
        code="state_unavailable",
        kind=errors.SERVER,
        headers=errors.retry_after(30),
    )


def owner(request: Request) -> str:
    """Return the id of the key that asks."""
    name: str = request.scope["principal"].id
    return name


async def on_disk(function: Callable[..., T], *args: Any) -> T:
    """Call what reads or writes the state directory, in a thread.

    Raises:
        ApiError: it cannot be used just now.
    """
    try:
        return await asyncio.to_thread(function, *args)
    except (StateError, OSError) as error:
        log.warning("files and batches: %s", error)
        raise trouble() from error


def page(known: Sequence[Json], request: Request, *, most: int) -> Json:
    """Return one page of a list, as OpenAI's clients ask for it.

    Args:
        known: all entries, in order.
        request: may say ``after`` and ``limit``.
        most: entries of a page where it does not.

    Raises:
        ApiError: the limit is no number from 1 to 10000, or there is no such entry.
    """
    said, after = request.query_params.get("limit"), request.query_params.get("after")
    if said is not None and not (said.isascii() and said.isdecimal() and 1 <= int(said) <= 10_000):
        raise errors.bad_request("limit is no number from 1 to 10000", param="limit")
    names = [one["id"] for one in known]
    if after and after not in names:
        raise errors.bad_request(f"there is no {after[: errors.LONGEST]!r}", param="after")
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
