"""Stream a chat completion with nothing but httpx.

Needs OPENAI_BASE_URL and OPENAI_API_KEY, as `hpc-serve connect` prints them.
Usage: python examples/httpx_chat.py MODEL [QUESTION]
"""

from __future__ import annotations

import json
import os
import sys

import httpx


def main(model: str, question: str = "Say hello.") -> None:
    """Print the answer as it comes."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 64,
        "stream": True,
    }
    headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    url = f"{os.environ['OPENAI_BASE_URL']}/chat/completions"
    # A proxy set for the web would otherwise be asked for 127.0.0.1 as well.
    with (
        httpx.Client(trust_env=False, timeout=600) as client,
        client.stream("POST", url, json=body, headers=headers) as answer,
    ):
        answer.raise_for_status()
        for line in answer.iter_lines():
            data = line.removeprefix("data: ")
            if data in {line, "[DONE]"}:
                continue
            choices = json.loads(data)["choices"]
            if choices:
                print(choices[0]["delta"].get("content") or "", end="", flush=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
