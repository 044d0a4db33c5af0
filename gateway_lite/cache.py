"""Answers that are sure to come again: kept in memory, for one principal each."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from cachetools import TTLCache

from gateway_lite.sse import payload, split

if TYPE_CHECKING:
    from collections.abc import Callable

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
VECTORS = ("/v1/embeddings", "/v1/rerank")
"""What is computed without sampling, whatever the request says."""
OUTSIDE_KEY = ("stream", "stream_options", "user", "metadata")
ONE = ("n", "best_of")
"""Fields that must be absent or 1."""
ACTING = ("tools", "functions", "web_search_options", "audio", "store")
"""Fields with which an answer is an act, or draws on something outside the request."""
COMPLETE = ("stop", "length")
OVERHEAD_BYTES = 300
"""What an entry takes beside its body."""
SHARE = 8
"""An answer above this part of the cache is not kept: it would drive too many others out."""
DONE = b"[DONE]"
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Choice(msgspec.Struct):
    """One choice of an answer or of a chunk, as far as its end goes."""

    index: int = 0
    finish_reason: str | None = None


class Answer(msgspec.Struct):
    """An answer or a chunk of one, as far as its completeness goes."""

    choices: list[Choice] | None = None
    data: list[msgspec.Raw] | None = None
    results: list[msgspec.Raw] | None = None
    error: msgspec.Raw | None = None


ANSWER = msgspec.json.Decoder(Answer)


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer of before, byte for byte, of the form that was asked for (JSON or events)."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Miss:
    """A request whose answer may be kept.

    Args:
        key: where it will be kept.
        path: what was asked.
        stream: whether the answer comes as events.
    """

    key: bytes
    path: str
    stream: bool


class Cache:
    """Answers to requests that leave nothing to chance.

    Args:
        size: bytes of all answers together, with what each takes beside its body.
        ttl_s: seconds after which an answer is forgotten.
        vectors: whether embeddings and rankings are kept, too.
        clock: seconds that only grow.
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
        """Return the answer of before, the place for one to come, or None: not to be kept.

        Args:
            body: the request's JSON as the client sent it.
            path: the path of OpenAI's API.
            model: the model that answers, aliases resolved.
            revision: what says that it is the same model: revision, file, quantisation, engine.
                Empty: unknown, and nothing is kept.
            principal: who asks; an id that no other key ever gets, not a name.
            stream: whether events were asked for.
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
        """Keep an answer where it is complete and not too large; tell whether it was kept."""
        if len(body) + OVERHEAD_BYTES > self.most or not complete(miss, body):
            return False
        self._entries[miss.key] = body
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    @property
    def used(self) -> int:
        """Bytes in use."""
        return int(self._entries.currsize)

    def __len__(self) -> int:
        return len(self._entries)

    def _worth(self, body: bytes, path: str) -> bool:
        """Tell without parsing whether a request may be one of ours."""
        if path in {CHAT, TEXT}:
            return b'"temperature"' in body
        return self._vectors and path in VECTORS


class Collector:
    """Watches an answer on its way to the client, and keeps it at its clean end.

    Args:
        cache: where it goes.
        miss: what `lookup` returned.
    """

    __slots__ = ("_cache", "_chunks", "_left", "_miss", "stored")

    def __init__(self, cache: Cache, miss: Miss) -> None:
        self._cache = cache
        self._miss = miss
        self._chunks: list[bytes] = []
        self._left = cache.most
        self.stored = False

    def feed(self, data: bytes) -> bytes:
        """Return the bytes as they are; beyond the bound, all of them are forgotten."""
        self._left -= len(data)
        if self._left >= 0:
            self._chunks.append(data)
        elif self._chunks:
            self._chunks.clear()
        return data

    def finish(self) -> bytes:
        """Keep the answer where nothing of it is missing."""
        if self._left >= 0:
            self.stored = self._cache.put(self._miss, b"".join(self._chunks))
        self._chunks = []
        self._left = -1
        return b""


def complete(miss: Miss, body: bytes) -> bool:
    """Tell whether an answer is whole: every choice ended by itself or at its limit."""
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
    """Tell whether events end with [DONE], without an error, all their choices ended."""
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
    """Tell whether a request says itself that its answer depends on nothing else."""
    if path in VECTORS:
        return True
    temperature = request.get("temperature")
    if type(temperature) not in {int, float} or temperature != 0:
        return False
    if any(request.get(name, 1) != 1 and request[name] is not None for name in ONE):
        return False
    return not any(request.get(name) for name in ACTING) and _inline(request.get("messages"))


def _inline(messages: Any) -> bool:
    """Tell whether messages carry all they speak of: what is behind a link may change."""
    said = messages if type(messages) is list else ()
    contents = [message.get("content") for message in said if type(message) is dict]
    parts = [part for content in contents if type(content) is list for part in content]
    return all(map(_carried, parts))


def _carried(part: Any) -> bool:
    """Tell whether a part of a message is text, or an image within the request."""
    if type(part) is not dict or part.get("type") not in {"text", "image_url"}:
        return False
    image = part.get("image_url")
    url = image.get("url") if type(image) is dict else image
    return image is None or (type(url) is str and url.startswith("data:"))


def _key(
    request: dict[str, Any], path: str, model: str, revision: str, principal: str, *, stream: bool
) -> bytes:
    """Return the digest of everything that an answer depends on, and of whom it is for."""
    options = request.get("stream_options") if stream else None
    body = {name: value for name, value in request.items() if name not in OUTSIDE_KEY}
    parts = [path, model, revision, principal, stream, options, body]
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).digest()


def _weight(body: bytes) -> int:
    """Return what an entry takes."""
    return len(body) + OVERHEAD_BYTES
