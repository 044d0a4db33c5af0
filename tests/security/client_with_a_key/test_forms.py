"""A client with a key for one model reaches no other by a form that is read in two ways."""

from __future__ import annotations

import pytest

from gateway_lite.errors import ApiError
from gateway_lite.wire import form_body

KIND = b"multipart/form-data; boundary=X"
MODEL = b'content-disposition: form-data; name="model"'
FILE = b'content-disposition: form-data; name="file"; filename="a.wav"'


def form(*parts: tuple[bytes, bytes]) -> bytes:
    """Return a form of heads and values."""
    made = [b"--X\r\n%b\r\n\r\n%b\r\n" % part for part in parts]
    return b"".join([*made, b"--X--\r\n"])


@pytest.mark.parametrize(
    ("head", "value"),
    [
        (b'content-disposition: form-data; name="mo\0del"', b"secret"),
        (b'content-disposition: form-data; name="\0model"', b"secret"),
        (b'content-disposition: form-data; name="n\x01"', b"99"),
        (FILE + b"\r\ncontent-type: audio/wav\ncontent-disposition: x; name=model", b"secret"),
        (FILE + b"\r\ncontent-type: audio/wav\0", b"RIFF"),
        (b'content-disposition: form-data; name="n"', b"0000000000019" + b"9" * 5000),
        (b'content-disposition: form-data; name="n"', b"000000000001"),
    ],
)
def test_a_field_whose_head_changes_on_the_way_is_refused(head: bytes, value: bytes) -> None:
    """An engine must not find another field than the limits have seen."""
    body = form((MODEL, b"open"), (head, value))
    with pytest.raises(ApiError):
        _ = form_body.read(KIND, body).answers


def test_a_plain_form_goes_on() -> None:
    """Names and kinds without odd characters are kept."""
    body = form((MODEL, b"open"), (FILE + b"\r\ncontent-type: audio/wav", b"RIFF"))
    assert b'name="file"; filename="a.wav"\r\ncontent-type: audio/wav' in form_body.read(
        KIND, body
    ).body("open")
