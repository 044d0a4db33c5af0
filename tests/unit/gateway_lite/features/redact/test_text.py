"""What is hidden in texts and requests, whole and in pieces."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_lite.errors import ApiError
from gateway_lite.features.redact.patterns import BUILTIN, MOST_WIDTH, chosen
from gateway_lite.features.redact.text import Arguments, Finder, StreamingText, request, rewritten

FINDER = Finder(chosen(list(BUILTIN), {"staff": r"(?i)\bstaff-\d{4,8}", "two": r"x.{0,3}y|z\s?z"}))
SECRETS = {
    "[EMAIL]": ["ann.o'hara+x@mail.example.org", "a@b.co"],
    "[IBAN]": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"],
    "[CARD]": ["4111 1111 1111 1111", "4111111111111111", "378282246310005", "5500-0000-0000-0004"],
    "[PHONE]": ["+49 30 901820", "+1 (555) 123-4567", "0041 44 668 1800", "+4930901820"],
    "[IP]": ["192.168.10.7", "2001:db8::8a2e:370:7334", "fe80::1"],
    "[KEY]": [
        "hs-aB3_dE6gH9jK2mN5pQ8s",
        "sk-proj-abcdefghij0123456789",
        "ghp_0123456789abcdefghij0123456789abcdef",
        "AKIAIOSFODNN7EXAMPLE",
    ],
    "[STAFF]": ["Staff-12345"],
}
EVERY = [(label, secret) for label, secrets in SECRETS.items() for secret in secrets]
FINE = [
    "4111 1111 1111 1112",
    "DE88370400440532013000",
    "version 1.2.3 of 2026-11-20 at 10:00:59",
    "std::vector a::b 12:30:45 cafe:",
    "300.1.1.1",
    "a@b and @c.org",
    "call 030 901820 or 12345678901",
    "+49 1",
    "sk-short",
    "17e9 + 4111",
    "1732147200000",
]
PIECES = st.one_of(
    st.sampled_from([secret for _, secret in EVERY]),
    st.sampled_from(FINE),
    st.text(alphabet='aAx yz@.+-0149:DE\n"\\é€', max_size=12),
    st.text(max_size=6),
)
TEXTS = st.lists(PIECES, max_size=6).map("".join) | st.lists(PIECES, max_size=6).map(" ".join)


def cut(text: str, data: st.DataObject) -> list[str]:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=25))
    return [text[a:b] for a, b in pairwise([0, *sorted(cuts), len(text)])]


@pytest.mark.parametrize(("label", "secret"), EVERY)
@pytest.mark.parametrize("frame", ["{}", "say {}, and", "({})", "é{}\n", "x: {}.", '"{}"', "<{}>"])
def test_what_is_hidden(label: str, secret: str, frame: str) -> None:
    assert FINDER.whole(frame.format(secret)) == frame.format(label)


@pytest.mark.parametrize("text", FINE)
def test_what_stays(text: str) -> None:
    assert FINDER.whole(text) == text


def test_groups_that_follow_a_number_stay() -> None:
    assert FINDER.whole("4111 1111 1111 1111 123") == "[CARD] 123"
    assert FINDER.whole("1234 4111 1111 1111 1111") == "1234 [CARD]"
    assert FINDER.whole("DE89 3704 0044 0532 0130 00 BIC X") == "[IBAN] BIC X"


def test_only_what_is_asked_for_is_hidden() -> None:
    finder = Finder(chosen(["email"], {}))

    assert finder.whole("a@b.co 4111 1111 1111 1111") == "[EMAIL] 4111 1111 1111 1111"


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.data())
def test_any_cut_hides_the_same(text: str, data: st.DataObject) -> None:
    flow = StreamingText(FINDER)
    out = "".join(map(flow.feed, cut(text, data)))

    assert out + flow.finish() == FINDER.whole(text)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.data())
def test_what_is_let_go_is_a_beginning_of_the_whole(text: str, data: st.DataObject) -> None:
    flow = StreamingText(FINDER)
    out = ""
    whole = FINDER.whole(text)
    for piece in cut(text, data):
        out += flow.feed(piece)
        assert whole.startswith(out)
        assert len(flow._raw) <= 4 * (MOST_WIDTH + 1)


@pytest.mark.parametrize(("label", "secret"), EVERY)
def test_no_beginning_of_a_secret_leaks(label: str, secret: str) -> None:
    flow = StreamingText(FINDER)
    out = flow.feed("say ")
    for character in secret:
        out += flow.feed(character)
        assert out in {"say ", f"say {label}"}, character
    assert out + flow.feed("!") + flow.finish() == f"say {label}!"


def test_prose_is_held_back_by_a_word_at_most() -> None:
    flow = StreamingText(FINDER)
    assert flow.feed("The quick brown") == "The quick "
    assert flow.feed(" fox") == "brown "
    assert flow.finish() == "fox"


@pytest.mark.parametrize("unit", ["a", "4111 ", "DE89 ", "a."])
def test_a_text_without_an_end_is_not_held(unit: str) -> None:
    flow = StreamingText(FINDER)
    for _ in range(400):
        flow.feed(unit)
        assert len(flow._raw) <= MOST_WIDTH + 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


def walked(value: Any) -> Any:
    if isinstance(value, str):
        return FINDER.whole(value)
    if isinstance(value, list):
        return [walked(item) for item in value]
    if isinstance(value, dict):
        return {FINDER.whole(key): walked(item) for key, item in value.items()}
    return value


@settings(max_examples=300, deadline=None)
@given(JSON, st.booleans(), st.data())
def test_arguments_stay_json_however_they_are_cut(
    value: Any, ascii_only: bool, data: st.DataObject
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    arguments = Arguments(FINDER)
    out = "".join(map(arguments.feed, cut(text, data))) + arguments.finish()

    assert json.loads(out) == walked(value)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='"\\ud83de0@.ab 1{}:,\n', max_size=40), st.data())
def test_broken_arguments_break_nothing(text: str, data: st.DataObject) -> None:
    arguments = Arguments(FINDER)
    for piece in cut(text, data):
        arguments.feed(piece)
        assert len(arguments._held) <= 80
    arguments.finish()


def test_a_number_in_arguments_becomes_a_string() -> None:
    assert rewritten(FINDER, '{"n": 4111111111111111, "m":12}') == '{"n": "[CARD]", "m":12}'
    assert rewritten(FINDER, '{"n":"\\u0061@b.co\\n4111 1111 1111 1111"}') == (
        '{"n":"[EMAIL]\\n[CARD]"}'
    )
    assert rewritten(FINDER, '"\\n\\ud83d\\ude00 \\/"') == '"\\n\\ud83d\\ude00 \\/"'


def test_a_request_without_findings_is_the_same() -> None:
    body = b'{ "model":"a@b.co", "messages":[{"role":"user","content":"hi"}] }'
    assert request(body, FINDER) is body


def test_words_of_people_are_hidden_wherever_a_request_has_them() -> None:
    image = "data:image/png;base64,4111111111111111"
    asked = {
        "model": "a@b.co",
        "user": "ann@b.co",
        "prompt": ["a@b.co", "fine"],
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "a@b.co"}]}],
        "query": "192.168.10.7",
        "documents": ["a@b.co", {"text": "a@b.co"}],
        "tools": [{"type": "function", "function": {"name": "f", "description": "a@b.co"}}],
        "messages": [
            {"role": "system", "content": "mail \u00e9 a@b.co"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "I am +49 30 901820"},
                    {"type": "image_url", "image_url": {"url": image}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c", "function": {"name": "f", "arguments": '{"to":"\\u0061@b.co"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "c", "content": "sent to a@b.co"},
        ],
    }
    made = json.loads(request(json.dumps(asked).encode(), FINDER))

    assert made["user"] == "[EMAIL]"
    assert made["prompt"] == ["[EMAIL]", "fine"]
    assert made["input"][0]["content"][0]["text"] == "[EMAIL]"
    assert made["query"] == "[IP]"
    assert made["documents"] == ["[EMAIL]", {"text": "[EMAIL]"}]
    assert made["tools"] == asked["tools"]
    assert made["model"] == "a@b.co"
    system, user, assistant, tool = made["messages"]
    assert system["content"] == "mail é [EMAIL]"
    assert user["content"][0]["text"] == "I am [PHONE]"
    assert user["content"][1]["image_url"]["url"] == image
    assert assistant["tool_calls"][0]["function"]["arguments"] == '{"to":"[EMAIL]"}'
    assert tool["content"] == "sent to [EMAIL]"


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"prompt":"\\ud800"}', b'{"prompt":"\xff"}', b""])
def test_what_cannot_be_looked_through_is_not_passed_on(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        request(body, FINDER)
    assert caught.value.status == 400


def test_a_deep_request_is_refused_or_looked_through() -> None:
    body = b'{"prompt":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    with pytest.raises(ApiError):
        request(body, FINDER)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"a+", "bound it"),
        (r"a*", "empty"),
        (r"(a)\1", "not supported"),
        (r"(?=a)b", "not supported"),
        (r"^a", "anchors"),
        (r"a$", "anchors"),
        (r"(?m)a", "only allowed flag"),
        (r"a(?i:b)", "flags"),
        (r"[", "unterminated"),
        (r"(?:(?:a{1,100}){1,100}){1,100}", "more than 512"),
        (r"\p{L}", "bad escape"),
    ],
)
def test_patterns_that_are_refused(pattern: str, said: str) -> None:
    with pytest.raises(ValueError, match="the pattern 'mine' cannot be used: ") as caught:
        chosen([], {"mine": pattern})
    assert said in str(caught.value)


def test_names_that_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind 'mail': known are email, iban"):
        chosen(["mail"], {})
    with pytest.raises(ValueError, match="the name 'a b' needs"):
        chosen([], {"a b": "x"})


@pytest.mark.parametrize(
    "pattern",
    [r"a|bc|d{2,3}e?", r"(?i)ab[^x-z\d]", r"\bp(?:q|rs){1,3}t??", r"[\s\w]{2}.é", r"\B-\W\D\S[^a]"],
)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_pattern_is_the_same_in_pieces(pattern: str, data: st.DataObject) -> None:
    finder = Finder(chosen([], {"mine": pattern}))
    text = data.draw(st.text(alphabet="abcdeABpqrstxyz-1 é\n", max_size=30))
    flow = StreamingText(finder)
    out = "".join(map(flow.feed, cut(text, data)))

    assert out + flow.finish() == finder.whole(text)


def test_a_hostile_pattern_and_text_end_soon() -> None:
    finder = Finder(chosen([], {"mine": r"(?:(?:a{1,4}){1,5}){1,5}b"}))
    assert finder.whole("a" * 5000) == "a" * 5000
