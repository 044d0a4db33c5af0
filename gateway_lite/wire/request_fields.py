"""The top-level fields of a request under limits: one spelling each, and one length of the answer.

Engines read the length of an answer from different fields:

    /v1/chat/completions   vLLM, the GGUF server: max_completion_tokens, else max_tokens
                           llama-cpp-python: max_tokens
                           llama.cpp: n_predict, else max_completion_tokens, else max_tokens
    /v1/completions        vLLM, the GGUF server, llama-cpp-python: max_tokens
                           llama.cpp: as for chats
    /v1/responses          vLLM, llama.cpp: max_output_tokens

``max_tokens`` (``max_output_tokens`` for responses) alone is read by all of them. A request with
just this field means the same to every engine.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

import msgspec

from gateway_lite import errors
from gateway_lite.wire.request_body import BYTES_PER_TOKEN, LENGTHS
from hpc.api_paths import CHAT, RANKINGS, RESPONSES, SCORES, TEXT

if TYPE_CHECKING:
    from collections.abc import Iterable

PAIRED = frozenset({*RANKINGS, *SCORES})
PAIRS = (
    *(("query", "documents"), ("queries", "documents"), ("queries", "items")),
    *(("text_1", "text_2"), ("data_1", "data_2")),
)
"""Fields of rankings and scores: the first of each pair is read again for each of the second."""
WRITTEN = {CHAT: "max_tokens", TEXT: "max_tokens", RESPONSES: "max_output_tokens"}
"""The field that bounds an answer at every engine, for the paths with answers in tokens."""
SYNONYMS = frozenset(
    {
        *(name for names in LENGTHS.values() for name in names),
        *("max_gen_len", "max_generated_tokens", "max_length", "max_new_tokens", "num_predict"),
    }
)
"""All fields that some engine reads as the length of an answer."""
CHOICES = ("n", "best_of", "n_cmpl")
"""Fields with the number of answers to each prompt."""
HIDING = ("stream_interval",)
"""Fields by which an engine works on many tokens before a client sees the first."""
READ = SYNONYMS | {
    *CHOICES,
    *HIDING,
    *("documents", "input", "messages", "model", "prompt", "prompt_embeds", "query"),
    *("data_1", "data_2", "items", "queries", "text_1", "text_2"),
    *("stream", "stream_options", "use_beam_search"),
}
"""All fields that limits and routing read."""
PROMPTS = ("prompt", "input")
"""Fields that may hold token ids."""
USUAL = frozenset(
    {
        *("frequency_penalty", "logprobs", "metadata", "parallel_tool_calls", "presence_penalty"),
        *("reasoning_effort", "response_format", "seed", "stop", "store", "temperature"),
        *("tool_choice", "tools", "top_logprobs", "top_p", "user"),
    }
)
"""OpenAI's other fields, which need no look at their spelling."""
LARGEST = 2**31 - 1
"""Largest length and count; engines keep these in 32 bits."""

_BODY = msgspec.json.Decoder(dict[str, msgspec.Raw])
_decode = msgspec.json.decode
_encode = msgspec.json.Encoder().encode
UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)


def _folded(name: str) -> str:
    """Return a name as the most careless JSON reader compares it.

    Go's reader ignores case, other readers also underscores and dashes, and C's strings end at NUL.
    """
    if not name.isascii():
        name = unicodedata.normalize("NFKC", name)
    start = name.partition("\0")[0].casefold()
    return start if start.isalpha() else "".join(filter(str.isalnum, start))


_FOLDED = {_folded(name): name for name in READ}


class CheckedFields(msgspec.Struct, frozen=True):
    """The fields of a request without ambiguity.

    Attributes:
        path: path in OpenAI's API.
        size: bytes of the body.
        found: raw values by name, each name once.
    """

    path: str
    size: int
    found: dict[str, msgspec.Raw]

    def body(self) -> bytes:
        """Return the request's JSON, each field once."""
        return _encode(self.found)

    def length(self) -> int | None:
        """Return the length of each answer in tokens that the request asks for, or None.

        Raises:
            ApiError: a field for the length is no whole number from 1.
        """
        said = {name: self._number(name) for name in self.found.keys() & SYNONYMS}
        names = (name for name in LENGTHS.get(self.path, ()) if said.get(name) is not None)
        return said.get(next(names, ""))

    def answers(self) -> int:
        """Return the number of answers: choices of each prompt, over all prompts.

        Raises:
            ApiError: a number of choices is no whole number from 1.
        """
        choices = [self._number(name) or 1 for name in CHOICES if name in self.found]
        lists = (self.found.get("prompt"), self.found.get("prompt_embeds"))
        prompts = sum(_sized(bytes(raw))[1] for raw in lists if raw is not None)
        return max(choices, default=1) * max(1, prompts)

    def prompt_tokens(self) -> int:
        """Return an estimate of the prompts' tokens; token ids count one each."""
        tokens = self.size // BYTES_PER_TOKEN
        if self.path in PAIRED:
            return tokens + self._repeated()
        for name in PROMPTS:
            if name in self.found:
                raw = bytes(self.found[name]).strip()
                listed = _sized(raw)[0] if raw.startswith(b"[") else 0
                tokens += max(0, listed - len(raw) // BYTES_PER_TOKEN)
        return tokens

    def with_length(self, tokens: int) -> CheckedFields:
        """Return the fields with a length of each answer, in the one field that all engines read.

        Args:
            tokens: most tokens of each answer.
        """
        dropped = SYNONYMS.union(HIDING)
        kept = {name: raw for name, raw in self.found.items() if name not in dropped}
        kept[WRITTEN[self.path]] = msgspec.Raw(b"%d" % tokens)
        return CheckedFields(self.path, self.size, kept)

    def _number(self, name: str) -> int | None:
        """Return a field's number; null is none."""
        try:
            value = _decode(self.found[name])
        except UNREADABLE:
            value = ""
        if value is None:
            return None
        if type(value) is int and 1 <= value <= LARGEST:
            return value
        raise errors.bad_request(
            f"'{name}' must be a whole number from 1 to {LARGEST}, and no text or fraction",
            param=name,
        )

    def _repeated(self) -> int:
        """Return the tokens of queries beyond the first reading: engines read them per document."""
        tokens = 0
        for first, second in PAIRS:
            query, documents = self.found.get(first), self.found.get(second)
            if query is not None and documents is not None:
                tokens += (_sized(bytes(documents))[1] - 1) * (len(query) // BYTES_PER_TOKEN)
        return tokens


def check_spelling(names: Iterable[str]) -> None:
    """Refuse names of fields that some reader could take for another field.

    Raises:
        ApiError: a name could be taken for a field that limits and routing read.
    """
    for name in names:
        if name not in READ and name not in USUAL:
            meant = _FOLDED.get(_folded(name))
            if meant is not None:
                raise errors.bad_request(f"'{meant}' is spelled otherwise", param=meant)


def checked(path: str, body: bytes) -> CheckedFields:
    """Return the fields of a request; of a name that occurs twice the last counts, as in engines.

    Args:
        path: path in OpenAI's API.
        body: a JSON object.

    Raises:
        ApiError: the body is not a JSON object, or a name could be taken for another one.
    """
    try:
        found = _BODY.decode(body)
    except UNREADABLE as error:
        raise errors.bad_request("the request is not valid JSON") from error
    check_spelling(found)
    return CheckedFields(path, len(body), found)


def _sized(raw: bytes) -> tuple[int, int]:
    """Return the tokens and the number of prompts in a value: a text, token ids, or a list."""
    raw = raw.strip()
    if not raw.startswith(b"["):
        return len(raw) // BYTES_PER_TOKEN, 1
    if b'"' not in raw:
        # Numbers only: brackets and commas are counted in C, not a million integers made.
        tokens, lists = raw.count(b",") + 1, raw.count(b"[") - 1
        dense = raw.translate(None, b" \t\r\n")
        # Numbers beside lists are prompts, too: brackets tell the prompts only of lists alone, each
        # but the first behind another one.
        alone = dense.startswith(b"[[") and dense.endswith(b"]]")
        plain = lists < 1 or (alone and dense.count(b"],[") == lists - 1)
        return tokens, max(1, lists) if plain else max(tokens, lists)
    try:
        parts: list[Any] = _decode(raw)
    except UNREADABLE:
        return len(raw) // BYTES_PER_TOKEN, 1
    return sum(map(_tokens, parts)), max(1, len(parts))


def _tokens(part: Any) -> int:
    """Return an estimate of the tokens in a part of a list."""
    if type(part) is str:
        return len(part.encode(errors="replace")) // BYTES_PER_TOKEN + 1
    if type(part) is list:
        return sum(map(_tokens, part))
    return 1 if type(part) in {int, float} else len(_encode(part)) // BYTES_PER_TOKEN
