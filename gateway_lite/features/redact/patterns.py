"""The patterns of redaction, with their checksums and the patterns of their beginnings.

RE2 searches in time linear in the text, whatever the operator's pattern and the client's text.
"""

from __future__ import annotations

import functools
import importlib
import ipaddress
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import re2
from stdnum import iban, luhn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MOST_WIDTH = 512
"""Characters of the longest match, and so of the text that a stream may hold back."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
CLASSES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}
BOUNDARIES = {"AT_BOUNDARY": r"\b", "AT_NON_BOUNDARY": r"\B"}


def _parser() -> Any:
    """Return the standard library's parser of regular expressions, which has no public name."""
    new = sys.version_info >= (3, 11)
    return importlib.import_module("re._parser" if new else "sre_parse")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of text to be hidden.

    Args:
        label: text in place of a match.
        pattern: pattern of a match, in the common syntax of re and RE2.
        check: returns how many characters of a match are truly of this kind; None means all.
    """

    label: str
    pattern: str
    check: Callable[[str], int] | None = None


def _card(text: str) -> int:
    """Return the length of a card number by Luhn's checksum, 0 for another number."""
    return len(text) if luhn.is_valid(re.sub("[ -]", "", text)) else 0


def _iban(text: str) -> int:
    """Return the length of the IBAN at the start of the text (ISO 13616, mod 97), or 0."""
    length = _iban_length(text[:2])
    if not length:
        return 0
    end = seen = 0
    # One candidate only: the characters that an IBAN of the country has, blanks left out.
    while end < len(text) and seen < length:
        seen += text[end] != " "
        end += 1
    if seen < length or text[end : end + 1].isalnum():
        return 0
    return end if iban.is_valid(text[:end]) else 0


@functools.cache
def _iban_length(country: str) -> int:
    """Return the characters of a country's IBAN, 0 for a country without IBANs."""
    _, info = iban._ibandb.info(country)[0]  # noqa: SLF001 - the only table of these lengths
    parts = re.findall(r"([1-9][0-9]*)!", info.get("bban", ""))
    return 4 + sum(map(int, parts)) if parts else 0


def _phone(text: str) -> int:
    """Return the length of a phone number of 8 to 15 digits (E.164), 0 for other lengths."""
    digits = sum(map(str.isdigit, text)) - (2 if text.startswith("00") else 0)
    return len(text) if 8 <= digits <= 15 else 0


def _address(text: str) -> int:
    """Return the length of an IP address, 0 for other text."""
    text = text if text.endswith("::") else text.rstrip(":")
    # Before the parser, which takes 20 us to refuse: an address without "::" has 7 colons or none.
    colons = text.count(":")
    if colons > 8 or (colons not in (0, 7) and "::" not in text) or ":::" in text:
        return 0
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return 0
    return len(text)


BUILTIN = {
    "email": Kind(
        "[EMAIL]", r"\b\w[\w.%+'-]{0,63}@(?:[A-Za-z0-9][A-Za-z0-9-]{0,62}\.){1,5}[A-Za-z]{2,24}"
    ),
    "iban": Kind("[IBAN]", r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b", _iban),
    "card": Kind(
        "[CARD]",
        r"\b(?:(?:4\d{3}|5[1-5]\d{2}|2[2-7]\d{2}|6\d{3}|35\d{2})[ -]?\d{4}[ -]?\d{4}[ -]?\d{4}"
        r"(?:\d{3})?|3[47]\d{2}[ -]?\d{6}[ -]?\d{5}|3[068]\d{2}[ -]?\d{6}[ -]?\d{4}|4\d{12})\b",
        _card,
    ),
    "phone": Kind(
        "[PHONE]", r"(?:\b00|\B\+)[1-9]\d{0,2}(?:[ .-]?\(?\d{1,5}\)?){1,5}\d{0,10}\b", _phone
    ),
    "ip": Kind(
        "[IP]",
        r"\b(?:\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b|[0-9A-Fa-f]{3,4}:[0-9A-Fa-f:]{2,34})",
        _address,
    ),
    "key": Kind(
        "[KEY]",
        r"\b(?:(?:hs|sk|pk|rk)[-_][\w-]{16,220}|gh[opsur]_[A-Za-z0-9]{30,255}|"
        r"github_pat_\w{22,244}|glpat-[\w-]{20,64}|hf_[A-Za-z0-9]{30,64}|"
        r"(?:AKIA|ASIA)[A-Z0-9]{16}|xox[abeprs]-[A-Za-z0-9-]{10,200})",
    ),
}
"""Kinds that a configuration may name."""


def chosen(names: Sequence[str], patterns: Mapping[str, str]) -> list[Kind]:
    """Return the kinds named by a configuration.

    Args:
        names: names out of BUILTIN.
        patterns: further patterns by name; a match is replaced by the name in upper case.

    Raises:
        ValueError: a name is unknown or malformed, or a pattern cannot be searched in a stream.
    """
    for name in names:
        if name not in BUILTIN:
            raise ValueError(f"unknown kind {name!r}: known are {', '.join(BUILTIN)}")
    kinds = [BUILTIN[name] for name in dict.fromkeys(names)]
    for name, pattern in patterns.items():
        if not NAME.fullmatch(name):
            raise ValueError(f"the name {name!r} needs a letter, then letters, digits, '-' or '_'")
        try:
            beginning(pattern)
            compiled(pattern)
        except (ValueError, re.error, re2.error) as error:
            said = error.args[0] if error.args else error
            said = said.decode(errors="replace") if isinstance(said, bytes) else said
            raise ValueError(f"the pattern {name!r} cannot be used: {said}") from None
        kinds.append(Kind(f"[{name.upper()}]", pattern))
    return kinds


def compiled(pattern: str) -> Any:
    """Return a pattern compiled by RE2, for texts in UTF-8."""
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    return re2.compile(pattern, options)


def beginning(pattern: str) -> str:
    """Return the pattern of all texts that may grow into a match, complete matches included.

    Raises:
        ValueError: matches of the pattern are unbounded, or depend on their surroundings.
        re.error: the text is not a valid pattern.
    """
    parser = _parser()
    tree = parser.parse(pattern)
    least, most = map(int, tree.getwidth())
    if least < 1:
        raise ValueError("it matches the empty text")
    if most > MOST_WIDTH:
        raise ValueError(
            f"it may match more than {MOST_WIDTH} characters; bound it, as in {{1,64}}"
        )
    # Unicode is on for every pattern; of all other flags, only (?i) reaches the derived pattern.
    flags = tree.state.flags & ~int(re.UNICODE)
    if flags & ~int(re.IGNORECASE):
        raise ValueError("the only allowed flag is (?i)")
    _joined(tree, first=True)
    return ("(?i)" if flags else "") + _begun(list(tree), first=True)


def _begun(nodes: list[Any], *, first: bool) -> str:
    """Return the pattern of the beginnings of a sequence, each with one character at least."""
    made = ""
    for node in reversed(nodes[1:]):
        if str(node[0]) != "AT":
            own = _begun_one(node, first=False)
            made = f"(?:{own}|{_text(node)}{made})" if made else own
    head = nodes[0]
    if str(head[0]) == "AT":
        return _text(head) * first + made
    own = _begun_one(head, first=first)
    return f"(?:{own}|{_text(head, first=first)}{made})" if made else own


def _begun_one(node: Any, *, first: bool) -> str:
    """Return the pattern of the beginnings of one part."""
    kind, value = str(node[0]), node[1]
    if kind == "BRANCH":
        return "(?:" + "|".join(_begun(list(way), first=first) for way in value[1]) + ")"
    if kind == "SUBPATTERN":
        return _begun(list(value[3]), first=first)
    if kind in {"MAX_REPEAT", "MIN_REPEAT"}:
        inner = list(value[2])
        before = "".join(map(_text, inner))
        most = int(value[1]) - 1
        return (f"(?:{before}){{0,{most}}}" if most else "") + _begun(inner, first=False)
    return _text(node)


def _text(node: Any, *, first: bool = False) -> str:
    """Return a parsed part as a pattern; boundaries are kept at the very start only."""
    kind, value = str(node[0]), node[1]
    if kind == "AT":
        return _boundary(value) * first
    if kind == "BRANCH":
        return "(?:" + "|".join(_joined(way, first=first) for way in value[1]) + ")"
    if kind == "SUBPATTERN":
        if value[1] or value[2]:
            raise ValueError("flags are allowed at the start only")
        return f"(?:{_joined(value[3], first=first)})"
    if kind in {"MAX_REPEAT", "MIN_REPEAT"}:
        return f"(?:{_joined(value[2], first=False)}){{{int(value[0])},{int(value[1])}}}"
    return _characters(kind, value)


def _joined(nodes: Any, *, first: bool) -> str:
    """Return several parts as one pattern."""
    return "".join(_text(node, first=first and not i) for i, node in enumerate(nodes))


def _boundary(where: Any) -> str:
    """Return the pattern of a position between characters."""
    try:
        return BOUNDARIES[str(where)]
    except KeyError:
        raise ValueError(r"the only allowed anchors are \b and \B") from None


def _characters(kind: str, value: Any) -> str:
    """Return the pattern of one character."""
    if kind == "ANY":
        return "."
    if kind == "LITERAL":
        return _code(value)
    if kind == "NOT_LITERAL":
        return f"[^{_code(value)}]"
    if kind != "IN":
        raise ValueError(f"{kind.lower()} is not supported")
    return "[" + "".join(_item(str(name), item) for name, item in value) + "]"


def _item(name: str, item: Any) -> str:
    """Return a part of a character set."""
    if name == "NEGATE":
        return "^"
    if name == "LITERAL":
        return _code(item)
    if name == "RANGE":
        return f"{_code(item[0])}-{_code(item[1])}"
    return CLASSES[str(item)]


def _code(point: int) -> str:
    """Return a character as an escape with no second meaning."""
    return f"\\x{{{point:x}}}"
