"""Failover: another attempt for a request after a replica's failure, where safe."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gateway_lite import errors
from gateway_lite.upstream.connection import Fault

if TYPE_CHECKING:
    from gateway_lite.request.exchange import Exchange
    from gateway_lite.upstream.connection import Link

log = logging.getLogger(__name__)

UNAUTHORIZED = 401
UNAVAILABLE = 503
ELSEWHERE = frozenset({502, UNAVAILABLE, 504})
"""Statuses of a replica's answer after which another replica is tried."""


def refused(exchange: Exchange, link: Link, status: int) -> bool:
    """Return whether an answer is withheld from the client, and take the next step for the request.

    Args:
        exchange: the request.
        link: the upstream connection with the answer.
        status: status of the answer, 400 or above.
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
    """Retry a request if safe, else answer with an error.

    Args:
        exchange: the request.
        fault: kind of the upstream failure.
        detail: further detail for the log.
    """
    lease, outlet = exchange.held.lease, exchange.outlet
    if lease is None or exchange.response_complete:
        return
    if fault is Fault.STALE:
        # The engine closed the kept connection before a byte of an answer. A new connection needs
        # no other replica, and takes nothing from the retry budget.
        exchange.send(lease, fresh=True)
        return
    name = lease.replica.name
    log.warning("request %s: %s %s: %s", exchange.record.name, name, fault.value, detail)
    if outlet.said:
        # The client has the complete answer, so a late failure of the connection is none of the
        # request.
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
    """Return the error for a request that failed at a replica."""
    message = f"the replica {name} {fault.value}"
    if fault in (Fault.SILENT, Fault.STUCK):
        return errors.upstream_timeout(message)
    if fault is Fault.UNREACHABLE:
        return errors.upstream_unreachable(message)
    return errors.upstream_error(message)
