"""How long a prompt and its answer may be, by key and by model."""

from __future__ import annotations

from typing import Protocol

from gateway_lite import errors

LIMITED = ("/v1/chat/completions", "/v1/completions")
"""Paths whose requests say how long the answer may be in ``max_tokens``."""


class Ceilings(Protocol):
    """What limits lengths, in tokens: a key's limits, or a model's policy."""

    @property
    def max_tokens(self) -> int | None:
        """Longest answer."""

    @property
    def max_prompt_tokens(self) -> int | None:
        """Longest prompt."""


def check(prompt: int, answer: int | None, *ceilings: Ceilings | None) -> int | None:
    """Return how long the answer may be, where the request does not say it and a ceiling does.

    Args:
        prompt: estimated tokens of the prompt.
        answer: tokens that the request allows its answer; None where it does not say.
        ceilings: those that hold; None limits nothing.

    Raises:
        ApiError: prompt or answer may not be that long.
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
    """Return the ``max_tokens`` that a request needs and does not have, or None.

    Args:
        path: of OpenAI's API.
        prompt: estimated tokens of the prompt.
        answer: tokens that the request allows its answer; None where it does not say.
        own: the model's policy, or None.
        limits: the key's, or None.

    Raises:
        ApiError: prompt or answer may not be that long.
    """
    if own is None and (
        limits is None or (limits.max_tokens is None and limits.max_prompt_tokens is None)
    ):
        return None
    most = check(prompt, answer, own, limits)
    return most if path in LIMITED else None
