"""Optional processing of requests and answers; does nothing unless models.yaml enables a feature.

The features are redaction, the response cache, usage reports and the translation for Ollama's
clients.
"""

# ruff: noqa: PLC0415 - the packages are extras

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway_lite.features import usage_report
from gateway_lite.features.ollama.answers import failed
from gateway_lite.features.response_cache import Cache, Collector, Hit, Miss
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from gateway_lite.features.ollama.requests import Translated
    from gateway_lite.features.redact.text import Finder
    from gateway_lite.request.exchange import Exchange
    from gateway_lite.wire import token_usage
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


class FeaturePipeline:
    """The features that models.yaml enables.

    Args:
        policy: the gateway policy of models.yaml.
    """

    def __init__(self, policy: GatewayPolicy) -> None:
        self._redact = policy.redact
        self._finder = _finder(policy.redact)
        kept = policy.cache
        self._cache = None if kept is None else Cache(kept.mib * MIB, kept.ttl_s)

    def prepare(self, exchange: Exchange, identity: str, *, counted: bool) -> Hit | None:
        """Prepare a request for its replica, or return a cached answer.

        Args:
            exchange: the request; its body goes to the replica.
            identity: fingerprint of the model.
            counted: True if a stream's usage must be known.
        """
        if self._finder is not None:
            exchange.body = _redacted(exchange.body, self._finder)
            spoken = exchange.path not in SILENT
            if self._redact is not None and self._redact.answers and spoken:
                self._extra(exchange).finder = self._finder
        if self._cache is not None:
            # After redaction: no entry is found by, or kept for, text that should be hidden.
            hit = self._look_up(self._cache, exchange, identity)
            if hit is not None:
                return hit
        asked = exchange.ask
        if counted and asked is not None and asked.stream and exchange.path in COUNTED:
            body = None if asked.stream_options else usage_report.add_usage(exchange.body)
            if body is not None:
                exchange.body = body
                self._extra(exchange).report = usage_report.StreamUsage()
        return None

    def _look_up(self, cache: Cache, exchange: Exchange, identity: str) -> Hit | None:
        asked, principal = exchange.ask, exchange.principal
        if asked is None or principal is None or exchange.extra is not None:
            return None
        found = cache.lookup(
            exchange.body,
            exchange.path,
            exchange.models[0],
            identity,
            principal.id,
            stream=bool(asked.stream),
        )
        if isinstance(found, Hit):
            exchange.record.cache = "hit"
            return found
        if found is not None:
            exchange.record.cache = "miss"
            self._extra(exchange).miss = found
        return None

    def translate(self, exchange: Exchange, translated: Translated) -> None:
        """Let the answer be translated into Ollama's form."""
        self._extra(exchange).translated = translated

    def _extra(self, exchange: Exchange) -> FeatureEdits:
        if exchange.extra is None:
            exchange.extra = FeatureEdits(self._cache)
        return exchange.extra


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
            f"redaction needs the package {missing.name}", hint="pip install 'hpc-serve[redact]'"
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
