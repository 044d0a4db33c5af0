"""Batches against a running service: real engine, real gateway, real workers, real clients."""

from __future__ import annotations

import io
import json
import time
from typing import TYPE_CHECKING, Any, Final

import openai
import pytest

from tests.contract.test_local_service import ADHOC, User, engine, user
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["engine", "user"]
CHAT: Final = "/v1/chat/completions"


def line(name: str, said: str) -> dict[str, Any]:
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": said}],
        "temperature": 0,
        "max_tokens": 24,
    }
    return {"custom_id": name, "method": "POST", "url": CHAT, "body": body}


def over_api(asks: openai.OpenAI, text: bytes) -> list[dict[str, Any]]:
    """Have requests answered as OpenAI's users do."""
    file = asks.files.create(file=("in.jsonl", io.BytesIO(text)), purpose="batch")
    batch = asks.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    deadline = time.monotonic() + 90
    while (batch := asks.batches.retrieve(batch.id)).status not in ("completed", "failed"):
        assert time.monotonic() < deadline, batch
        time.sleep(0.3)
    assert batch.status == "completed", batch
    assert batch.error_file_id is None
    said = asks.files.content(str(batch.output_file_id)).text
    return [json.loads(one) for one in said.splitlines()]


@pytest.mark.engine
def test_a_service_answers_a_batch_over_the_api_and_from_the_command_line(
    user: User, engine: None, tmp_path: Path
) -> None:
    user.read("submit", "demo", *ADHOC, "--wait")
    port = user.read("gateway", "start", "--port", "0")["port"]
    key = user.read("gateway", "ensure")["key"]
    names = [f"q{number}" for number in range(12)]
    text = "".join(json.dumps(line(one, "Who wrote Emma?")) + "\n" for one in names)
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0, timeout=PATIENCE_S
    ) as asks:
        found = over_api(asks, text.encode())
    assert [one["custom_id"] for one in found] == names
    assert all(
        "Jane Austen" in one["response"]["body"]["choices"][0]["message"]["content"]
        for one in found
    )
    asked, answered = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    asked.write_text(text)
    made = user.read("batch", "submit", str(asked), "-o", str(answered), "--service", "demo")
    deadline = time.monotonic() + 90
    while (status := user.read("batch", "status", made["id"]))["state"] != "DONE":
        assert time.monotonic() < deadline, status
        time.sleep(0.5)
    again = [json.loads(one) for one in answered.read_text().splitlines()]

    assert [one["custom_id"] for one in again] == names
    assert [one["response"]["body"]["choices"] for one in again] == [
        one["response"]["body"]["choices"] for one in found
    ]
    assert user.type("gateway", "stop") == "the gateway is stopped\n"
    assert user.type("stop", "demo") == "stopped demo\n"
