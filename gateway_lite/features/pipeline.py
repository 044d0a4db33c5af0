"""Optional processing of requests and answers; does nothing unless models.yaml enables a feature.

The features are redaction, the response cache, usage reports and the translation for clients
of other APIs.
"""

# ruff: noqa: PLC0415 - the packages are extras

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway_lite import errors
from gateway_lite.features import usage_report
from gateway_lite.features.response_cache import Cache, Collector, Hit, Miss
from gateway_lite.features.translation import FailedAnswer
from hpc import own_source
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from gateway_lite.features.redact.text import Finder
    from gateway_lite.features.translation import Translated
    from gateway_lite.wire.request_body import RequestFields
    from gateway_lite.wire.sse import Editor
    from hpc.gateway_policy import GatewayPolicy, RedactPolicy

MIB = 2**20
AT_ONCE_S = 0.01
"""Seconds of a redaction in the event loop; a longer one begins anew in a thread."""
IN_TIME_S = 2.0
"""Seconds of a redaction in a thread: 8 MiB of prose take 0.1 s, of card numbers alone 6 s."""
OK = 200
COUNTED = ("/v1/chat/completions", "/v1/completions")
"""Paths whose streams can carry a usage report."""
SILENT = ("/v1/embeddings", "/v1/rerank")
"""Paths whose answers hold no words."""


class FeatureEdits:
    """The edits of one request's answer.

    Attributes:
        translated: the translation of a request in another API's form, or None.
        finder: the redaction search, or None.
        miss: key of the future cache entry, or None.
        report: counter of a stream for a key with limits of tokens, or None.
    """

    __slots__ = ("_cache", "finder", "miss", "report", "translated")

    def __init__(self, cache: Cache | None) -> None:
        self._cache = cache
        self.translated: Translated | None = None
        self.finder: Finder | None = None
        self.miss: Miss | None = None
        self.report: usage_report.StreamUsage | None = None

    def editors(self, status: int, *, events: bool) -> tuple[Editor, ...]:
        """Return the editors of the answer, in order.

        Args:
            status: HTTP status of the answer.
            events: True for an event stream.
        """
        if status != OK:
            return () if self.translated is None else (FailedAnswer(self.translated, status),)
        # The order matters: the cache keeps redacted answers in OpenAI's form, and the client's
        # form comes last.
        found: list[Editor] = []
        if self.report is not None and events:
            found.append(self.report)
        if self.finder is not None:
            found.append(_redactor(self.finder, events=events))
        if self.miss is not None and self._cache is not None:
            found.append(Collector(self._cache, self.miss))
        if self.translated is not None:
            found.append(self.translated.editor)
        return tuple(found)

    def content_type(self, status: int) -> bytes | None:
        """Return the content type of the client's answer; None keeps the engine's."""
        if self.translated is None:
            return None
        return self.translated.content_type if status == OK else b"application/json"


class FeatureRequest(msgspec.Struct, frozen=True, gc=False):
    """The properties of a request, beside its body, that features depend on.

    Attributes:
        path: path of the request to replicas.
        fields: decoded fields of the body.
        model: the model of the answer, after aliases and rules.
        identity: fingerprint of the model; empty if unknown.
        key_id: id of the client's key.
        counted: True if a stream's usage must be known.
        running: True if the engine can tell the usage in every chunk of a stream.
    """

    path: str
    fields: RequestFields
    model: str
    identity: str
    key_id: str
    counted: bool
    running: bool = False


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """A request after all features.

    Attributes:
        body: body of the request to replicas.
        edits: edits of the answer, or None.
        hit: the cached answer, or None.
        cache: "hit" or "miss"; empty if the answer is not cached.
    """

    body: bytes
    edits: FeatureEdits | None = None
    hit: Hit | None = None
    cache: str = ""


class RequestRedaction:
    """The redaction of requests; fails closed.

    Args:
        finder: the search.
    """

    def __init__(self, finder: Finder) -> None:
        self._finder = finder

    def at_once(self, body: bytes) -> bytes | None:
        """Return the redacted body, or None if that takes too long for the event loop."""
        try:
            return _redacted(body, self._finder.within(AT_ONCE_S))
        except TimeoutError:
            return None

    def in_time(self, body: bytes) -> bytes:
        """Return the redacted body; for a thread.

        Raises:
            ApiError: the search takes too long, so the request must not be passed on.
        """
        try:
            return _redacted(body, self._finder.within(IN_TIME_S))
        except TimeoutError:
            raise errors.bad_request(
                "the request holds too much text that looks like data to be redacted"
            ) from None


class FeaturePipeline:
    """The features that models.yaml enables.

    Attributes:
        redaction: the redaction of requests, which comes before ``prepare``; None hides nothing.

    Args:
        policy: the gateway policy of models.yaml.
    """

    def __init__(self, policy: GatewayPolicy) -> None:
        self._redact = policy.redact
        self._finder = _finder(policy.redact)
        self.redaction = None if self._finder is None else RequestRedaction(self._finder)
        kept = policy.cache
        self._cache = (
            None if kept is None else Cache(kept.mib * MIB, kept.ttl_s, vectors=kept.vectors)
        )

    def prepare(
        self, body: bytes, asked: FeatureRequest, translated: Translated | None = None
    ) -> Prepared:
        """Return a request prepared for its replica, or its cached answer.

        Args:
            body: the request in OpenAI's form, redacted.
            asked: the request's properties beside the body.
            translated: the translation of a request in another API's form, or None.
        """
        edits = None
        if translated is not None:
            edits = FeatureEdits(self._cache)
            edits.translated = translated
        hides = self._redact is not None and self._redact.answers and asked.path not in SILENT
        if self._finder is not None and hides:
            edits = edits or FeatureEdits(self._cache)
            edits.finder = self._finder
        # After redaction: no entry is found by, or kept for, text that should be hidden. An edited
        # answer is not cached at all.
        found = self._look_up(body, asked) if edits is None else None
        if isinstance(found, Hit):
            return Prepared(body, hit=found, cache="hit")
        if found is not None:
            edits = FeatureEdits(self._cache)
            edits.miss = found
        if asked.counted and asked.fields.stream:
            edits = edits or FeatureEdits(self._cache)
            body, edits.report = _counted(body, asked, translated)
        return Prepared(body, edits, cache="" if found is None else "miss")

    def _look_up(self, body: bytes, asked: FeatureRequest) -> Hit | Miss | None:
        if self._cache is None:
            return None
        stream = bool(asked.fields.stream)
        return self._cache.lookup(
            body, asked.path, asked.model, asked.identity, asked.key_id, stream=stream
        )


def _counted(
    body: bytes, asked: FeatureRequest, translated: Translated | None
) -> tuple[bytes, usage_report.StreamUsage]:
    """Return a request that asks for its stream's usage, and the counter of the stream."""
    if asked.path not in COUNTED:
        return body, usage_report.StreamUsage(last=True)
    found = usage_report.ask(body, running=asked.running)
    # The translation for clients of other APIs reads the report at the end itself.
    last = found.last or translated is not None
    running = found.running or not asked.running
    return found.body, usage_report.StreamUsage(last=last, running=running)


def check_policy(policy: GatewayPolicy) -> None:
    """Check a policy before it comes into force.

    Raises:
        ConfigError: a pattern is not usable, or the packages for redaction are missing.
    """
    _finder(policy.redact)


def _finder(policy: RedactPolicy | None) -> Finder | None:
    if policy is None:
        return None
    try:
        from gateway_lite.features.redact import patterns
        from gateway_lite.features.redact.text import Finder
    except ImportError as missing:
        raise ConfigError(
            f"redaction needs the package {missing.name}", hint=own_source.pip_command("redact")
        ) from None
    try:
        kinds = patterns.chosen(policy.kinds, policy.patterns)
    except ValueError as error:
        raise ConfigError(f"redact: {error}") from error
    return Finder(kinds) if kinds else None


def _redacted(body: bytes, finder: Finder) -> bytes:
    from gateway_lite.features.redact import text as redact_text

    return redact_text.request(body, finder)


def _redactor(finder: Finder, *, events: bool) -> Editor:
    from gateway_lite.features.redact.answers import AnswerRedactor, StreamRedactor

    return StreamRedactor(finder) if events else AnswerRedactor(finder)
