"""Stream a chat completion with the openai package.

Needs OPENAI_BASE_URL and OPENAI_API_KEY, as `hpc-serve connect` prints them.
Usage: python examples/openai_chat.py MODEL [QUESTION]
"""

from __future__ import annotations

import sys

import openai


def main(model: str, question: str = "Say hello.") -> None:
    """Print the answer as it comes."""
    with openai.OpenAI(http_client=openai.DefaultHttpxClient(trust_env=False)) as client:
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            max_tokens=64,
            stream=True,
        )
        for chunk in stream:
            if chunk.choices:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
