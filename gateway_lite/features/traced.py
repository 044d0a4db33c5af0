"""The span of a request: begun at admission, ended after the last byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway_lite.features.tracing import Tracer
    from gateway_lite.request.exchange import Exchange


def begin(tracer: Tracer, exchange: Exchange) -> None:
    """Begin the span, and pass its context to the replica in place of the client's."""
    asked, given = exchange.ask, exchange.request.headers
    if asked is None:
        return
    span = tracer.begin(
        exchange.record.path,
        asked.model,
        traceparent=given.get(b"traceparent"),
        tracestate=given.get(b"tracestate"),
        stream=bool(asked.stream),
        max_tokens=asked.limit(),
        request_id=exchange.record.name,
    )
    exchange.span = span
    kept = {n: v for n, v in given.items() if n not in (b"traceparent", b"tracestate")}
    for line in span.headers.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b": ")
        kept[name] = value
    exchange.request.headers = kept


def end(exchange: Exchange) -> None:
    """End the span of a request, if any."""
    record, span = exchange.record, exchange.span
    if span is None:
        return
    first = record.first_at
    span.end(
        record.status,
        model=record.model or None,
        replica=record.replica or None,
        usage=record.used(),
        first_s=None if first is None else first - record.began,
        tries=max(1, record.attempts),
        error=record.error,
    )
