"""The command lm-eval, on PATH, with a task of one question of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = sys.argv[1]
TASK = """\
task: emma
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/emma.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: exact_match}}]
"""

with tempfile.TemporaryDirectory() as folder:
    os.environ.update(HF_HOME=folder, HF_HUB_OFFLINE="1")
    row = {"question": "Who wrote Emma?", "answer": "Emma was written by Jane Austen."}
    (Path(folder) / "emma.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (Path(folder) / "emma.yaml").write_text(TASK.format(folder=folder), encoding="utf-8")
    url = os.environ["OPENAI_BASE_URL"]
    server = f"base_url={url}/chat/completions,model={MODEL},num_concurrent=1"
    argv = ["lm_eval", "--model", "local-chat-completions", "--model_args", server]
    argv += ["--tasks", "emma", "--include_path", folder, "--apply_chat_template"]
    argv += ["--output_path", folder, "--log_samples"]
    subprocess.run(argv, check=True, stdout=sys.stderr)
    samples = next(Path(folder).rglob("samples_emma*.jsonl")).read_text(encoding="utf-8")
    print("first:", json.loads(samples.splitlines()[0])["resps"][0][0])
