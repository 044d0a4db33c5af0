"""Ceilings on the length of prompts and answers, by key and by model."""

from __future__ import annotations

from typing import Protocol

from gateway_lite import errors

LIMITED = ("/v1/chat/completions", "/v1/completions")
"""Paths whose requests bound the answer with ``max_tokens``."""


class Ceilings(Protocol):
    """Length limits in tokens: of a key, or of a model's policy."""

    @property
    def max_tokens(self) -> int | None:
        """Longest answer in tokens."""

    @property
    def max_prompt_tokens(self) -> int | None:
        """Longest prompt in tokens."""


def check(prompt: int, answer: int | None, *ceilings: Ceilings | None) -> int | None:
    """Return the longest allowed answer in tokens, for a request without a limit of its own.

    None is returned if no ceiling holds or the request has a limit of its own.

    Args:
        prompt: estimated tokens of the prompt.
        answer: most tokens of the answer that the request allows; None if not given.
        ceilings: the ceilings to apply; None limits nothing.

    Raises:
        ApiError: the prompt or the answer exceeds a ceiling.
    """
    lowest: int | None = None
    for one in ceilings:
        if one is None:
            continue
        most = one.max_prompt_tokens
        if most is not None and prompt > most:
            raise errors.ApiError(
                400,
                f"the prompt of about {prompt} tokens is longer than the {most} allowed here",
                code="context_length_exceeded",
                param="messages",
            )
        most = one.max_tokens
        if most is not None and (lowest is None or most < lowest):
            lowest = most
    if lowest is None or answer is None:
        return lowest
    if answer > lowest:
        raise errors.bad_request(
            f"max_tokens is {answer}, and at most {lowest} are allowed here", param="max_tokens"
        )
    return None


def missing(
    path: str, prompt: int, answer: int | None, own: Ceilings | None, limits: Ceilings | None
) -> int | None:
    """Return the ``max_tokens`` that a request needs but lacks, or None.

    Args:
        path: path in OpenAI's API.
        prompt: estimated tokens of the prompt.
        answer: most tokens of the answer that the request allows; None if not given.
        own: policy of the model, or None.
        limits: limits of the key, or None.

    Raises:
        ApiError: the prompt or the answer exceeds a ceiling.
    """
    if own is None and (
        limits is None or (limits.max_tokens is None and limits.max_prompt_tokens is None)
    ):
        return None
    most = check(prompt, answer, own, limits)
    return most if path in LIMITED else None
