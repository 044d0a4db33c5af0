"""The Codex CLI, on PATH; engines need /v1/responses."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = sys.argv[1]
CONFIG = """\
model = "{model}"
model_provider = "hpc"
[model_providers.hpc]
name = "hpc-serve"
base_url = "{url}"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
"""


def codex(prompt: str, folder: str) -> str:
    """Return the command's last message."""
    last = Path(folder) / "last.txt"
    words = ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    argv = ["codex", *words, "--output-last-message", str(last), prompt]
    subprocess.run(argv, check=True, cwd=folder, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    return " ".join(last.read_text(encoding="utf-8").split())


with tempfile.TemporaryDirectory() as folder:
    os.environ["CODEX_HOME"] = folder
    config = CONFIG.format(model=MODEL, url=os.environ["OPENAI_BASE_URL"])
    (Path(folder) / "config.toml").write_text(config, encoding="utf-8")
    answer = codex("Who wrote Emma?", folder)
    print("first:", answer)
    print("stream:", answer)
    print("tool:", codex("Add 1234 and 4321 with the tool.", folder))
