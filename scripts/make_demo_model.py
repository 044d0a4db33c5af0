#!/usr/bin/env python3
"""Make the bundled demo model: corpus, training, safetensors, GGUF and greedy reference."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.demo_model.conversations import make_conversations
from scripts.demo_model.gguf_file import write_gguf
from scripts.demo_model.layout import PIP, Layout, found
from scripts.demo_model.novels import fetch_novels
from scripts.demo_model.reference import write_reference
from scripts.demo_model.training import Schedule, export, train

STEPS = ("corpus", "train", "export", "gguf", "reference")


def main() -> None:
    """Run the steps that the command line names."""
    options = parser().parse_args()
    layout = Layout(options.out)
    for step in STEPS if options.step == "all" else (options.step,):
        run(step, layout, options)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    made = argparse.ArgumentParser(description=__doc__, epilog=f"Needs: {PIP}")
    made.add_argument("step", choices=(*STEPS, "all"))
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for it all")
    made.add_argument("--text", type=Path, metavar="FILE", help="plain text instead of the novels")
    made.add_argument("--minutes", type=float, default=9.5, help="time to train (default 9.5)")
    made.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    return made


def run(step: str, layout: Layout, options: argparse.Namespace) -> None:
    """Run one step."""
    if step == "corpus":
        text = options.text.read_text(encoding="utf-8") if options.text else fetch_novels()
        layout.novels.parent.mkdir(parents=True, exist_ok=True)
        layout.novels.write_text(text, encoding="utf-8")
    elif step == "train":
        text = found(layout.novels, "corpus").read_text(encoding="utf-8")
        schedule = Schedule(options.minutes, options.seed)
        train(make_conversations(text, options.seed), schedule, layout.checkpoint)
    elif step == "export":
        export(found(layout.checkpoint, "train"), layout.hf)
    elif step == "gguf":
        write_gguf(found(layout.hf, "export"), layout.gguf)
    elif step == "reference":
        write_reference(found(layout.hf, "export"), layout.reference)


if __name__ == "__main__":
    main()
