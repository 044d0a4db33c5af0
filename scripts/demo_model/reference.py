"""Record what transformers answers greedily, in 32-bit floats."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .layout import need

if TYPE_CHECKING:
    from pathlib import Path

QUESTIONS = (
    "Hello",
    "Who wrote Emma?",
    "What is the capital of France?",
    "Count to ten.",
    "Tell me a story.",
    "Tell me about Emma.",
    "Continue: It was a fine morning.",
    "Write a paragraph.",
    "Señor — naïve 12345 'tis  two  spaces\n\tTab?",
)
LONGEST_ANSWER = 80
"""Tokens; short enough for every question to be answered in the model's context."""


def write_reference(folder: Path, file: Path) -> None:
    """Answer QUESTIONS with the model in *folder* and write prompts, tokens and texts to *file*."""
    torch, transformers = need("torch"), need("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = [answer(question, tokenizer, model.eval()) for question in QUESTIONS]
    file.write_text(json.dumps(answers), encoding="utf-8")


def answer(question: str, tokenizer: Any, model: Any) -> dict[str, Any]:
    """Answer one question: *ids* is the prompt as tokens, *gen* the answer's tokens."""
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=LONGEST_ANSWER, do_sample=False)[0].tolist()
    ids = prompt["input_ids"][0].tolist()
    made = output[len(ids) :]
    text = tokenizer.decode(made, skip_special_tokens=True)
    return {"messages": messages, "ids": ids, "gen": made, "text": text}
