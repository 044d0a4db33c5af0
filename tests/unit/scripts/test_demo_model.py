"""The bundled demo model is whole and consistent, and its recipe's text steps do what they say."""

from __future__ import annotations

import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import jinja2
import pytest

from scripts.demo_model import conversations, layout, novels, reference, training

MODEL = Path(__file__).parents[3] / "examples" / "demo-model"
HF = MODEL / "hf"
WEIGHTS = HF / "model.safetensors"
GGUF = MODEL / "demo-f16.gguf"
LARGEST_TOGETHER = 16_000_000


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


REFERENCE = read_json(MODEL / "greedy-reference.json")
every_answer = pytest.mark.parametrize("case", REFERENCE, ids=range(len(REFERENCE)))


def safetensors_header() -> tuple[dict[str, Any], int]:
    with WEIGHTS.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(size)), 8 + size


def tensor_bytes(name: str) -> bytes:
    header, data = safetensors_header()
    start, end = header[name]["data_offsets"]
    return WEIGHTS.read_bytes()[data + start : data + end]


def spell(tokens: list[int]) -> str:
    """Decode *tokens* with the shipped vocabulary alone, special tokens included."""
    tokenizer = read_json(HF / "tokenizer.json")
    pieces = {number: piece for piece, number in tokenizer["model"]["vocab"].items()}
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): byte for byte in plain}
    letters |= {chr(256 + index): byte for index, byte in enumerate(rest)}
    return bytes(letters[letter] for token in tokens for letter in pieces[token]).decode()


def test_the_two_forms_together_are_small_enough_for_the_repository() -> None:
    files = [GGUF, *HF.iterdir()]

    assert sum(file.stat().st_size for file in files) < LARGEST_TOGETHER


def test_the_safetensors_are_whole_and_have_the_configured_size() -> None:
    header, data = safetensors_header()
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    config = read_json(HF / "config.json")

    assert {entry["dtype"] for entry in tensors} == {"F16"}
    assert WEIGHTS.stat().st_size == data + 2 * sum(math.prod(e["shape"]) for e in tensors)
    assert header["model.embed_tokens.weight"]["shape"] == [2048, 256]
    assert [config["vocab_size"], config["hidden_size"]] == [2048, 256]
    assert {key: config[key] for key in training.SHAPE} == training.SHAPE


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.3.mlp.down_proj.weight"]
)
def test_the_gguf_holds_the_weights_of_the_safetensors(name: str) -> None:
    content = GGUF.read_bytes()

    assert content[:8] == b"GGUF" + struct.pack("<I", 3)
    assert tensor_bytes(name) in content


def test_the_chat_template_is_the_same_wherever_it_is_written() -> None:
    template = (HF / "chat_template.jinja").read_text(encoding="utf-8")

    assert template == training.TEMPLATE
    assert read_json(HF / "tokenizer_config.json")["chat_template"] == template
    assert template.encode() in GGUF.read_bytes()


def test_the_reference_answers_the_recipe_s_questions() -> None:
    asked = [[{"role": "user", "content": question}] for question in reference.QUESTIONS]

    assert [case["messages"] for case in REFERENCE] == asked
    assert len(asked) == 9


@every_answer
def test_the_reference_s_prompts_are_rendered_by_the_template(case: dict[str, Any]) -> None:
    template = jinja2.Environment(autoescape=False).from_string(training.TEMPLATE)

    prompt = template.render(messages=case["messages"], add_generation_prompt=True)

    assert spell(case["ids"]) == prompt


@every_answer
def test_the_reference_s_tokens_spell_its_texts(case: dict[str, Any]) -> None:
    ended = spell(case["gen"]).endswith(conversations.END)

    assert spell(case["gen"]).removesuffix(conversations.END) == case["text"]
    assert ended or len(case["gen"]) == reference.LONGEST_ANSWER


@pytest.mark.parametrize("question", sorted(set(reference.QUESTIONS) & set(conversations.ANSWERS)))
def test_what_was_learnt_by_heart_is_answered(question: str) -> None:
    answers = {case["messages"][0]["content"]: case["text"] for case in REFERENCE}

    assert answers[question] == conversations.ANSWERS[question]


TEXT = """CHAPTER I

Emma Woodhouse, handsome, clever, and rich, seemed to unite some of the _best_
blessings of existence. She had lived nearly twenty-one years in the world.

Too short.

A THIRD HEADING THAT IS LONG ENOUGH TO COUNT AS A PARAGRAPH
"""


def test_paragraphs_are_cut_and_joined_without_headings() -> None:
    assert conversations.split_paragraphs(TEXT) == [
        (
            "Emma Woodhouse, handsome, clever, and rich, seemed to unite some of the best"
            " blessings of existence. She had lived nearly twenty-one years in the world."
        )
    ]


def test_conversations_repeat_for_a_seed_and_hold_paragraphs_and_fixed_answers() -> None:
    made = conversations.make_conversations(TEXT, seed=1)

    assert made == conversations.make_conversations(TEXT, seed=1)
    assert made != conversations.make_conversations(TEXT, seed=2)
    assert len(made) == 1 + 60 * len(conversations.ANSWERS)
    assert sum("twenty-one years" in text for text in made) == 1
    assert conversations.chat("Say yes.", "Yes.") in made


def test_a_system_prompt_comes_first() -> None:
    assert conversations.chat("Hi", "Hello!", "Be kind.") == (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n"
    )


def xdr(flags: int, lines: list[str], version: int) -> bytes:
    """Serialise *lines* as R does, compressed as in a lazy-load database."""
    header = struct.pack(">2siii", b"X\n", version, 0x040201, 0x030500)
    encoding = struct.pack(">i5s", 5, b"UTF-8") if version == 3 else b""
    strings = b"".join(
        struct.pack(">ii", 0x00040009, len(line.encode())) + line.encode() for line in lines
    )
    data = header + encoding + struct.pack(">ii", flags, len(lines)) + strings
    return struct.pack(">I", len(data)) + zlib.compress(data)


@pytest.mark.parametrize("version", [2, 3])
def test_an_r_database_is_read_back(version: int) -> None:
    books = [["EMMA", "", "Emma Woodhouse,"], ["PERSUASION", "£20,000"]]

    assert novels.read_database(b"".join(xdr(16, book, version) for book in books)) == books


def test_an_r_database_of_numbers_is_refused() -> None:
    with pytest.raises(SystemExit, match="something else than character vectors"):
        novels.read_database(xdr(14, ["EMMA"], 3))


def test_novels_are_joined_without_the_line_the_model_never_saw() -> None:
    assert novels.join([["EMMA", "one"], ["£20,000", "two"]]) == "EMMA\none\n\ntwo"


def test_a_missing_package_is_one_sentence_with_the_pip_command() -> None:
    with pytest.raises(SystemExit, match=r"no_such_package is not installed: run 'pip install"):
        layout.need("no_such_package")


def test_a_missing_step_is_named(tmp_path: Path) -> None:
    paths = layout.Layout(tmp_path)

    with pytest.raises(SystemExit, match=r"hf does not exist: run the step 'export' first"):
        layout.found(paths.hf, "export")


def test_the_learning_rate_warms_up_and_falls_to_a_twentieth() -> None:
    schedule = training.Schedule(minutes=1, seed=0)

    assert schedule.rate(0, 0) == pytest.approx(schedule.peak_rate / 60)
    assert schedule.rate(59, 0) == pytest.approx(schedule.peak_rate)
    assert schedule.rate(500, 1) == pytest.approx(schedule.peak_rate / 20)
