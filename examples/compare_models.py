"""Ask two models the same questions, side by side, and say which was quicker.

Needs OPENAI_BASE_URL and OPENAI_API_KEY, as `hpc-serve connect` prints them.
Usage: python examples/compare_models.py MODEL_A MODEL_B [QUESTION...]
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

QUESTIONS = ("Say hello.", "Who wrote Emma?")


def ask(client: httpx.Client, model: str, question: str) -> tuple[str, float]:
    """Return one model's answer, and the seconds that it took."""
    body = {"model": model, "max_tokens": 64, "temperature": 0}
    body["messages"] = [{"role": "user", "content": question}]
    began = time.perf_counter()
    answer = client.post("/chat/completions", json=body).raise_for_status().json()
    return str(answer["choices"][0]["message"]["content"]).strip(), time.perf_counter() - began


def main(first: str, second: str, *questions: str) -> None:
    """Ask both at once, question by question."""
    headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    base = os.environ["OPENAI_BASE_URL"]
    # A proxy set for the web would otherwise be asked for 127.0.0.1 as well.
    with (
        httpx.Client(base_url=base, headers=headers, trust_env=False, timeout=600) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        for question in questions or QUESTIONS:
            print(f"# {question}")
            jobs = [(m, pool.submit(ask, client, m, question)) for m in (first, second)]
            for model, job in jobs:
                text, seconds = job.result()
                print(f"{model} ({seconds:.1f} s): {text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
