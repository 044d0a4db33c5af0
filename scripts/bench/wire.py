"""Requests as openai-python sends them, and numbers out of many times."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

WORD = 'Explain why the énergy of a "closed" system is conserved, and cite one caveat.\n'
SIZES = {"small": 1_000, "large": 64_000}
HEADERS = """\
Accept: application/json
Content-Type: application/json
User-Agent: OpenAI/Python 3.51.0
X-Stainless-Lang: python
X-Stainless-Package-Version: 3.51.0
X-Stainless-OS: Linux
X-Stainless-Arch: x64
X-Stainless-Runtime: CPython
X-Stainless-Async: false"""


@dataclass(frozen=True)
class Target:
    """Where requests go, and what they look like.

    Attributes:
        url: the base of the API, such as http://127.0.0.1:9100/v1.
        headers: further ones, each "Name: value".
        size: "small" or "large" prompts.
        mock: base URL of the engine's own paths.
    """

    url: str
    headers: tuple[str, ...] = ()
    size: str = "small"
    mock: str = ""

    @property
    def host(self) -> str:
        """The address."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port."""
        return urlsplit(self.url).port or 80

    @property
    def path(self) -> str:
        """The path that is asked."""
        return urlsplit(self.url).path.rstrip("/") + "/chat/completions"

    def body(self, *, stream: bool = False) -> bytes:
        """Return the JSON of a request."""
        count = SIZES[self.size]
        text = (WORD * (count // len(WORD) + 1))[:count]
        system = "You are a concise and careful assistant for scientific questions."
        talk = [
            {"role": "system", "content": system},
            {"role": "user", "content": "What is the boiling point of water at 2000 m?"},
            {"role": "assistant", "content": "About 93 degrees Celsius."},
            {"role": "user", "content": text},
        ]
        sampling = {"temperature": 0.7, "top_p": 0.95, "max_tokens": 256, "seed": 1234}
        asked = {"messages": talk, **sampling, "stop": ["<|im_end|>", "</s>"]}
        if stream:
            asked |= {"stream": True, "stream_options": {"include_usage": False}}
        asked |= {"metadata": {"project": "bench"}, "model": "mock"}
        return json.dumps(asked, ensure_ascii=False, separators=(",", ":")).encode()

    def head(self, length: int) -> bytes:
        """Return the head of a request."""
        lines = [
            f"POST {self.path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            *HEADERS.splitlines(),
            f"Content-Length: {length}",
            *self.headers,
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def request(self, *, stream: bool = False) -> bytes:
        """Return the bytes of a request."""
        body = self.body(stream=stream)
        return self.head(len(body)) + body


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return a percentile of sorted values."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def spread(nanoseconds: list[int]) -> dict[str, Any]:
    """Return how times are spread, in microseconds."""
    ordered = sorted(one / 1000 for one in nanoseconds)
    points = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    found = {name: percentile(ordered, share) for name, share in points.items()}
    mean = sum(ordered) / len(ordered) if ordered else None
    rounded = {k: None if v is None else round(v, 1) for k, v in {**found, "mean": mean}.items()}
    return {"n": len(ordered), **rounded}
