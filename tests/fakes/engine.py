"""A model server's stand-in on a Unix socket, in the place of an engine's interpreter or program.

Variables choose its answers: STANDIN_STATUS is a JSON object of statuses by path, with "die" as a
status that ends the server; STANDIN_LOG is a file that gets a line for each request, and the
server's own variables first.
"""

from __future__ import annotations

import http.server
import json
import os
import socketserver
import sys
from pathlib import Path

STATUS = json.loads(os.environ.get("STANDIN_STATUS", "{}"))
LOG = Path(os.environ.get("STANDIN_LOG", os.devnull))
KEYS = ("API_KEY", "VLLM_API_KEY", "LLAMA_API_KEY")
KEY = next((os.environ[name] for name in KEYS if name in os.environ), "")


def told(line: str) -> None:
    """Add a line to the log."""
    with LOG.open("a") as file:
        file.write(line + "\n")


class Handler(http.server.BaseHTTPRequestHandler):
    """The answers of the engine."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        """Answer a probe."""
        self.answer(STATUS.get(self.path, 200))

    def do_POST(self) -> None:
        """Answer a request, if the key is right."""
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        told(f"POST {self.path} {body}")
        known = self.headers.get("authorization") == f"Bearer {KEY}"
        self.answer(STATUS.get(self.path, 200) if known else 401)

    def answer(self, status: int | str) -> None:
        """Send a status with a body in OpenAI's form, or end."""
        if status == "die":
            sys.stderr.write("RuntimeError: the first batch broke the kernel\n")
            os._exit(3)
        body = b'{"error": {"message": "as the test has it"}}' if status != 200 else b"{}"
        self.send_response(int(status))
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(socketserver.ThreadingUnixStreamServer):
    """A server whose threads end with it."""

    daemon_threads = True


def main() -> None:
    """Serve until SIGTERM."""
    told("started " + json.dumps(dict(os.environ)))
    place = os.environ.get("SOCKET") or sys.argv[sys.argv.index("--uds") + 1]
    Server(place, Handler).serve_forever()


if __name__ == "__main__":
    main()
