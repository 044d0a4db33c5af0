"""Stream one answer and print the time to its first token.

OPENAI_BASE_URL=http://127.0.0.1:8081/v1 OPENAI_API_KEY=... python examples/first_token.py Hello
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator


def main() -> None:
    """Read the arguments, stream, and print the figures on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt")
    parser.add_argument("--model", help="a name from /v1/models [default: the first]")
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()
    headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    base = os.environ["OPENAI_BASE_URL"]
    # A proxy set for the web would otherwise be asked for 127.0.0.1 as well.
    with httpx.Client(base_url=base, headers=headers, trust_env=False, timeout=120) as client:
        model = options.model or client.get("models").raise_for_status().json()["data"][0]["id"]
        body = {
            "model": model,
            "messages": [{"role": "user", "content": options.prompt}],
            "max_tokens": options.max_tokens,
            "temperature": 0,
            "stream": True,
        }
        asked = time.perf_counter()
        pieces = deltas(client, body)
        first = next(pieces, "")
        first_s = time.perf_counter() - asked
        sys.stdout.write(first)
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
    total_s = time.perf_counter() - asked
    print(
        f"\n\ntime to first token: {first_s * 1000:.0f} ms; whole answer: {total_s * 1000:.0f} ms"
    )


def deltas(client: httpx.Client, body: dict[str, object]) -> Iterator[str]:
    """Yield the pieces of text of a streamed chat completion."""
    with client.stream("POST", "chat/completions", json=body) as answer:
        if answer.is_error:
            sys.exit(f"{answer.status_code}: {answer.read().decode()}")
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                sys.exit(f"error: {event['error']['message']}")
            for choice in event["choices"]:
                if text := choice["delta"].get("content"):
                    yield text


if __name__ == "__main__":
    main()
