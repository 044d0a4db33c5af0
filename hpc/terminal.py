"""Text of others for the user's terminal: logs of engines, reasons, names, other hosts' answers."""

from __future__ import annotations

SHOWN = "\ufffd"
"""Character in place of a control character."""
KEPT = "\n\t"
DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
"""Marks that turn the direction of writing around, and line ends besides the line feed."""
HALVES = range(0xD800, 0xE000)
"""Halves of surrogate pairs, which no terminal can be sent: of JSON, or a name that is no UTF-8."""
_CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0), *DIRECTIONS, *HALVES), SHOWN)
_CONTROLS = {code: text for code, text in _CONTROLS.items() if chr(code) not in KEPT}


def plain(text: str) -> str:
    """Return a text whose control characters cannot command a terminal.

    Escape sequences could set the terminal's title, rewrite lines above, answer the shell with keys
    of its own choice, or write to the clipboard; an engine's log may hold a client's prompt.
    """
    return text if text.isascii() and text.isprintable() else text.translate(_CONTROLS)
