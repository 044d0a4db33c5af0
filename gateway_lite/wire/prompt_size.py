"""The size of a request's prompt: text as in UTF-8, media by what engines make of them.

A picture of 1 MB in base64 is no text of 250,000 tokens. Engines make a token of each patch, mostly
28 by 28 pixels, and 6 to 25 tokens of a second of sound. Only data in the place of a picture or of
sound, and with the first bytes of such a file, count so; anything else in a request counts as text.

Source: the image and audio processors of Qwen2.5-VL, LLaVA, InternVL, Qwen2-Audio and Voxtral
"""

from __future__ import annotations

import binascii
from typing import Any

import msgspec

from gateway_lite.wire.request_body import BYTES_PER_TOKEN

MARKS = (b"\\u", b'_url"', b'"input_')
"""Bytes without which a body has neither escapes nor media, so that its length is its size."""
FIELDS = ("messages", "input")
"""Fields with lists of messages."""
LISTS = ("content", "output")
"""A message's fields with lists of parts."""
PATCH = 28 * 28
"""Pixels of one token."""
LEAST = 576
"""Tokens of a small picture, as LLaVA makes of any."""
MOST = 16_384
"""Tokens of the largest picture, as Qwen2.5-VL scales it down."""
UNSEEN = 1_600
"""Tokens of a picture, of sound or of a video at an address."""
TOKENS_PER_S = 25
"""Tokens of a second of sound."""
PACKED = 100
"""Bytes of packed sound or video for one token: 25 tokens at 20 kbit/s; most sound has more."""
HEAD = 2**20
"""Characters of base64 in which a picture must tell its size; profiles may come first."""
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG's markers of a frame, which tells width and height."""
SEGMENTS = 64
"""Segments and fill bytes of JPEG before a frame: cameras write about 10, editors up to 40. A MiB
of empty ones takes 0.2 s.
"""
SOUNDS = (b"ID3", b"OggS", b"fLaC", b"\x1aE\xdf\xa3", b"#!AMR", b"FORM", b"caff")
UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
_decode = msgspec.json.decode
_encode = msgspec.json.encode


class PromptSize(msgspec.Struct, frozen=True):
    """The size of a request's prompt.

    Attributes:
        text: the request's JSON without media, each character as in UTF-8.
        media: estimated tokens of all media.
    """

    text: bytes
    media: int = 0

    def tokens(self) -> int:
        """Return an estimate of the prompt's tokens."""
        return len(self.text) // BYTES_PER_TOKEN + self.media


def measured(body: bytes) -> PromptSize:
    """Return the size of a request's prompt.

    Args:
        body: the request's JSON in OpenAI's form.
    """
    if not any(mark in body for mark in MARKS):
        return PromptSize(body)
    try:
        asked = _decode(body)
        media = sum(map(_taken_out, _parts(asked)))
        return PromptSize(_encode(asked), media)
    except UNREADABLE:
        return PromptSize(body)


def _parts(asked: Any) -> list[dict[str, Any]]:
    """Return the parts of all messages, the messages' own parts and those of tools' results."""
    fields = [asked.get(name) for name in FIELDS] if type(asked) is dict else []
    messages = [message for found in fields for message in _objects(found)]
    return [part for message in messages for name in LISTS for part in _objects(message.get(name))]


def _objects(found: Any) -> list[dict[str, Any]]:
    """Return the objects in a list; none of another value."""
    return [one for one in found if type(one) is dict] if type(found) is list else []


def _taken_out(part: dict[str, Any]) -> int:
    """Take the media out of a part of a message; return their tokens, 0 for a part of text."""
    kind = part.get("type")
    name = "image_url" if kind == "input_image" else kind
    if type(name) is not str or name not in ESTIMATES:
        return 0
    holder, field = part, name
    if type(part.get(name)) is dict:
        holder, field = part[name], "data" if name == "input_audio" else "url"
    text = holder.get(field)
    if type(text) is not str:
        return 0
    start, comma, data = text.partition(";base64,")
    if name == "input_audio" and not comma:
        start, data = "", text
    elif not comma or not start.lower().startswith("data:"):
        return UNSEEN if text.lower().startswith(("http:", "https:")) else 0
    tokens = ESTIMATES[name](data)
    if tokens is None:
        return 0
    holder[field] = start + comma
    return tokens


def picture_tokens(data: str) -> int | None:
    """Return an estimate of a picture's tokens; None for data that is no known kind of picture.

    Args:
        data: the picture in base64.
    """
    size = _pixels(_bytes(data[:HEAD]))
    if size is None:
        return None
    width, height = size
    return min(MOST, max(LEAST, width * height // PATCH))


def sound_tokens(data: str) -> int | None:
    """Return an estimate of the tokens of sound; None for data that is no known kind of sound.

    Args:
        data: the sound in base64.
    """
    head, size = _bytes(data[:256]), len(data) * 3 // 4
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _wave_tokens(head, size)
    known = head.startswith(SOUNDS) or head[4:8] == b"ftyp" or _is_mpeg(head)
    return size // PACKED + 1 if known else None


def video_tokens(data: str) -> int | None:
    """Return an estimate of a video's tokens; None for data that is no known kind of video.

    Args:
        data: the video in base64.
    """
    head, size = _bytes(data[:256]), len(data) * 3 // 4
    known = head[4:8] == b"ftyp" or head.startswith((b"\x1aE\xdf\xa3", b"RIFF"))
    return max(MOST, size // PACKED) if known else None


ESTIMATES = {
    "image_url": picture_tokens,
    "input_audio": sound_tokens,
    "audio_url": sound_tokens,
    "video_url": video_tokens,
}
"""The estimate for each kind of part with media."""


def _bytes(data: str) -> bytes:
    """Return the bytes of the beginning of a text in base64; empty for another text."""
    whole = data[: len(data) - len(data) % 4]
    try:
        return binascii.a2b_base64(whole.encode("ascii"))
    except (binascii.Error, UnicodeError):
        return b""


def _pixels(head: bytes) -> tuple[int, int] | None:
    """Return width and height of a picture."""
    if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) >= 24:
        return _number(head[16:20]), _number(head[20:24])
    if head.startswith((b"GIF87a", b"GIF89a")):
        return _little(head[6:8]), _little(head[8:10])
    if head.startswith(b"BM"):
        return _little(head[18:22]), _little(head[22:26])
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _webp(head)
    return _jpeg(head) if head.startswith(b"\xff\xd8\xff") else None


def _webp(head: bytes) -> tuple[int, int] | None:
    kind = head[12:16]
    if kind == b"VP8X":
        return _little(head[24:27]) + 1, _little(head[27:30]) + 1
    if kind == b"VP8L":
        bits = _little(head[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return _little(head[26:28]) & 0x3FFF, _little(head[28:30]) & 0x3FFF
    return None


def _jpeg(head: bytes) -> tuple[int, int] | None:
    """Return width and height of a JPEG picture: segments of a marker, a length and content."""
    at = 2
    for _ in range(SEGMENTS):
        if at + 9 > len(head) or head[at] != 0xFF:
            break
        marker = head[at + 1]
        if marker == 0xFF:  # a byte that fills up
            at += 1
            continue
        if marker in FRAMES:
            return _number(head[at + 7 : at + 9]), _number(head[at + 5 : at + 7])
        at += 2 + max(2, _number(head[at + 2 : at + 4]))
    return None


def _wave_tokens(head: bytes, size: int) -> int | None:
    """Return the tokens of sound in samples, by its length in seconds."""
    at = head.find(b"fmt ", 12) + 8
    if at < 20 or len(head) < at + 16:
        return None
    channels, rate = _little(head[at + 2 : at + 4]), _little(head[at + 4 : at + 8])
    per_s = rate * channels * _little(head[at + 14 : at + 16]) // 8
    return size * TOKENS_PER_S // per_s + 1 if per_s > 0 else None


def _is_mpeg(head: bytes) -> bool:
    """Return whether sound begins with a frame of MP3 or AAC."""
    return head[:1] == b"\xff" and head[1:2] >= b"\xe0"


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


def _little(raw: bytes) -> int:
    return int.from_bytes(raw, "little")
