"""The command opencode, on PATH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = sys.argv[1]
CONFIG = {
    "provider": {
        "hpc": {
            "npm": "@ai-sdk/openai-compatible",
            "options": {"baseURL": "{env:OPENAI_BASE_URL}", "apiKey": "{env:OPENAI_API_KEY}"},
            "models": {MODEL: {}},
        }
    },
}


def opencode(prompt: str, folder: str) -> str:
    """Return what the command prints."""
    argv = ["opencode", "run", "--auto", "--model", f"hpc/{MODEL}", prompt]
    done = subprocess.run(
        argv, check=True, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    return " ".join(done.stdout.split())


with tempfile.TemporaryDirectory() as folder:
    os.environ.update(HOME=folder, PWD=folder, OPENCODE_DISABLE_AUTOUPDATE="1")
    os.environ.update(OPENCODE_DISABLE_MODELS_FETCH="1")
    (Path(folder) / "opencode.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    answer = opencode("Who wrote Emma?", folder)
    print("first:", answer)
    print("stream:", answer)
    print("tool:", opencode("Add 1234 and 4321 with the tool.", folder))
