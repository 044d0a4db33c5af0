"""The response cache: answers without randomness, kept in memory for a single principal each."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from cachetools import TTLCache

from gateway_lite.wire.sse import payload, split
from hpc.api_paths import COMPUTED

if TYPE_CHECKING:
    from collections.abc import Callable

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
VECTORS = COMPUTED
"""Paths whose answers are computed without sampling, whatever the request says."""
OUTSIDE_KEY = ("stream", "stream_options", "user", "metadata")
ONE = ("n", "best_of")
"""Fields that must be absent or 1."""
ACTING = ("tools", "functions", "web_search_options", "audio", "store")
"""Fields that make an answer have effects, or depend on data outside the request."""
COMPLETE = ("stop", "length")
OVERHEAD_BYTES = 300
"""Bytes that an entry takes beside its body."""
SHARE = 8
"""The largest kept answer is this fraction (1/8) of the cache; larger answers evict too many."""
DONE = b"[DONE]"
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Choice(msgspec.Struct):
    """A choice of an answer or chunk, reduced to the fields about the end."""

    index: int = 0
    finish_reason: str | None = None


class CachedAnswer(msgspec.Struct):
    """An answer or chunk, reduced to the fields about completeness."""

    choices: list[Choice] | None = None
    data: list[msgspec.Raw] | None = None
    results: list[msgspec.Raw] | None = None
    error: msgspec.Raw | None = None


ANSWER = msgspec.json.Decoder(CachedAnswer)


@dataclass(frozen=True, slots=True)
class Hit:
    """A cached answer, byte for byte, in the requested form (JSON or events)."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Miss:
    """A request whose answer may be kept.

    Args:
        key: key of the future entry.
        path: path of the request.
        stream: whether the answer comes as events.
    """

    key: bytes
    path: str
    stream: bool


class Cache:
    """The cached answers of requests without randomness.

    Args:
        size: bytes of all entries together, overhead included.
        ttl_s: seconds after which an entry expires.
        vectors: whether embeddings and rankings are cached, too.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        size: int,
        ttl_s: float,
        *,
        vectors: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entries: TTLCache[bytes, bytes] = TTLCache(size, ttl_s, clock, _weight)
        self._vectors = vectors
        self.most = size // SHARE

    def lookup(
        self, body: bytes, path: str, model: str, revision: str, principal: str, *, stream: bool
    ) -> Hit | Miss | None:
        """Return the cached answer, the key of a future answer, or None for an uncacheable request.

        Args:
            body: the request's JSON as the client sent it.
            path: path in OpenAI's API.
            model: the answering model, aliases resolved.
            revision: fingerprint of the model: revision, file, quantisation, engine. Empty means
                unknown, and nothing is cached.
            principal: the client; an id that no other key ever gets, not a name.
            stream: whether the client asked for events.
        """
        if not revision or not self._worth(body, path):
            return None
        try:
            request = msgspec.json.decode(body)
            if type(request) is not dict or not _certain(request, path):
                return None
            key = _key(request, path, model, revision, principal, stream=stream)
        except UNREADABLE:
            return None
        kept = self._entries.get(key)
        return Miss(key, path, stream) if kept is None else Hit(kept)

    def put(self, miss: Miss, body: bytes) -> bool:
        """Keep a complete answer of bounded size; return whether the answer was kept."""
        if len(body) + OVERHEAD_BYTES > self.most or not complete(miss, body):
            return False
        self._entries[miss.key] = body
        return True

    def _worth(self, body: bytes, path: str) -> bool:
        """Return, without parsing, whether a request may be cacheable."""
        if path in {CHAT, TEXT}:
            # The default temperature is not 0, so most chats need no parsing.
            return b'"temperature"' in body
        return self._vectors and path in VECTORS


class Collector:
    """A copy of an answer on its way to the client, cached at the answer's clean end.

    Args:
        cache: the cache.
        miss: result of ``Cache.lookup``.
    """

    __slots__ = ("_cache", "_chunks", "_left", "_miss")

    def __init__(self, cache: Cache, miss: Miss) -> None:
        self._cache = cache
        self._miss = miss
        self._chunks: list[bytes] = []
        self._left = cache.most

    def feed(self, data: bytes) -> bytes:
        """Return the bytes unchanged; beyond the size bound, the collected copy is dropped."""
        self._left -= len(data)
        if self._left >= 0:
            self._chunks.append(data)
        elif self._chunks:
            self._chunks.clear()
        return data

    def finish(self) -> bytes:
        """Cache the answer if complete."""
        if self._left >= 0:
            self._cache.put(self._miss, b"".join(self._chunks))
        self._chunks = []
        self._left = -1
        return b""


def complete(miss: Miss, body: bytes) -> bool:
    """Return whether an answer is complete: every choice ended by a stop or at the limit."""
    try:
        if miss.stream:
            return _stream_complete(body)
        answer = ANSWER.decode(body)
    except UNREADABLE:
        return False
    if answer.error is not None:
        return False
    if miss.path in VECTORS:
        return bool(answer.data or answer.results)
    return bool(answer.choices) and all(c.finish_reason in COMPLETE for c in answer.choices or ())


def _stream_complete(body: bytes) -> bool:
    """Return whether events end with [DONE], without an error, and with an end of every choice."""
    ends: dict[int, str | None] = {}
    done = False
    for data in filter(None, map(payload, split(body))):
        if done or data == DONE:
            done = True
            continue
        chunk = ANSWER.decode(data)
        if chunk.error is not None or chunk.choices is None:
            return False
        for choice in chunk.choices:
            ends[choice.index] = choice.finish_reason or ends.get(choice.index)
    return done and bool(ends) and all(end in COMPLETE for end in ends.values())


def _certain(request: dict[str, Any], path: str) -> bool:
    """Return whether the answer to a request depends on the request alone."""
    if path in VECTORS:
        return True
    temperature = request.get("temperature")
    if type(temperature) not in {int, float} or temperature != 0:
        return False
    if any(request.get(name, 1) != 1 and request[name] is not None for name in ONE):
        return False
    return not any(request.get(name) for name in ACTING) and _inline(request.get("messages"))


def _inline(messages: Any) -> bool:
    """Return whether messages contain all their data; the target of a link may change."""
    said = messages if type(messages) is list else ()
    contents = [message.get("content") for message in said if type(message) is dict]
    parts = [part for content in contents if type(content) is list for part in content]
    return all(map(_carried, parts))


def _carried(part: Any) -> bool:
    """Return whether a part of a message is text, or an image inside the request."""
    if type(part) is not dict or part.get("type") not in {"text", "image_url"}:
        return False
    image = part.get("image_url")
    url = image.get("url") if type(image) is dict else image
    return image is None or (type(url) is str and url.startswith("data:"))


def _key(
    request: dict[str, Any], path: str, model: str, revision: str, principal: str, *, stream: bool
) -> bytes:
    """Return the digest of all inputs of an answer, and of the principal."""
    # Streams keep their options in the key, as usage chunks change the bytes.
    options = request.get("stream_options") if stream else None
    body = {name: value for name, value in request.items() if name not in OUTSIDE_KEY}
    parts = [path, model, revision, principal, stream, options, body]
    # Sorted: the order of a request's fields makes no second entry.
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).digest()


def _weight(body: bytes) -> int:
    """Return the size of an entry in bytes."""
    return len(body) + OVERHEAD_BYTES
