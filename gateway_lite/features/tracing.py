"""Tracing: the trace context of requests, and the gateway's spans if a collector is configured.

W3C Trace Context (level 1) for the headers, OpenTelemetry's conventions for HTTP and generative AI
for the attributes. No words of a prompt or of an answer are among the attributes, and no key.
"""

# ruff: noqa: PLC0415 - OpenTelemetry is heavy, and an extra

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from gateway_lite.wire.trace_context import NAMES, STATE, parsed
from hpc import own_source
from hpc.errors import ConfigError
from hpc.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway_lite.wire.token_usage import Usage

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
}
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SERVICE = "hpc-serve-gateway"


def configured(endpoint: str | None, env: Mapping[str, str] = os.environ) -> Tracer | None:
    """Return a tracer if a collector is configured and tracing is not switched off.

    Args:
        endpoint: base URL of a collector that takes OTLP over HTTP; wins over the variables.
        env: environment with OpenTelemetry's variables.

    Raises:
        ConfigError: the packages are missing, or the variables ask for gRPC.
    """
    if not endpoint and not any(env.get(name) for name in ENDPOINTS):
        return None
    if env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if env.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    protocol = next((env[name] for name in PROTOCOLS if env.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        raise ConfigError(f"traces go out as http/protobuf, not as {protocol}")
    return Tracer(endpoint)


class Span:
    """The span of one request.

    Args:
        span: OpenTelemetry's span.
        headers: header lines for the request to the engine.
    """

    __slots__ = ("_span", "headers")

    def __init__(self, span: Any, headers: bytes) -> None:
        self._span = span
        self.headers = headers

    def end(
        self,
        status: int,
        *,
        model: str | None = None,
        replica: str | None = None,
        usage: Usage | None = None,
        first_s: float | None = None,
        tries: int = 1,
        error: str | None = None,
    ) -> None:
        """Add the outcome to the span, and hand the span over for export.

        Args:
            status: HTTP status of the client's answer.
            model: the answering model, aliases and fallbacks resolved.
            replica: name of the replica.
            usage: tokens that the engine reported.
            first_s: seconds until the first byte.
            tries: number of replicas that the request was sent to.
            error: the gateway's error code.
        """
        span = self._span
        if span.is_recording():
            said = {
                "http.response.status_code": status,
                "gen_ai.response.model": model,
                "hpc_serve.replica": replica,
                "gen_ai.response.time_to_first_chunk": first_s,
                "http.request.resend_count": tries - 1 if tries > 1 else None,
            }
            if usage is not None:
                said["gen_ai.usage.input_tokens"] = usage.prompt
                said["gen_ai.usage.output_tokens"] = usage.completion
            if error or status >= 500:
                said["error.type"] = error or str(status)
                span.set_status(_ERROR[0])
            span.set_attributes({name: value for name, value in said.items() if value is not None})
        span.end()


_ERROR: list[Any] = []
"""OpenTelemetry's status code of a failure, once imported."""


class Tracer:
    """The source of spans; sends the spans in batches, from a separate thread.

    Args:
        endpoint: base URL of the collector; None means OpenTelemetry's variables.

    Raises:
        ConfigError: the packages are missing.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
                OTLPSpanExporter,
            )
            from opentelemetry.sdk.resources import SERVICE_NAME, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as missing:
            raise ConfigError(
                f"tracing needs the package {missing.name}", hint=own_source.pip_command("otel")
            ) from None
        self._trace = trace
        _ERROR[:] = [trace.StatusCode.ERROR]
        named = {SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", SERVICE)}
        resource = Resource.create({**named, "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        to = f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(to)))
        self._tracer = self._provider.get_tracer("gateway_lite", __version__)

    def begin(
        self,
        path: str,
        model: str,
        *,
        traceparent: bytes | None = None,
        tracestate: bytes | None = None,
        stream: bool = False,
        max_tokens: int | None = None,
        request_id: str | None = None,
    ) -> Span:
        """Begin the span of a request, within the client's trace if any.

        Args:
            path: path of the request, without a query.
            model: model name in the client's request.
            traceparent: the client's header, valid or not.
            tracestate: the client's second trace header.
            stream: whether the client asked for events.
            max_tokens: the request's limit on the answer.
            request_id: the gateway's id of the request.
        """
        operation = OPERATIONS.get(path, "generate_content")
        said: dict[str, Any] = {
            "http.request.method": "POST",
            "url.path": path,
            "gen_ai.operation.name": operation,
            "gen_ai.request.model": model,
            "gen_ai.request.stream": stream,
        }
        if max_tokens is not None:
            said["gen_ai.request.max_tokens"] = max_tokens
        if request_id is not None:
            said["hpc_serve.request_id"] = request_id
        trace = self._trace
        span = self._tracer.start_span(
            f"{operation} {model}",
            context=self._context(parsed(traceparent), tracestate),
            kind=trace.SpanKind.SERVER,
            attributes=said,
        )
        return Span(span, _headers(span.get_span_context(), tracestate if traceparent else None))

    def close(self, timeout_s: float = 5.0) -> None:
        """Send the remaining spans within a time limit, and stop."""
        # A collector that hangs must not keep the gateway from ending.
        ending = threading.Thread(target=self._provider.shutdown, name="tracer-close", daemon=True)
        ending.start()
        ending.join(timeout_s)

    def _context(self, parent: tuple[int, int, int] | None, state: bytes | None) -> Any:
        """Return the client's trace context, or an empty context."""
        trace = self._trace
        if parent is None:
            return trace.set_span_in_context(trace.INVALID_SPAN)
        pairs = [state.decode()] if state and STATE.fullmatch(state) else []
        context = trace.SpanContext(
            parent[0],
            parent[1],
            is_remote=True,
            trace_flags=trace.TraceFlags(parent[2]),
            trace_state=trace.TraceState.from_header(pairs),
        )
        return trace.set_span_in_context(trace.NonRecordingSpan(context))


def _headers(context: Any, tracestate: bytes | None) -> bytes:
    """Return the header lines by which the engine joins the span's trace."""
    ids = f"{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"
    line = f"traceparent: 00-{ids}\r\n".encode()
    if tracestate and context.trace_state and STATE.fullmatch(tracestate):
        line += b"tracestate: " + tracestate + b"\r\n"
    return line


def for_engine(span: Span, headers: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return a client's headers, with the span's context in place of the client's own."""
    kept = {n: v for n, v in headers.items() if n not in NAMES}
    for line in span.headers.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b": ")
        kept[name] = value
    return kept
