"""Bodies of requests that clients have packed, by Content-Encoding.

Gzip and deflate are read, as the standard library has them. Zstd and Brotli are refused by a 415
that names these two (RFC 9110, 15.5.16): both need a package, and a client that packs at all has
gzip. A body counts by its plain size, so that a small body that grows (a bomb) meets the same
limits as any other.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from gateway_lite import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

IDENTITY = frozenset({"", "identity"})
GZIP = frozenset({"gzip", "x-gzip"})
CODINGS = GZIP | {"deflate"}
SLICE = 256 * 1024
"""Plain bytes of a piece, which take 1 ms."""
PACKED_SLICE = 64 * 1024
GZIP_BITS, ZLIB_BITS, RAW_BITS = 31, 15, -15


def named(header: bytes | None) -> str:
    """Return the coding of a body that must be unpacked; empty for a plain body.

    Args:
        header: the request's Content-Encoding, or None.

    Raises:
        ApiError: the coding is none that is read.
    """
    coding = (header or b"").decode("latin-1").strip().lower()
    if coding in IDENTITY:
        return ""
    if coding not in CODINGS:
        raise errors.unsupported_coding(coding, "gzip, deflate")
    return coding


def pieces(packed: bytes, coding: str) -> Iterator[bytes]:
    """Yield the plain bytes of a body, of at most SLICE at a time.

    Args:
        packed: the body.
        coding: result of ``named``.

    Raises:
        ApiError: the body is not packed so, is torn, or has further bytes behind its end.
    """
    reader = zlib.decompressobj(_bits(packed, coding))
    at = 0
    try:
        while at < len(packed) and not reader.eof:
            rest = packed[at : at + PACKED_SLICE]
            at += len(rest)
            while rest and not reader.eof:
                yield reader.decompress(rest, SLICE)
                rest = reader.unconsumed_tail
    except zlib.error:
        raise errors.bad_request(f"the body is not packed by {coding}") from None
    if not reader.eof or reader.unused_data or at < len(packed):
        raise errors.bad_request(f"the body is torn, or more than one body packed by {coding}")


def plain(packed: bytes, coding: str, limit: int) -> bytes:
    """Return the plain bytes of a body.

    Args:
        packed: the body.
        coding: result of ``named``.
        limit: most plain bytes.

    Raises:
        ApiError: the body cannot be unpacked, or is too large.
    """
    found, size = [], 0
    for piece in pieces(packed, coding):
        size += len(piece)
        if size > limit:
            raise errors.too_large(limit)
        found.append(piece)
    return b"".join(found)


def _bits(packed: bytes, coding: str) -> int:
    if coding in GZIP:
        return GZIP_BITS
    # Some clients send deflate without the head of zlib that RFC 9110 asks for.
    headed = len(packed) > 1 and packed[0] & 0x0F == zlib.DEFLATED and _checked(packed)
    return ZLIB_BITS if headed else RAW_BITS


def _checked(packed: bytes) -> bool:
    return int.from_bytes(packed[:2], "big") % 31 == 0
