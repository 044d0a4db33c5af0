"""Optional processing of requests and answers; does nothing unless models.yaml enables a feature.

The features are redaction, the response cache, usage reports and the translation for Ollama's
clients.
"""

# ruff: noqa: PLC0415 - the packages are extras

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway_lite.features import usage_report
from gateway_lite.features.ollama.answers import failed
from gateway_lite.features.response_cache import Cache, Collector, Hit, Miss
from hpc import own_source
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from gateway_lite.features.ollama.requests import Translated
    from gateway_lite.features.redact.text import Finder
    from gateway_lite.wire import token_usage
    from gateway_lite.wire.request_body import RequestFields
    from gateway_lite.wire.sse import Editor
    from hpc.gateway_policy import GatewayPolicy, RedactPolicy

MIB = 2**20
OK = 200
COUNTED = ("/v1/chat/completions", "/v1/completions")
"""Paths whose streams can carry a usage report."""
SILENT = ("/v1/embeddings", "/v1/rerank")
"""Paths whose answers hold no words."""


class OllamaFailure:
    """The translation of an engine's error into Ollama's form."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        """Keep a part of the error until the error is complete."""
        self._parts.append(data)
        return b""

    def finish(self) -> bytes:
        """Return the error in Ollama's form."""
        return failed(b"".join(self._parts))


class FeatureEdits:
    """The edits of one request's answer.

    Attributes:
        translated: the translation of a request in Ollama's form, or None.
        finder: the redaction search, or None.
        miss: key of the future cache entry, or None.
        report: filter for a usage report that only the gateway asked for, or None.
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
            return () if self.translated is None else (OllamaFailure(),)
        # The order matters: the cache keeps redacted answers in OpenAI's form, and Ollama's form
        # comes last.
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

    def used(self) -> token_usage.Usage | None:
        """Return the removed usage report."""
        return None if self.report is None else self.report.usage


class FeatureRequest(msgspec.Struct, frozen=True, gc=False):
    """The properties of a request, beside its body, that features depend on.

    Attributes:
        path: path of the request to replicas.
        fields: decoded fields of the body.
        model: the model of the answer, after aliases and rules.
        identity: fingerprint of the model; empty if unknown.
        key_id: id of the client's key.
        counted: True if a stream's usage must be known.
    """

    path: str
    fields: RequestFields
    model: str
    identity: str
    key_id: str
    counted: bool


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


class FeaturePipeline:
    """The features that models.yaml enables.

    Args:
        policy: the gateway policy of models.yaml.
    """

    def __init__(self, policy: GatewayPolicy) -> None:
        self._redact = policy.redact
        self._finder = _finder(policy.redact)
        kept = policy.cache
        self._cache = (
            None if kept is None else Cache(kept.mib * MIB, kept.ttl_s, vectors=kept.vectors)
        )

    def prepare(
        self, body: bytes, asked: FeatureRequest, translated: Translated | None = None
    ) -> Prepared:
        """Return a request prepared for its replica, or its cached answer.

        Args:
            body: the request in OpenAI's form.
            asked: the request's properties beside the body.
            translated: the translation of a request in Ollama's form, or None.
        """
        edits = None
        if translated is not None:
            edits = FeatureEdits(self._cache)
            edits.translated = translated
        if self._finder is not None:
            body = _redacted(body, self._finder)
            if self._redact is not None and self._redact.answers and asked.path not in SILENT:
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
        if asked.counted and asked.fields.stream and asked.path in COUNTED:
            with_usage = None if asked.fields.stream_options else usage_report.add_usage(body)
            if with_usage is not None:
                body = with_usage
                edits = edits or FeatureEdits(self._cache)
                edits.report = usage_report.StreamUsage()
        return Prepared(body, edits, cache="" if found is None else "miss")

    def _look_up(self, body: bytes, asked: FeatureRequest) -> Hit | Miss | None:
        if self._cache is None:
            return None
        stream = bool(asked.fields.stream)
        return self._cache.lookup(
            body, asked.path, asked.model, asked.identity, asked.key_id, stream=stream
        )


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
