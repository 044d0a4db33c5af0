"""The places of stored responses: the replica that keeps a response of /v1/responses, by its id.

A response is kept in the memory of one replica, and belongs to the key that asked for it. Engines
do not know keys: whoever names an id gets the response, or goes on with its conversation.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from gateway_lite import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gateway_lite.wire.request_body import RequestFields

NAME = re.compile(r"resp_[A-Za-z0-9_=-]{1,512}")
"""An id: 24 to 53 characters of engines, some hundred of proxies that write a place into it."""
ID = re.compile(rf'"id"\s*:\s*"({NAME.pattern})"'.encode())
"""The id of a response. Inside of a text its quotes would have backslashes."""
HEAD_BYTES = 4096
"""Bytes of an answer that are searched; engines write the id first."""
MOST = 1000
"""Responses of one key whose places are known; the oldest is forgotten first."""
UNREADABLE = (msgspec.MsgspecError, UnicodeError)
Places = dict[str, dict[str, str]]


def no_response(name: str) -> errors.ApiError:
    """Return the error for a response that the key has not, or no longer."""
    return errors.ApiError(
        404,
        f"this key has no stored response {name[: errors.LONGEST]!r}",
        code="response_not_found",
    )


def earlier(asked: RequestFields) -> str:
    """Return the id of the response that a request goes on from; empty without any.

    Raises:
        ApiError: the request chooses the id of its own response, or names no id.
    """
    if asked.request_id is not None:
        # vLLM answers under that id, which would make another key's response the asker's own.
        raise errors.bad_request("'request_id' is chosen by the engine", param="request_id")
    name = asked.previous_response_id
    if name is None:
        return ""
    if type(name) is not str or not NAME.fullmatch(name):
        raise no_response(str(name))
    return name


class StoredResponses:
    """The keys of replicas by the id of a client key and of a response, in one process.

    Args:
        others: returns the places that other workers know; called in a thread.
    """

    def __init__(self, others: Callable[[], Iterable[bytes]] = tuple) -> None:
        self._places: Places = {}
        self._others = others

    def note(self, key: str, replica: str, response: str) -> None:
        """Remember a response.

        Args:
            key: id of the client's key.
            replica: key of the replica.
            response: id of the response.
        """
        own = self._places.setdefault(key, {})
        own.pop(response, None)
        own[response] = replica
        if len(own) > MOST:
            del own[next(iter(own))]

    def find(self, key: str, response: str) -> str | None:
        """Return the key of the replica that keeps a response of a client's key, or None."""
        return self._places.get(key, {}).get(response)

    def find_elsewhere(self, key: str, response: str) -> str:
        """Return the key of the replica that keeps a response, by the word of other workers.

        Called in a thread.

        Raises:
            ApiError: the client's key has no such response.
        """
        found = found_elsewhere(self._others(), key, response)
        if found is None:
            raise no_response(response)
        return found

    def forget(self, key: str, response: str) -> None:
        """Forget a response."""
        self._places.get(key, {}).pop(response, None)

    def share(self) -> bytes:
        """Return all places for other workers; called in any thread."""
        # Copies of dictionaries are atomic; the event loop changes them meanwhile.
        return msgspec.json.encode({key: own.copy() for key, own in self._places.copy().items()})


def found_elsewhere(shares: Iterable[bytes], key: str, response: str) -> str | None:
    """Return the key of the replica that keeps a response, by the word of other workers.

    Args:
        shares: places of other workers.
        key: id of the client's key.
        response: id of the response.
    """
    for share in shares:
        try:
            places = msgspec.json.decode(share, type=Places)
        except UNREADABLE:
            continue
        replica = places.get(key, {}).get(response)
        if replica is not None:
            return replica
    return None


class ResponseId:
    """The observer of one answer, which passes on all bytes as they are.

    Args:
        note: called with the id of the response.
    """

    __slots__ = ("_head", "_note")

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note: Callable[[str], None] | None = note
        self._head = b""

    def feed(self, data: bytes) -> bytes:
        """Return the bytes unchanged."""
        if self._note is not None:
            self._head += data[:HEAD_BYTES]
            found = ID.search(self._head)
            if found is not None:
                self._note(found[1].decode())
            if found is not None or len(self._head) >= HEAD_BYTES:
                self._note, self._head = None, b""
        return data

    def finish(self) -> bytes:
        """Return nothing: no byte was held back."""
        return b""
