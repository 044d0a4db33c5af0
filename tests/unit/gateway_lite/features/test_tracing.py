"""The context that a request carries, and the spans that a collector gets."""

from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway_lite.features.tracing import configured
from gateway_lite.wire.token_usage import Usage
from gateway_lite.wire.trace_context import parsed
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway_lite.features.tracing import Tracer

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01".encode()


class Collector:
    """Takes OTLP over HTTP, as any collector does."""

    def __init__(self) -> None:
        self.got: list[tuple[str, ExportTraceServiceRequest]] = []
        got = self.got

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                got.append((self.path, ExportTraceServiceRequest.FromString(body)))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))

    def spans(self) -> list[Any]:
        return [
            span
            for _, request in self.got
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    made.thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    made.thread.join()


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in span.attributes}


def tracer_of(collector: Collector) -> Tracer:
    made = configured(collector.url + "/", {})
    assert made is not None
    return made


def test_a_span_reaches_the_collector(collector: Collector) -> None:
    tracer = tracer_of(collector)
    span = tracer.begin(
        "/v1/chat/completions",
        "fast",
        traceparent=PARENT,
        tracestate=b"vendor=1",
        stream=True,
        max_tokens=9,
        request_id="r-1",
    )
    headers = span.headers.decode().split("\r\n")
    span.end(200, model="small", replica="small/0", usage=Usage(7, 3), first_s=0.25, tries=2)
    tracer.close()

    (got,) = collector.spans()
    assert got.name == "chat fast"
    assert (got.trace_id.hex(), got.parent_span_id.hex()) == (TRACE, "b7ad6b7169203331")
    assert headers == [
        f"traceparent: 00-{TRACE}-{got.span_id.hex()}-01",
        "tracestate: vendor=1",
        "",
    ]
    assert attributes(got) == {
        "http.request.method": "POST",
        "url.path": "/v1/chat/completions",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "fast",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 9,
        "hpc_serve.request_id": "r-1",
        "http.response.status_code": 200,
        "gen_ai.response.model": "small",
        "hpc_serve.replica": "small/0",
        "gen_ai.response.time_to_first_chunk": 0.25,
        "http.request.resend_count": 1,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
    }
    path, request = collector.got[0]
    resource = {a.key: a.value.string_value for a in request.resource_spans[0].resource.attributes}
    assert path == "/v1/traces"
    assert resource["service.name"] == "hpc-serve-gateway"


def test_a_failure_is_said(collector: Collector) -> None:
    tracer = tracer_of(collector)
    tracer.begin("/v1/embeddings", "e").end(502, error="upstream_error")
    tracer.begin("/other", "e").end(500)
    tracer.begin("/v1/embeddings", "e").end(404)
    tracer.close()
    got = collector.spans()

    assert [span.status.code for span in got] == [2, 2, 0]
    assert attributes(got[0])["error.type"] == "upstream_error"
    assert attributes(got[1])["error.type"] == "500"
    assert len({span.trace_id for span in got}) == 3
    assert not any(span.parent_span_id for span in got)


def test_a_trace_that_the_client_does_not_sample_is_passed_on_and_not_sent(
    collector: Collector,
) -> None:
    tracer = tracer_of(collector)
    span = tracer.begin("/v1/completions", "m", traceparent=PARENT[:-2] + b"00")
    span.end(200, usage=Usage(1, 1))
    tracer.close()

    assert span.headers.startswith(f"traceparent: 00-{TRACE}-".encode())
    assert span.headers.endswith(b"-00\r\n")
    assert collector.spans() == []


def test_a_broken_context_begins_a_trace_of_its_own(collector: Collector) -> None:
    tracer = tracer_of(collector)
    for traceparent in (b"junk", b"00-" + b"0" * 32 + PARENT[35:], PARENT + b"\r\nx: y"):
        span = tracer.begin("/v1/completions", "m", traceparent=traceparent, tracestate=b"a=1")
        assert parsed(span.headers.split(b"\r\n")[0].removeprefix(b"traceparent: "))
        assert TRACE.encode() not in span.headers
        assert span.headers.count(b"\r\n") == 1
        span.end(200)
    tracer.close()


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"00-" + TRACE.upper().encode() + PARENT[35:],
        PARENT + b"-x",
        b"ff" + PARENT[2:],
        b"00-" + b"0" * 32 + PARENT[35:],
        PARENT[:36] + b"0" * 16 + PARENT[52:],
        PARENT[:-1],
        b"0" + PARENT,
    ],
)
def test_a_context_that_is_not_valid_is_none(header: bytes | None) -> None:
    assert parsed(header) is None


def test_a_later_version_may_say_more() -> None:
    assert parsed(b"01" + PARENT[2:] + b"-more") == (int(TRACE, 16), 0xB7AD6B7169203331, 1)


def test_a_tracer_is_made_only_where_a_collector_is_named() -> None:
    url = "http://127.0.0.1:1"
    assert configured(None, {}) is None
    assert configured(url, {"OTEL_SDK_DISABLED": "TRUE"}) is None
    assert (
        configured(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_TRACES_EXPORTER": "none"})
        is None
    )
    with pytest.raises(ConfigError, match="not as grpc"):
        configured(url, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})


def test_the_variable_names_the_collector(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
    tracer = configured(None)
    assert tracer is not None
    tracer.begin("/v1/rerank", "m").end(200)
    tracer.close()

    assert [span.name for span in collector.spans()] == ["rerank m"]
    assert b"ours" in collector.got[0][1].SerializeToString()


def test_a_dead_collector_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    # The exporter tries again after about 1 and 2 s, and gives up as the next wait is too long.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "4")
    others = set(threading.enumerate())
    tracer = configured("http://127.0.0.1:1", {})
    assert tracer is not None
    for _ in range(5):
        tracer.begin("/v1/completions", "m").end(200)
    exporting = set(threading.enumerate()) - others
    tracer.close(0.2)
    assert any(thread.is_alive() for thread in exporting), "the end waited for the collector"

    # A late line of the exporter would stand in the log of another test.
    for thread in set(threading.enumerate()) - others:
        thread.join(60)
        assert not thread.is_alive()


def test_nothing_is_imported_while_it_is_off() -> None:
    code = (
        "import sys\nfrom gateway_lite.features import tracing as tracing\n"
        "assert tracing.configured(None, {}) is None\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
