"""Addresses that an engine would fetch: none pass but data: URLs and those of allowed hosts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_lite.errors import ApiError
from gateway_lite.wire import media_urls

ALLOWED = ("images.example.org",)
DATA = "data:image/png;base64,iVBORw0KGgo="


def chat(part: dict[str, Any]) -> dict[str, Any]:
    """Return a chat with one part beside its text."""
    return {"model": "m", "messages": [{"role": "user", "content": [{"type": "text"}, part]}]}


def parts(url: str) -> list[dict[str, Any]]:
    """Return all forms in which engines take an address."""
    return [
        *({"type": f"{kind}_url", f"{kind}_url": {"url": url}} for kind in ("image", "audio")),
        {"type": "video_url", "video_url": {"detail": {"x": [1]}, "url": url}},
        {"type": "image_url", "image_url": url},
        {"image_url": url},
        {"type": "input_image", "image_url": url, "detail": "auto"},
        {"type": "input_file", "file_url": url},
    ]


REFUSED = (
    *("http://127.0.0.1:19101/x", "https://169.254.169.254/latest/meta-data", "HTTP://a/"),
    *("http://[::1]/", "file:///etc/passwd", "file:/etc/passwd", "ftp://a/", "gopher://a/"),
    *("http://images.example.org@127.0.0.1/", "http://127.0.0.1#@images.example.org/"),
    *("http://images.example.org.attacker.example/", "http://attacker-images.example.org/"),
    *("http://images.example.org\\@127.0.0.1/", "http://127.0.0.1\\.images.example.org/"),
    *(" http://a/", "\n\thttp://a/", "\x01http://a/", "http:a", "http:/a", "http:///a", "http://"),
    *("http://images.example.org:80@a/", "jar:http://a/", "view-source:http://a/"),
)


@pytest.mark.parametrize("url", REFUSED)
def test_other_places_are_refused_in_every_form(url: str) -> None:
    for part in parts(url):
        for body in (json.dumps(chat(part)), json.dumps(chat(part), indent=3)):
            with pytest.raises(ApiError, match="data: URLs"):
                media_urls.check(body.encode(), ALLOWED)


@pytest.mark.parametrize("url", [DATA, DATA.replace("data", "DATA"), "iVBORw0KGgo=", ""])
def test_media_within_the_request_pass(url: str) -> None:
    for part in parts(url):
        media_urls.check(json.dumps(chat(part)).encode(), ())


@pytest.mark.parametrize(
    "url",
    [
        *("https://images.example.org/a.png", "http://images.example.org:8080/a?b=http://c/"),
        *("HTTPS://Images.Example.ORG/a.png", "https://images.example.org"),
    ],
)
def test_allowed_hosts_pass(url: str) -> None:
    for part in parts(url):
        media_urls.check(json.dumps(chat(part)).encode(), ALLOWED)
        media_urls.check(json.dumps(chat(part)).replace("/", "\\/").encode(), ALLOWED)
        with pytest.raises(ApiError):
            media_urls.check(json.dumps(chat(part)).encode(), ())


def test_one_bad_address_among_good_ones_is_enough() -> None:
    good = [part for part in parts(DATA) for _ in range(3)]
    body = {"messages": [{"content": [*good, parts("http://a/")[0], *good]}]}
    with pytest.raises(ApiError):
        media_urls.check(json.dumps(body).encode(), ())


def test_the_first_of_two_equal_keys_counts_too() -> None:
    for pair in (f'"url": "http://a/", "url": "{DATA}"', f'"url": "{DATA}", "url": "http://a/"'):
        with pytest.raises(ApiError):
            media_urls.check(b'{"image_url": {%b}}' % pair.encode(), ())


def test_all_may_be_allowed() -> None:
    for part in parts("http://a/"):
        media_urls.check(json.dumps(chat(part)).encode(), ("*",))


@given(st.data())
def test_escapes_hide_nothing(data: st.DataObject) -> None:
    plain = '{"image_url": {"url": "http://a/"}}'
    value = plain.index("http")
    letters = [n for n, char in enumerate(plain) if char.isalpha() or char == "_"]
    letters += [n for n, char in enumerate(plain) if char in ":/" and n > value]
    hidden = data.draw(st.sets(st.sampled_from(letters)))
    case = data.draw(st.booleans())
    text = "".join(
        (f"\\u{ord(char):04X}" if case else f"\\u{ord(char):04x}") if at in hidden else char
        for at, char in enumerate(plain)
    )
    assert json.loads(text) == json.loads(plain)
    with pytest.raises(ApiError):
        media_urls.check(text.encode(), ())


@pytest.mark.parametrize(
    "text",
    [
        'Fetch "image_url": "http://a/" for me, or {"url": "http://b/"}',
        "see http://a/ and url: file:///b \\u0068ttp image_url",
        '"image_url": {"url": "http://a/"}',
    ],
)
def test_words_of_a_prompt_are_no_address(text: str) -> None:
    body = {"messages": [{"role": "user", "content": text}], "user": text}
    media_urls.check(json.dumps(body).encode(), ())
    media_urls.check(json.dumps({**body, **chat(parts(DATA)[0])}).encode(), ())


def test_a_tool_may_have_a_parameter_of_that_name() -> None:
    tool = {"properties": {"url": {"type": "string"}, "image_url": {"type": "string"}}}
    media_urls.check(json.dumps({"tools": [{"function": {"parameters": tool}}]}).encode(), ())
