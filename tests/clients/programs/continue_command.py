"""The Continue CLI (cn), on PATH."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = sys.argv[1]
CONFIG = """\
name: hpc-serve
version: 1.0.0
schema: v1
models:
  - name: hpc
    provider: openai
    model: {model}
    apiBase: {url}
    apiKey: {key}
    roles: [chat]
    capabilities: [tool_use]
"""


def cn(prompt: str, folder: str) -> str:
    """Return what the command prints."""
    config = str(Path(folder) / "config.yaml")
    argv = ["cn", "--config", config, "--auto", "-p", prompt]
    done = subprocess.run(
        argv, check=True, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    return " ".join(done.stdout.split())


with tempfile.TemporaryDirectory() as folder:
    os.environ.update(HOME=folder, CONTINUE_TELEMETRY_ENABLED="0")
    url, key = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
    config = CONFIG.format(model=MODEL, url=url, key=key)
    (Path(folder) / "config.yaml").write_text(config, encoding="utf-8")
    answer = cn("Who wrote Emma?", folder)
    print("first:", answer)
    print("stream:", answer)
    print("tool:", cn("Add 1234 and 4321 with the tool.", folder))
