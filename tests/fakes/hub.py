"""A Hugging Face Hub on loopback: the listing of a repository, and access to a file of it.

Answers are those of huggingface.co: codes in ``x-error-code``, 401 for what is not there or not to
be seen, a redirect from a repository's old name.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

TOKEN = "hf_of_the_member"


@dataclass
class FakeHub:
    """A Hub with repositories in memory.

    Attributes:
        repositories: files by repository; of the revisions ``main`` and ``v1``.
        gated: repositories that only the token's owner may read.
        moved: old names of repositories.
        status: an answer to everything, or None.
        silent: event to wait for before any answer, or None.
        seen: method, path and authorization of each request.
    """

    repositories: dict[str, Sequence[str]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    moved: dict[str, str] = field(default_factory=dict)
    status: int | None = None
    silent: threading.Event | None = None
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""

    def start(self) -> None:
        """Listen on a free port."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, head=False)

            def do_HEAD(self) -> None:
                hub.answer(self, head=True)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop to listen."""
        if self.silent is not None:
            self.silent.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, *, head: bool) -> None:
        """Answer one request."""
        signed = request.headers.get("authorization")
        self.seen.append((request.command, request.path, signed))
        if self.silent is not None:
            self.silent.wait()
        if self.status is not None:
            return self._send(request, self.status, {}, text="<html>a proxy</html>")
        if head:
            repo = request.path[1:].partition("/resolve/")[0]
            closed = repo in self.gated and signed != f"Bearer {TOKEN}"
            headers = {"x-error-code": "GatedRepo"} if closed else {}
            return self._send(request, 403 if closed else 302, {}, headers)
        repo, _, revision = request.path.removeprefix("/api/models/").partition("/revision/")
        if repo in self.moved:
            target = f"/api/models/{self.moved[repo]}/revision/{revision}"
            return self._send(request, 307, {}, {"location": target})
        if repo not in self.repositories:
            told = {"error": "Repository not found"}
            return self._send(request, 401, told, {"x-error-code": "RepoNotFound"})
        if revision not in ("main", "v1"):
            told = {"error": f"Invalid rev id: {revision}"}
            return self._send(request, 404, told, {"x-error-code": "RevisionNotFound"})
        files = [{"rfilename": name} for name in self.repositories[repo]]
        gated = "manual" if repo in self.gated else False
        return self._send(request, 200, {"id": repo, "gated": gated, "siblings": files})

    @staticmethod
    def _send(
        request: BaseHTTPRequestHandler,
        status: int,
        told: dict[str, Any],
        headers: dict[str, str] | None = None,
        text: str | None = None,
    ) -> None:
        body = (text if text is not None else json.dumps(told)).encode()
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
