"""The gateways that ours is measured against: how each is installed, configured and started.

In every string {PORT} is the gateway's port, {SPARE} another free one, {MOCK} the engine's,
{WORK} a folder for this run and {HERE} the folder that the peers were installed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

KEY = "sk-bench-key"
LOCAL = "http://127.0.0.1:{MOCK}"


@dataclass(frozen=True)
class Peer:
    """A gateway.

    Attributes:
        argv: the command.
        files: written to the run's folder before, by name.
        env: further variables.
        headers: what clients send, each "Name: value".
        wait_s: how long it may take to start.
        pip: what to install with pip into a virtual environment of its own.
        apt: the Debian package.
        source: what has to be brought by hand, and where to.
    """

    argv: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    wait_s: float = 60.0
    pip: tuple[str, ...] = ()
    apt: str = ""
    source: str = ""


NGINX = """\
worker_processes 1; daemon off; pid {WORK}/nginx.pid; error_log {WORK}/nginx.err warn;
events { worker_connections 4096; }
http {
  access_log off; client_body_buffer_size 1m; client_max_body_size 64m;
  client_body_temp_path {WORK}/body; proxy_temp_path {WORK}/proxy; fastcgi_temp_path {WORK}/f;
  uwsgi_temp_path {WORK}/u; scgi_temp_path {WORK}/s; tcp_nodelay on; keepalive_requests 1000000000;
  upstream engine {
    server 127.0.0.1:{MOCK}; keepalive 512; keepalive_timeout 4s; keepalive_requests 1000000000;
  }
  server {
    listen 127.0.0.1:{PORT} backlog=2048;
    location / {
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600s;
    }
  }
}
"""
# Without http-no-delay small chunks are held back for up to 200 ms.
HAPROXY = """\
global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 75s
  option http-keep-alive
  option abortonclose
  option http-no-delay
  http-reuse always
frontend front
  bind 127.0.0.1:{PORT} backlog 2048
  default_backend engine
backend engine
  server one 127.0.0.1:{MOCK} pool-purge-delay 3s pool-max-conn 1024
"""
LITELLM = f"""\
model_list:
  - model_name: mock
    litellm_params: {{model: openai/mock, api_base: "{LOCAL}/v1", api_key: none}}
litellm_settings: {{num_retries: 0, telemetry: false, drop_params: false}}
general_settings: {{master_key: {KEY}}}
"""
LITELLM_ENV = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "PYTHONWARNINGS": "ignore",
    "DISABLE_ADMIN_UI": "True",
    "NO_DOCS": "True",
}
AT = ("--host", "127.0.0.1", "--port", "{PORT}")
ROUTER = (
    *("--worker-urls", LOCAL, *AT, "--policy", "round_robin", "--log-level", "error"),
    *("--prometheus-port", "{SPARE}"),
)
STACK = ("--service-discovery", "static", "--static-backends", LOCAL, "--static-models", "mock")
STACK_NEEDS = (
    *("aiofiles", "aiohttp[speedups]", "fastapi", "httpx", "kubernetes", "numpy"),
    *("opentelemetry-api", "opentelemetry-sdk", "opentelemetry-exporter-otlp"),
    *("prometheus-client", "psutil", "python-multipart", "pyyaml", "requests"),
    *("sentry-sdk[fastapi]", "uhashring", "uvicorn", "xxhash"),
)
PEERS = {
    "nginx": Peer(
        ("nginx", "-p", "{WORK}", "-e", "{WORK}/nginx.err", "-c", "{WORK}/nginx.conf"),
        {"nginx.conf": NGINX},
        apt="nginx-light",
    ),
    "haproxy": Peer(
        ("haproxy", "-db", "-q", "-f", "{WORK}/haproxy.cfg"),
        {"haproxy.cfg": HAPROXY},
        apt="haproxy",
    ),
    "vllm-router": Peer(
        ("{HERE}/v-vllm-router/bin/vllm-router", *ROUTER),
        pip=("vllm-router",),
    ),
    "smg": Peer(("{HERE}/v-smg/bin/smg", "launch", *ROUTER), pip=("smg",)),
    "sglang-router": Peer(
        (*("{HERE}/v-sglang-router/bin/python", "-m", "sglang_router.launch_router", *ROUTER),),
        pip=("sglang-router",),
    ),
    "litellm": Peer(
        (
            *("{HERE}/v-litellm/bin/litellm", "--config", "{WORK}/litellm.yaml", *AT),
            *("--num_workers", "1", "--telemetry", "False"),
        ),
        {"litellm.yaml": LITELLM},
        LITELLM_ENV,
        (f"Authorization: Bearer {KEY}",),
        wait_s=120.0,
        pip=("litellm[proxy]",),
    ),
    "production-stack": Peer(
        (
            *("{HERE}/v-production-stack/bin/python", "-m", "vllm_router.app", *AT, *STACK),
            *("--static-model-types", "chat", "--routing-logic", "roundrobin"),
            *("--engine-stats-interval", "30", "--log-level", "error"),
        ),
        env={"PYTHONPATH": "{HERE}/production-stack/src"},
        pip=STACK_NEEDS,
        source="a checkout of vllm-project/production-stack in {HERE}/production-stack",
    ),
}
