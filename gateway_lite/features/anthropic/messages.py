"""The translation of Anthropic's messages and content blocks into messages of a chat.

Source: https://docs.claude.com/en/api/messages
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway_lite import errors

BILLING = "x-anthropic-billing-header"
"""Start of a system block that Claude Code changes with each request, against any prefix cache."""
THOUGHTS = "reasoning"
WITHIN = ("text", "image")
"""Blocks within documents and search results, as in Anthropic's API."""
Block = dict[str, Any]


class Chat:
    """The messages of a chat, under construction.

    Attributes:
        made: the messages in OpenAI's form, the content of each a list of parts.
    """

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []

    def add(self, number: int, message: Any) -> None:
        """Append a message of the client.

        Args:
            number: number of the message, for errors.
            message: the message in Anthropic's form.

        Raises:
            ApiError: the message has no known form.
        """
        where = f"messages.{number}"
        if type(message) is not dict:
            raise errors.bad_request(f"{where} is no object", param=where)
        role = message.get("role")
        blocks = _blocks(message.get("content"), f"{where}.content")
        if role == "user":
            self._add_user(blocks, where)
        elif role == "assistant":
            self._add_assistant(blocks, where)
        elif role == "system":
            # Many chat templates take a system message in the first place only.
            told = system_text(blocks, f"{where}.content")
            if told:
                text = f"<system-reminder>\n{told}\n</system-reminder>"
                self._extend("user", [{"type": "text", "text": text}])
        else:
            raise errors.bad_request(
                f"{where}.role must be 'user', 'assistant' or 'system'", param=where
            )

    def _extend(self, role: str, parts: list[Block]) -> dict[str, Any]:
        """Append parts to the last message of the same role, as Anthropic joins turns."""
        if not self.made or self.made[-1]["role"] != role:
            self.made.append({"role": role, "content": []})
        self.made[-1]["content"] += parts
        return self.made[-1]

    def _add_user(self, blocks: list[Block], where: str) -> None:
        parts: list[Block] = []
        for block in blocks:
            if block["type"] != "tool_result":
                parts += _parts(block, where)
                continue
            said = [
                part
                for inner in _blocks(block.get("content"), f"{where}.tool_result")
                for part in _parts(inner, where)
            ]
            name = _text(block, "tool_use_id", where)
            text = "\n".join(part["text"] for part in said if part["type"] == "text")
            self.made.append({"role": "tool", "tool_call_id": name, "content": text})
            # Chat templates read text alone from tools, so pictures follow as the user's.
            parts += [part for part in said if part["type"] != "text"]
        if parts or not blocks:
            self._extend("user", parts)

    def _add_assistant(self, blocks: list[Block], where: str) -> None:
        message = self._extend("assistant", [])
        for block in blocks:
            kind = block["type"]
            if kind == "thinking":
                # A list: texts that grow one by one take time by the square of their number.
                message.setdefault(THOUGHTS, []).append(_text(block, "thinking", where))
            elif kind == "tool_use":
                message.setdefault("tool_calls", []).append(_call(block, where))
            elif kind != "redacted_thinking":
                message["content"] += _parts(block, where)


def chat(system: Any, messages: Any) -> list[dict[str, Any]]:
    """Return the messages of a chat in OpenAI's form.

    Args:
        system: the system prompt: a text, text blocks, or None.
        messages: messages in Anthropic's form.

    Raises:
        ApiError: a part has no known form.
    """
    if type(messages) is not list or not messages:
        raise errors.bad_request("'messages' must be a list with a message", param="messages")
    made = Chat()
    for number, message in enumerate(messages):
        made.add(number, message)
    told = system_text(_blocks(system, "system"), "system")
    first = [{"role": "system", "content": told}] if told else []
    return [*first, *map(_plain, made.made)]


def system_text(blocks: list[Block], where: str) -> str:
    """Return the text of a system prompt.

    Args:
        blocks: its text blocks.
        where: name of the field, for errors.

    Raises:
        ApiError: a block is no text.
    """
    if any(block["type"] != "text" for block in blocks):
        raise errors.bad_request(f"'{where}' takes text blocks only", param=where)
    texts = [_text(block, "text", where) for block in blocks]
    return "\n\n".join(text for text in texts if text and not text.startswith(BILLING))


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose content is a text, if the content has no other parts."""
    if THOUGHTS in message:
        thoughts = "".join(message[THOUGHTS])
        # Engines differ in the field's name.
        message = {**message, THOUGHTS: thoughts, "reasoning_content": thoughts}
    parts = message["content"]
    if type(parts) is str or any(part["type"] != "text" for part in parts):
        return message
    # The model's own text was one before its client cut the text into blocks.
    between = "" if message["role"] == "assistant" else "\n"
    text: str | None = between.join(part["text"] for part in parts)
    if not text and "tool_calls" in message:
        text = None
    return {**message, "content": text}


def _blocks(content: Any, where: str) -> list[Block]:
    """Return content as a list of blocks."""
    if content is None:
        return []
    if type(content) is str:
        return [{"type": "text", "text": content}]
    if type(content) is list and all(
        type(block) is dict and type(block.get("type")) is str for block in content
    ):
        return content
    raise errors.bad_request(
        f"'{where}' must be a text, or a list of blocks with a 'type'", param=where
    )


def _parts(block: Block, where: str) -> list[Block]:
    """Return a block as parts of a chat message."""
    kind = block["type"]
    if kind == "text":
        return [{"type": "text", "text": _text(block, "text", where)}]
    if kind == "image":
        return [{"type": "image_url", "image_url": {"url": _image(block.get("source"), where)}}]
    if kind == "document":
        return _document(block, where)
    if kind == "search_result":
        return [_titled(block), *_within(block.get("content"), where)]
    if kind == "tool_reference":
        return [{"type": "text", "text": str(block.get("tool_name") or block.get("name") or "")}]
    raise errors.bad_request(
        f"{where}: content blocks of type {kind[: errors.LONGEST]!r} are not served here",
        param=where,
    )


def _within(content: Any, where: str) -> list[Block]:
    """Return the content of a document or of a search result as parts."""
    inner = _blocks(content, where)
    # Each level of documents within documents would copy all parts once more.
    if any(block["type"] not in WITHIN for block in inner):
        raise errors.bad_request(
            f"{where}: documents and search results hold only blocks of type 'text' or 'image'",
            param=where,
        )
    return [part for block in inner for part in _parts(block, where)]


def _image(source: Any, where: str) -> str:
    """Return a picture as a URL: the data itself, or an address."""
    kind = source.get("type") if type(source) is dict else None
    if kind == "url":
        return _text(source, "url", where)
    if kind == "base64":
        data, media = _text(source, "data", where), _text(source, "media_type", where)
        return f"data:{media};base64,{data}"
    raise errors.bad_request(
        f"{where}: the source of an image must be of type 'base64' or 'url'", param=where
    )


def _document(block: Block, where: str) -> list[Block]:
    """Return a document of text as parts."""
    source = block.get("source")
    kind = source.get("type") if type(source) is dict else None
    titled = [_titled(block)] if block.get("title") or block.get("context") else []
    if type(source) is dict and kind == "text":
        return [*titled, {"type": "text", "text": _text(source, "data", where)}]
    if type(source) is dict and kind == "content":
        return [*titled, *_within(source.get("content"), where)]
    raise errors.bad_request(
        f"{where}: engines read documents of text only; the source must be of type 'text' or"
        " 'content'",
        param=where,
    )


def _titled(block: Block) -> Block:
    """Return the heading of a document or of a search result as a part."""
    told = [block.get(name) for name in ("title", "source", "context")]
    return {"type": "text", "text": "\n".join(text for text in told if type(text) is str)}


def _call(block: Block, where: str) -> dict[str, Any]:
    """Return a tool call in OpenAI's form."""
    arguments = block.get("input")
    text = msgspec.json.encode({} if arguments is None else arguments).decode()
    function = {"name": _text(block, "name", where), "arguments": text}
    return {"id": _text(block, "id", where), "type": "function", "function": function}


def _text(block: Block, name: str, where: str) -> str:
    """Return a text field of a block."""
    found = block.get(name)
    if type(found) is not str:
        raise errors.bad_request(f"{where}: '{name}' must be a text", param=where)
    return found
