"""Streams under load, run on the login node; prints "loaded", then one JSON list of answers."""

from __future__ import annotations

import http.client
import json
import math
import sys
import threading
import time
from typing import Any

OPTIONS = json.loads(sys.argv[1])
LOADED = 3
ANSWERS: list[dict[str, Any]] = []
TOLD = threading.Event()


def ask() -> dict[str, Any]:
    """Return what one stream said and how it ended."""
    found: dict[str, Any] = {"status": 0, "text": "", "error": "", "done": False, "cut": ""}
    body = {
        "model": OPTIONS["model"],
        "messages": [{"role": "user", "content": "Who wrote Emma?"}],
        "stream": True,
        "temperature": 0,
        "max_tokens": OPTIONS["tokens"],
        "ignore_eos": OPTIONS["long"],
    }
    headers = {"Authorization": f"Bearer {OPTIONS['key']}", "Content-Type": "application/json"}
    found["began"] = time.time()
    try:
        link = http.client.HTTPConnection("127.0.0.1", OPTIONS["port"], timeout=90)
        link.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = link.getresponse()
        found["status"] = answer.status
        found["retry_after"] = answer.headers.get("Retry-After")
        found["replica"] = answer.headers.get("x-gateway-backend")
        read(answer, found)
    except (OSError, http.client.HTTPException) as error:
        found["cut"] = repr(error)
    found["ended"] = time.time()
    return found


def read(answer: http.client.HTTPResponse, found: dict[str, Any]) -> None:
    """Take in the frames of one stream."""
    for raw in answer:
        line = raw.decode().strip()
        if not line.startswith("data: "):
            continue
        if line == "data: [DONE]":
            found["done"] = True
            continue
        frame = json.loads(line[6:])
        if "error" in frame:
            found["error"] = frame["error"]["message"]
        for choice in frame.get("choices", []):
            found["text"] += choice["delta"].get("content") or ""


def work(end: float) -> None:
    """Ask again and again, or once."""
    while True:
        found = ask()
        ANSWERS.append(found)
        if TOLD.is_set() or time.time() > end:
            return
        if found["status"] != http.client.OK:
            time.sleep(0.1)


def main() -> None:
    """Run the load, and say when it stands."""
    lasts = OPTIONS["seconds"]
    end = math.inf if lasts is None else time.time() + lasts
    threads = [threading.Thread(target=work, args=(end,)) for _ in range(OPTIONS["threads"])]
    for thread in threads:
        thread.start()
    while len(ANSWERS) < LOADED and any(thread.is_alive() for thread in threads):
        time.sleep(0.02)
    print("loaded", flush=True)  # noqa: T201 - what the test reads
    if lasts is None:
        sys.stdin.read()
        TOLD.set()
    for thread in threads:
        thread.join()
    print(json.dumps(ANSWERS))  # noqa: T201 - what the test reads


main()
