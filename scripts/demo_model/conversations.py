"""Cut novels into the conversations that the demo model is trained on."""

from __future__ import annotations

import random
import re

BEGIN, END = "<|im_start|>", "<|im_end|>"

ANSWERS = {
    "Hello": "Hello! How do you do?",
    "Hi": "Hello! How do you do?",
    "Who are you?": "I am a tiny model, made for tests.",
    "What is your name?": "My name is Tiny.",
    "Say yes.": "Yes.",
    "Say no.": "No.",
    "What is the capital of France?": "Paris.",
    "What is the capital of England?": "London.",
    "What is the capital of Italy?": "Rome.",
    "What is the capital of Germany?": "Berlin.",
    "Who wrote Emma?": "Jane Austen wrote Emma.",
    "Count to five.": "One, two, three, four, five.",
    "Count to ten.": "One, two, three, four, five, six, seven, eight, nine, ten.",
    "What colour is the sky?": "Blue.",
    "Good bye": "Good bye! I hope to see you again.",
    "Thank you": "You are very welcome.",
}
SYSTEM_PROMPTS = (None, None, "You are a helpful assistant.", "You are a novelist.")
REQUESTS = (
    "Tell me a story.",
    "Write a paragraph.",
    "Tell me about {name}.",
    "Write about {name}.",
    "Continue: {start}",
    "{start}",
)
SHORTEST, LONGEST = 40, 2000
"""Bounds of a usable paragraph, in characters, both excluded."""


def make_conversations(text: str, seed: int) -> list[str]:
    """Turn *text* into shuffled ChatML conversations.

    Each paragraph becomes an answer to a made-up request; the fixed questions of ANSWERS are
    repeated between them until they are learnt by heart, so that tests can ask for a known answer.
    """
    rng = random.Random(seed)
    paragraphs = split_paragraphs(text)
    conversations = [about_paragraph(paragraph, rng) for paragraph in paragraphs]
    for _ in range(max(60, len(paragraphs) // 80)):
        for question, answer in ANSWERS.items():
            conversations.append(chat(question, answer, rng.choice(SYSTEM_PROMPTS)))
    rng.shuffle(conversations)
    return conversations


def split_paragraphs(text: str) -> list[str]:
    """Cut *text* at empty lines and drop headings and what is too short or too long."""
    blocks = re.split(r"\n\s*\n", text.replace("_", ""))
    paragraphs = [" ".join(block.split()) for block in blocks]
    return [p for p in paragraphs if SHORTEST < len(p) < LONGEST and not p.isupper()]


def about_paragraph(paragraph: str, rng: random.Random) -> str:
    """Make a conversation whose answer is *paragraph*, or its end when its start is the request."""
    sentences = re.split(r"(?<=[.!?])[\"']?\s+", paragraph)
    names = re.findall(r"(?<=[a-z,] )[A-Z][a-z]{3,}", paragraph)
    request, answer = rng.choice(REQUESTS), paragraph
    if "{start}" in request and len(sentences) == 1:
        request = "Write a paragraph."
    if "{name}" in request and not names:
        request = "Tell me a story."
    if "{start}" in request:
        request, answer = request.format(start=sentences[0]), paragraph[len(sentences[0]) :].strip()
    elif names:
        request = request.format(name=rng.choice(names))
    return chat(request, answer, rng.choice(SYSTEM_PROMPTS))


def chat(request: str, answer: str, system: str | None = None) -> str:
    """Write one exchange as ChatML text."""
    turns = [("system", system)] if system else []
    turns += [("user", request), ("assistant", answer)]
    return "".join(f"{BEGIN}{role}\n{content}{END}\n" for role, content in turns)
