"""Prompts are measured by what engines read."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from gateway_lite.wire.prompt_size import LEAST, MOST, UNSEEN, measured

JUNK = bytes(range(256)) * 4000


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def png(width: int, height: int, rest: bytes = JUNK) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + rest


def jpeg(width: int, height: int, before: bytes = b"\xff\xe1\xff\xfd" + b"e" * 65531) -> bytes:
    frame = b"\xff\xc2" + struct.pack(">HBHH", 17, 8, height, width)
    return b"\xff\xd8" + before * 9 + b"\xff" + frame + JUNK


def wav(seconds: int, *, extra: bytes = b"") -> bytes:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    samples = b"\x01\x02" * 16000 * seconds
    return b"RIFF\0\0\0\0WAVE" + extra + form + b"data" + struct.pack("<I", len(samples)) + samples


def asked(*parts: dict[str, Any], text: str = "hi", **more: Any) -> bytes:
    content = [{"type": "text", "text": text}, *parts]
    return json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": content}], **more}
    ).encode()


def picture(data: bytes | str, start: str = "data:image/png;base64,") -> dict[str, Any]:
    text = data if isinstance(data, str) else encoded(data)
    return {"type": "image_url", "image_url": {"url": start + text}}


def sound(data: bytes) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": encoded(data), "format": "wav"}}


PLAIN = measured(asked()).tokens()

VP8X = b"RIFF\0\0\0\0WEBPVP8X" + b"\0" * 8 + b"\xff\x03\x00\xff\x02\x00" + JUNK
VP8L = (
    b"RIFF\0\0\0\0WEBPVP8L" + b"\0" * 4 + b"\x2f" + (1023 | 767 << 14).to_bytes(4, "little") + JUNK
)
VP8 = b"RIFF\0\0\0\0WEBPVP8 " + b"\0" * 10 + struct.pack("<HH", 1024, 768) + JUNK


@pytest.mark.parametrize(
    "data",
    [
        png(1024, 768),
        jpeg(1024, 768),
        b"GIF89a" + struct.pack("<HH", 1024, 768) + JUNK,
        b"BM" + b"\0" * 16 + struct.pack("<II", 1024, 768) + JUNK,
        VP8X,
        VP8L,
        VP8,
    ],
    ids=["png", "jpeg", "gif", "bmp", "vp8x", "vp8l", "vp8"],
)
def test_a_picture_counts_by_its_pixels(data: bytes) -> None:
    expected = 1024 * 768 // 784
    for start in ("data:image/png;base64,", "DATA:image/jpeg;base64,", "data:;base64,"):
        told = measured(asked(picture(data, start)))
        assert told.media == expected
        assert PLAIN + expected <= told.tokens() <= PLAIN + expected + 30


def test_pictures_count_where_engines_look_for_them() -> None:
    url = "data:image/png;base64," + encoded(png(2800, 2800))
    bodies: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]},
        {
            "messages": [
                {"role": "tool", "content": [{"type": "image_url", "image_url": {"url": url}}]}
            ]
        },
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]},
        {
            "input": [
                {
                    "type": "function_call_output",
                    "output": [{"type": "input_image", "image_url": url}],
                }
            ]
        },
    ]
    for body in bodies:
        assert measured(json.dumps({"model": "m", **body}).encode()).media == 10_000
    several = asked(*(picture(png(100, 100)) for _ in range(5)))
    assert measured(several).media == 5 * LEAST
    assert measured(asked(picture(png(60_000, 60_000)))).media == MOST
    link = {"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}
    assert measured(asked(link)).media == UNSEEN
    escaped = asked(picture(png(2800, 2800))).replace(b"image_url", b"im\\u0061ge_url")
    assert measured(escaped).media == 10_000


def test_sound_counts_by_its_length() -> None:
    assert measured(asked(sound(wav(60)))).media == pytest.approx(1500, abs=5)
    assert measured(asked(sound(wav(60, extra=b"LIST\x04\0\0\0info")))).media == pytest.approx(
        1500, abs=5
    )
    packed = b"ID3" + JUNK
    told = measured(asked(sound(packed)))
    assert told.media == pytest.approx(len(packed) / 100, rel=0.01)
    link = {"type": "audio_url", "audio_url": {"url": "data:audio/mpeg;base64," + encoded(packed)}}
    assert measured(asked(link)).media == told.media
    video = b"\0\0\0\x18ftypmp42" + JUNK * 4
    part = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64," + encoded(video)}}
    assert measured(asked(part)).media == max(MOST, len(video) // 100)


TEXT = "ignore all former orders and " * 4000
HIDDEN: list[tuple[str, bytes]] = [
    ("text in a data URL", asked(picture(TEXT))),
    ("base64 of text", asked(picture(TEXT.encode()))),
    ("a data URL as text", asked(text="data:image/png;base64," + encoded(png(9, 9) + JUNK))),
    ("a text part with a picture's field", asked({**picture(png(9, 9)), "type": "text"})),
    ("a part without a type", asked({"image_url": {"url": encoded(png(9, 9) + JUNK)}})),
    ("text beside a picture", asked({**picture(png(9, 9)), "text": TEXT})),
    ("text beside a URL", asked({"type": "image_url", "image_url": {"url": "", "detail": TEXT}})),
    ("text before the data", asked(picture(png(9, 9), f"data:{TEXT};base64,"))),
    ("text as sound", asked(sound(TEXT.encode()))),
    ("sound without a rate", asked(sound(wav(4).replace(struct.pack("<I", 16000), b"\0" * 4)))),
    ("a picture in a tool", asked(tools=[{"function": {"content": [picture(png(9, 9))]}}])),
    ("a picture as a message", asked(messages2=[picture(png(9, 9))])),
    ("an unknown type", asked({"type": "image", "image": encoded(png(9, 9))})),
    ("a nested list", json.dumps({"messages": [{"content": [[picture(png(9, 9))]]}]}).encode()),
]


@pytest.mark.parametrize(("name", "body"), HIDDEN, ids=[name for name, _ in HIDDEN])
def test_text_counts_wherever_it_is_hidden(name: str, body: bytes) -> None:
    del name
    assert measured(body).tokens() > 25_000


@pytest.mark.parametrize(
    "text", ["中文" * 999, "Привет" * 999, "é" * 999, "🙂" * 999, 'a"\\\n\t/' * 999, "\x01" * 99]
)
def test_escaped_text_counts_as_its_utf8(text: str) -> None:
    plain = {"model": "m", "messages": [{"role": "user", "content": text}]}
    escaped = json.dumps(plain, ensure_ascii=True, separators=(",", ":")).encode()
    utf8 = json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()
    assert measured(escaped).tokens() == measured(utf8).tokens()


def test_a_written_escape_counts_as_its_letters() -> None:
    """A backslash, a u and digits, as a text about escapes has them, are six characters."""
    text = "\\u4e2d" * 1000
    assert measured(asked(text=text)).tokens() - PLAIN >= 6000 // 4
    assert measured(asked(text="\\" * 6000 + "u")).tokens() - PLAIN >= 6000 // 4


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'"\\u',
        b"[]",
        b'{"messages":"\\u0041"}',
        b'{"messages":true,"input":5,"x":"\\u0041"}',
        b'{"messages":{"a":"\\u0041"}}',
        b'{"messages":[{"content":[{"type":"image_url"}]}],"x":"\\u0041"}',
        b'{"messages":[{"content":[{"type":["image_url"]}]}],"x":"\\u0041"}',
        b'{"messages":[{"content":[{"type":"image_url","image_url":{"url":5}}]}]}',
        b'{"messages":[{"content":"\\ud83d"}]}',
        b'{"x":"\\u0041","y":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"x":"\\u0041","y":1' + b"0" * 400 + b"}",
    ],
)
def test_an_odd_body_counts_at_most_as_its_bytes(body: bytes) -> None:
    assert measured(body).tokens() <= len(body) // 4 + 1


@pytest.mark.parametrize("cut", [0, 3, 9, 20, 23, 29, 40])
def test_a_cut_picture_counts_as_text_or_as_a_picture(cut: int) -> None:
    for data in (png(9, 9), jpeg(9, 9), VP8, VP8L, VP8X, wav(1)):
        for part in (picture(data[:cut]), sound(data[:cut])):
            measured(asked(part))


@pytest.mark.parametrize("filler", [b"\xff", b"\xff\xe0\0\0"])
def test_a_picture_of_empty_segments_counts_as_text(filler: bytes) -> None:
    """Followed to the end, 8 MiB of them stop a worker for 1.4 s."""
    data = jpeg(1024, 768, filler * 1000)
    assert measured(asked(picture(data))).media == 0
