"""The command llm, on PATH, with a model of its own configuration."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = sys.argv[1]
CONFIG = """\
- model_id: hpc
  model_name: {model}
  api_base: {url}
  api_key_name: hpc
  supports_tools: true
"""
ADD = "def add(a: int, b: int) -> int:\n    return a + b\n"


def llm(*words: str) -> str:
    """Return what the command prints."""
    done = subprocess.run(["llm", *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


with tempfile.TemporaryDirectory() as folder:
    os.environ["LLM_USER_PATH"] = folder
    config = CONFIG.format(model=MODEL, url=os.environ["OPENAI_BASE_URL"])
    (Path(folder) / "extra-openai-models.yaml").write_text(config, encoding="utf-8")
    print("first:", llm("-m", "hpc", "--no-stream", "Who wrote Emma?"))
    print("stream:", llm("-m", "hpc", "Who wrote Emma?"))
    print("tool:", llm("-m", "hpc", "--functions", ADD, "Add 1234 and 4321 with the tool."))
