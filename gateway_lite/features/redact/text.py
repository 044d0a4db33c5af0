"""Redaction of personal or secret text: whole texts, and texts that arrive in pieces."""

from __future__ import annotations

import copy
import json
import math
import re
import time
from typing import TYPE_CHECKING, Any

import msgspec

from gateway_lite import errors
from gateway_lite.features.redact.patterns import Kind, beginning, compiled

if TYPE_CHECKING:
    from collections.abc import Sequence

ASKED = (
    "messages",
    "prompt",
    "suffix",
    "input",
    "instructions",
    "prediction",
    "query",
    "documents",
    *("text_1", "text_2", "queries", "items", "data_1", "data_2"),
    "content",
    "user",
)
"""Fields of requests that carry users' text."""
STRUCTURE = frozenset(
    {
        *("id", "type", "role", "name", "model", "object", "tool_call_id", "call_id", "item_id"),
        *("finish_reason", "status", "service_tier", "system_fingerprint", "format", "detail"),
        *("embedding", "encrypted_content"),
    }
)
"""Fields within messages and answers that carry no users' text."""
INLINE = ("url", "image_url", "data", "file_data", "b64_json")
"""Fields that may hold base64 files, which are not searched."""
ARGUMENTS = "arguments"
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
HEX = "[0-9a-fA-F]"
HIGH = rf"\\u[dD][89abAB]{HEX}{{2}}"
"""The first half of a surrogate pair, for a character beyond 16 bits."""
INSIDE = re.compile(
    rf'(?:[^"\\]+|{HIGH}\\u{HEX}{{4}}|{HIGH}(?!\\u|\\?\Z)|\\u(?![dD][89abAB]){HEX}{{4}}|\\[^u])*'
)
HALF_ESCAPE = re.compile(rf"(?:{HIGH})?(?:\\(?:u{HEX}{{0,3}})?)?")
DELIMITERS = " \t\r\n,:[]{}"
BARE = re.compile(r"[^ \t\r\n,:\[\]{}]+")
MOST_BARE = 64
"""Longest run of characters outside strings that is held back, as for a number."""


class Finder:
    """The search for text to be hidden.

    Args:
        kinds: kinds of text, from ``patterns.chosen``; of two matches at one place, the earlier
            kind counts.
    """

    def __init__(self, kinds: Sequence[Kind]) -> None:
        anyone = "|".join(f"(?:{kind.pattern})" for kind in kinds)
        begun = "|".join(f"(?:{beginning(kind.pattern)})" for kind in kinds)
        self._any = compiled(anyone).search
        self._begun = compiled(f"(?:{begun})\\z").search
        self._kinds = [
            (compiled(kind.pattern).match, kind.check, kind.label.encode()) for kind in kinds
        ]
        self._deadline = math.inf

    def within(self, seconds: float) -> Finder:
        """Return a search that raises TimeoutError after so many seconds from now."""
        made = copy.copy(self)
        made.renew(seconds)
        return made

    def renew(self, seconds: float) -> None:
        """Let the search of ``within`` go on for so many seconds from now."""
        self._deadline = time.thread_time() + seconds

    def find(self, text: bytes, start: int) -> tuple[int, int, bytes] | None:
        """Return the first match: start, end, and replacement."""
        while (seen := self._any(text, start)) is not None:
            # RE2 is linear; the candidates that a checksum refuses are what takes time.
            if time.thread_time() > self._deadline:
                raise TimeoutError
            at = seen.start()
            for match, check, label in self._kinds:
                found = match(text, at)
                if found is None:
                    continue
                size = found.end() - at if check is None else check(found.group().decode())
                if size:
                    return at, at + size, label
            # The checksum refused all kinds here; a match may still begin one byte later.
            start = at + 1
        return None

    def open(self, text: bytes, start: int) -> int:
        """Return the start of text that may grow into a match; the text's end if none may."""
        begun = self._begun(text, start)
        return len(text) if begun is None else int(begun.start())

    def whole(self, text: str) -> str:
        """Return a whole text after redaction."""
        if time.thread_time() > self._deadline:
            raise TimeoutError
        raw = text.encode(errors="replace")
        # Most texts have no match: one search, and no copy.
        if self._any(raw) is None:
            return text
        made, pos = hidden(self, raw, 0, len(raw) + 1)
        return (made + raw[pos:]).decode()


def hidden(finder: Finder, raw: bytes, pos: int, edge: int) -> tuple[bytes, int]:
    """Return the redacted text up to the last match before the edge, and the end of that match."""
    out = []
    while (found := finder.find(raw, pos)) is not None and found[0] < edge:
        out += [raw[pos : found[0]], found[2]]
        pos = found[1]
        edge = edge if edge >= len(raw) or pos <= edge else finder.open(raw, pos)
    return b"".join(out), pos


class StreamingText:
    """The redaction of a text in pieces; holds back only text that a further piece could change.

    Args:
        finder: the search.
    """

    __slots__ = ("_finder", "_from", "_raw")

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._raw = b""
        self._from = 0

    def feed(self, text: str) -> str:
        """Add a piece, and return the text that is final now."""
        raw = self._raw + text.encode(errors="replace")
        edge = self._finder.open(raw, self._from)
        made, pos = hidden(self._finder, raw, self._from, edge)
        if pos > edge:
            edge = self._finder.open(raw, pos)
        made += raw[pos:edge]
        # One byte before the edge stays, as ``\b`` at the next search looks at it.
        kept = max(edge - 1, 0)
        self._raw = raw[kept:]
        self._from = edge - kept
        return made.decode(errors="replace")

    def finish(self) -> str:
        """Return the rest."""
        raw = self._raw
        made, pos = hidden(self._finder, raw, self._from, len(raw) + 1)
        self._raw, self._from = b"", 0
        return (made + raw[pos:]).decode(errors="replace")


class Arguments:
    """The redaction of JSON in pieces, such as a tool's arguments; the result is JSON again.

    Strings are redacted as separate texts; a hidden number becomes a string.

    Args:
        finder: the search.
    """

    __slots__ = ("_finder", "_flow", "_held")

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._flow: StreamingText | None = None
        self._held = ""

    def feed(self, text: str) -> str:
        """Add a piece, and return the text that is final now."""
        text = self._held + text
        self._held = ""
        out = []
        while text:
            step = self._outside if self._flow is None else self._inside
            made, text = step(text)
            out.append(made)
        return "".join(out)

    def finish(self) -> str:
        """Return the rest."""
        held, self._held = self._held, ""
        if self._flow is None:
            return self._bare(held)
        flow, self._flow = self._flow, None
        return _escaped(flow.feed(held) + flow.finish())

    def _outside(self, text: str) -> tuple[str, str]:
        """Return the redacted text before the next string, and the text left to process."""
        before, quote, rest = text.partition('"')
        if quote:
            self._flow = StreamingText(self._finder)
        else:
            cut = max(map(before.rfind, DELIMITERS)) + 1
            if len(before) - cut <= MOST_BARE:
                before, self._held = before[:cut], before[cut:]
        return BARE.sub(lambda run: self._bare(run.group()), before) + quote, rest

    def _inside(self, text: str) -> tuple[str, str]:
        """Return the redacted text of the open string, and the text left to process."""
        end = _end(text)
        part, rest = text[:end], text[end:]
        flow = self._flow or StreamingText(self._finder)
        said = _unescaped(part)
        made = flow.feed(said)
        if rest.startswith('"'):
            self._flow = None
            made += flow.finish()
            return (part if made == said else _escaped(made)) + '"', rest[1:]
        self._held = rest
        return part if made == said else _escaped(made), ""

    def _bare(self, run: str) -> str:
        """Return a number or word outside strings, as a string if hidden."""
        made = self._finder.whole(run)
        return run if made == run else json.dumps(made)


def _end(text: str) -> int:
    """Return the end of a JSON string in the text, or the position up to which it is complete."""
    end = 0
    while True:
        seen = INSIDE.match(text, end)
        end = seen.end() if seen else end
        if end == len(text) or text[end] == '"' or HALF_ESCAPE.fullmatch(text, end):
            return end
        end += 2


def _unescaped(part: str) -> str:
    """Return the text of a part of a JSON string; invalid JSON is returned as is."""
    try:
        return str(json.loads(f'"{part}"', strict=False))
    except ValueError:
        return part


def _escaped(text: str) -> str:
    """Return a text as part of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def rewritten(finder: Finder, text: str) -> str:
    """Return whole tool arguments after redaction."""
    arguments = Arguments(finder)
    return arguments.feed(text) + arguments.finish()


def hide(value: Any, finder: Finder, name: str = "") -> Any:
    """Return a JSON value after redaction; the same object if nothing is hidden.

    Args:
        value: a value decoded by msgspec or json.
        finder: the search.
        name: field name of the value.
    """
    if type(value) is str:
        if name in STRUCTURE or (name in INLINE and value[:5] == "data:"):
            return value
        return rewritten(finder, value) if name == ARGUMENTS else finder.whole(value)
    if type(value) is dict:
        made = {key: hide(item, finder, key) for key, item in value.items()}
        return value if all(made[key] is value[key] for key in value) else made
    if type(value) is list:
        items = [hide(item, finder, name) for item in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    return value


def request(body: bytes, finder: Finder) -> bytes:
    """Return a request after redaction; the same bytes if nothing is hidden.

    Args:
        body: a request of OpenAI's API in JSON.
        finder: the search.

    Raises:
        ApiError: the request cannot be parsed, and so must not be passed on.
    """
    try:
        asked = msgspec.json.decode(body)
        if type(asked) is not dict:
            raise errors.bad_request("the request is no JSON object")
        made = {name: hide(asked[name], finder, name) for name in ASKED if name in asked}
        if all(made[name] is asked[name] for name in made):
            return body
        return msgspec.json.encode({**asked, **made})
    except UNREADABLE:
        raise errors.bad_request("the request is not valid JSON, as redaction needs") from None
