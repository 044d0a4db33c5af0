"""The tokens that a request is charged when it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway_lite.telemetry.request_record import LEFT

if TYPE_CHECKING:
    from gateway_lite.request.context import RequestContext

TOKENS_PER_S = 100
"""Assumed tokens of each answer in a second without an event, for a stream that ends early."""
clock = time.perf_counter


def charged(context: RequestContext) -> int | None:
    """Return the tokens that count against limits; None if no replica worked on the request.

    The engine's report counts. Without a report the estimate of the admission counts, except for a
    stream that ended early: prompt, events so far, and the time since the last event.

    Args:
        context: the request at its end.
    """
    record = context.record
    used = record.used()
    total = None if used is None else used.prompt + used.completion
    early = record.status == LEFT or record.error is not None
    meter = None if context.edits is None else context.edits.report
    if not context.worked or not early:
        return total if total is not None or not context.worked else context.reservation.tokens
    reserved: int = context.reservation.tokens
    if meter is None:
        return reserved if total is None else total
    so_far = context.prompt + meter.tokens() if total is None else total
    # An engine may work without an event, as on thoughts that it does not show.
    silent_s = clock() - (meter.moved_at or context.sent_at)
    silent = int(silent_s * TOKENS_PER_S) * context.answers
    return max(total or 0, min(reserved, so_far + silent))
