"""The gateway's name of a model in answers of a server that has another name for the model."""

from __future__ import annotations

import msgspec

from gateway_lite.wire import sse

HOLDERS = ("response", "message")
"""Fields with the object that names the model, in events of /v1/responses and of Anthropic's API.
"""
FIELD = b'"model"'
UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def named(body: bytes, name: bytes) -> bytes:
    """Return an answer or event that names a model otherwise; all other values stay as they are.

    Args:
        body: the JSON of an answer or of an event's data; what is no object stays unchanged.
        name: the model's name as JSON.
    """
    if FIELD not in body:
        return body
    try:
        found = _decode(body)
        if _is_text(found.get("model")):
            return _encode({**found, "model": msgspec.Raw(name)})
        for holder in HOLDERS:
            if holder in found and bytes(found[holder]).startswith(b"{"):
                inner = _decode(found[holder])
                if _is_text(inner.get("model")):
                    changed = msgspec.Raw(_encode({**inner, "model": msgspec.Raw(name)}))
                    return _encode({**found, holder: changed})
    except UNREADABLE:
        pass
    return body


def _is_text(value: msgspec.Raw | None) -> bool:
    return value is not None and bytes(value).startswith(b'"')


class AnswerName:
    """The editor of an answer in one piece.

    Args:
        name: the gateway's name of the model.
    """

    def __init__(self, name: str) -> None:
        self._name = _encode(name)
        self._body = sse.WholeBody("name its model")

    def feed(self, data: bytes) -> bytes:
        """Keep a part of the answer until the answer is complete."""
        self._body.add(data)
        return b""

    def finish(self) -> bytes:
        """Return the answer."""
        return named(self._body.take(), self._name)


class StreamName:
    """The editor of an event stream.

    Args:
        name: the gateway's name of the model.
    """

    def __init__(self, name: str) -> None:
        self._name = _encode(name)
        self._events = sse.Events()

    def feed(self, data: bytes) -> bytes:
        """Return the complete events."""
        return b"".join(map(self._event, self._events.feed(data)))

    def _event(self, event: bytes) -> bytes:
        data = sse.payload(event)
        changed = named(data, self._name)
        return event if changed is data else sse.replaced(event, changed)

    def finish(self) -> bytes:
        """Return the unfinished event."""
        return self._events.rest()
