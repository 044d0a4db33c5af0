"""Heads of answers by servers that may send anything."""

from __future__ import annotations

import pytest

from gateway_lite.wire.response_head import redirected


@pytest.mark.parametrize(
    ("location", "words"),
    [
        (b"https://me:word@other:81/v1/x?key=1#y", "https://other:81/v1/x"),
        (b"/v2/models", "/v2/models"),
        (b"", ""),
        (b"http://[bad", "no address"),
        (b"http://h:99999/", "no address"),
        (b"http://h:port/", "no address"),
        (b"http://h/\x1b]0;title\x07\x9b", "http://h/]0;title"),
    ],
)
def test_the_target_of_a_redirect_in_words(location: bytes, words: str) -> None:
    """A target that is no address ended the watch over a static server for good."""
    told = redirected(302, {b"location": location})
    assert told == f"redirects (302) to {words}, which is not followed"
    assert len(redirected(302, {b"location": b"/" * 60000})) < 300
