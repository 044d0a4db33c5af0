"""The headers of a request, of which those that decide occur once."""

from __future__ import annotations

import pytest

from gateway_lite.http.protocol import SINGLE, RepeatedHeaderError, headers_of


@pytest.mark.parametrize("name", sorted(SINGLE))
def test_a_header_that_decides_occurs_once_in_any_case(name: bytes) -> None:
    assert headers_of([(name.title(), b"1")]) == {name: b"1"}
    with pytest.raises(RepeatedHeaderError, match=name.decode()):
        headers_of([(name, b"1"), (b"x", b"2"), (name.upper(), b"1")])


def test_of_two_other_headers_the_first_counts() -> None:
    lines = [(b"Accept", b"1"), (b"cookie", b"a"), (b"accept", b"2"), (b"Cookie", b"b")]
    assert headers_of(lines) == {b"accept": b"1", b"cookie": b"a"}
