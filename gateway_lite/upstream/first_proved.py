"""Connections to the addresses of one replica at once, until the first has proved itself.

A node's names and addresses need not all lead to it: a name may be unknown here, an address lie in
a network that is not routed, or be that of another machine. Only the proof tells.

Source: the staggered attempts of RFC 8305 (Happy Eyeballs), section 5.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, TypeVar

from hpc.peer_proof import NotProved, WrongSecret

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from gateway_lite.upstream.connection import UpstreamConnection

T = TypeVar("T", bound="UpstreamConnection")
FAULTS = (OSError, NotProved)


async def first_proved(
    hosts: Sequence[str],
    dial: Callable[[str], Coroutine[object, object, T]],
    *,
    next_s: float,
    limit_s: float,
) -> tuple[str, T]:
    """Return the first host with a proved connection, and the connection.

    Args:
        hosts: names and addresses, in the order to try.
        dial: opens a connection to a host, whose far end proves itself.
        next_s: seconds after which the next host is tried beside the earlier ones; a failure brings
            the next one at once.
        limit_s: seconds after which all attempts end.

    Raises:
        OSError: no host can be reached; names each.
        NotProved: one is reached and does not hold the replica's secret.
    """
    ends_at = asyncio.get_running_loop().time() + limit_s
    tasks: dict[asyncio.Task[T], str] = {}
    failed: dict[str, Exception] = {}
    waiting = list(hosts)
    try:
        while waiting or tasks:
            if waiting:
                host = waiting.pop(0)
                tasks[asyncio.create_task(dial(host))] = host
            left_s = ends_at - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            done, _ = await asyncio.wait(
                tasks,
                timeout=min(next_s, left_s) if waiting else left_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                host, error = tasks.pop(task), task.exception()
                if error is None:
                    return host, task.result()
                if not isinstance(error, FAULTS):
                    raise error
                failed[host] = error
    finally:
        for task in tasks:
            task.cancel()
            task.add_done_callback(_close)
    silent = {host: TimeoutError(f"no answer in {limit_s:g} s") for host in tasks.values()}
    raise _joined({**failed, **silent})


def _close(task: asyncio.Task[T]) -> None:
    """Close a connection that was proved just after another one."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _joined(failed: dict[str, Exception]) -> Exception:
    """Return one error for all hosts, of the kind that tells most."""
    for error in failed.values():
        if isinstance(error, (WrongSecret, ssl.SSLCertVerificationError)):
            return error
    if len(failed) == 1:
        return next(iter(failed.values()))
    told = "; ".join(f"{host}: {reason(error)}" for host, error in failed.items())
    return ConnectionError(f"tried {told}")


def reason(error: Exception) -> str:
    """Return the plain reason of a failed attempt, without the address that asyncio repeats."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.partition("(")[0].strip().lower()
    return str(error) or type(error).__name__
