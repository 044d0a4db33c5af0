"""What becomes of a request when a replica fails it: another attempt where that is safe."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gateway_lite import errors
from gateway_lite.link import Fault

if TYPE_CHECKING:
    from gateway_lite.exchange import Exchange
    from gateway_lite.link import Link

log = logging.getLogger(__name__)

UNAUTHORIZED = 401
UNAVAILABLE = 503
ELSEWHERE = frozenset({502, UNAVAILABLE, 504})
"""Answers of a replica after which another one is asked."""


def refused(exchange: Exchange, link: Link, status: int) -> bool:
    """Tell whether an answer is none for the client, and do what comes then.

    Args:
        exchange: the request.
        link: where the answer came.
        status: its status, 400 or more.
    """
    lease = exchange.held.lease
    if lease is None:
        return True
    if status == UNAUTHORIZED:
        link.abort()
        exchange.held.release("ok")
        try:
            exchange.desk.renew(exchange, lease.replica)
        except errors.ApiError as error:
            exchange.fail(error)
        return True
    if status not in ELSEWHERE:
        return False
    log.warning("request %s: %s answers %d", exchange.record.name, lease.replica.name, status)
    if lease.replica.key not in exchange.tried:
        exchange.tried.append(lease.replica.key)
    if not exchange.desk.another(exchange, worked=status != UNAVAILABLE, elsewhere=True):
        return False
    link.abort()
    exchange.held.release("failed")
    exchange.again()
    return True


def broke(exchange: Exchange, fault: Fault, detail: str) -> None:
    """Try again where that is safe, else say what happened.

    Args:
        exchange: the request.
        fault: how its replica failed.
        detail: what the log says beside that.
    """
    lease, outlet = exchange.held.lease, exchange.outlet
    if lease is None or exchange.response_complete:
        return
    if fault is Fault.STALE:
        exchange.send(lease, fresh=True)
        return
    name = lease.replica.name
    log.warning("request %s: %s %s: %s", exchange.record.name, name, fault.value, detail)
    if outlet.said:
        exchange.finish("ok")
    elif outlet.begun:
        exchange.fail(errors.upstream_error(f"the replica {name} {fault.value} in mid-stream"))
    else:
        exchange.tried.append(lease.replica.key)
        exchange.held.release("unreachable" if fault is Fault.UNREACHABLE else "failed")
        _once_more(exchange, name, fault)


def _once_more(exchange: Exchange, name: str, fault: Fault) -> None:
    worked = fault in (Fault.BROKEN, Fault.STUCK)
    final = fault in (Fault.SILENT, Fault.TOO_LARGE)
    elsewhere = fault is not Fault.BROKEN
    if final or not exchange.desk.another(exchange, worked=worked, elsewhere=elsewhere):
        exchange.fail(_error(name, fault))
    else:
        exchange.again()


def _error(name: str, fault: Fault) -> errors.ApiError:
    """Return what a request gets that failed at a replica."""
    message = f"the replica {name} {fault.value}"
    if fault in (Fault.SILENT, Fault.STUCK):
        return errors.upstream_timeout(message)
    if fault is Fault.UNREACHABLE:
        return errors.upstream_unreachable(message)
    return errors.upstream_error(message)
