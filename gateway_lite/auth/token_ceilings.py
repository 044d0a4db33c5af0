"""Ceilings of prompts and answers, and the length that a request gets under them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway_lite import errors
from hpc.api_paths import PICTURES

if TYPE_CHECKING:
    from hpc.keys.limits import KeyLimits

UNSAID_TOKENS = 4096
"""Length of an answer for a key with token limits, where neither request nor ceiling says one."""

PICTURE_TOKENS = 4096
"""Tokens of an image that an engine makes, where the engine's answer has no count."""
MOST_PICTURES = 2**20


class Ceilings(Protocol):
    """Length limits in tokens: of a key, or of a model's policy."""

    @property
    def max_tokens(self) -> int | None:
        """Most tokens of a request's answers."""

    @property
    def max_prompt_tokens(self) -> int | None:
        """Most tokens of a request's prompts."""


def hold(ceilings: Ceilings | None) -> bool:
    """Return whether any length is limited."""
    return ceilings is not None and not (
        ceilings.max_tokens is None and ceilings.max_prompt_tokens is None
    )


def counts(limits: KeyLimits | None) -> bool:
    """Return whether a key's tokens are limited, per minute, per day or in all."""
    return limits is not None and not (
        limits.tpm is None and limits.daily_tokens is None and limits.total_tokens is None
    )


def check_prompt(prompt: int, *ceilings: Ceilings | None) -> None:
    """Check the length of a request's prompts.

    Args:
        prompt: estimated tokens of all prompts.
        ceilings: the ceilings to apply; None limits nothing.

    Raises:
        ApiError: the prompts exceed a ceiling.
    """
    for one in ceilings:
        most = None if one is None else one.max_prompt_tokens
        if most is not None and prompt > most:
            raise errors.ApiError(
                400,
                f"the prompt of about {prompt} tokens is longer than the {most} allowed here",
                code="context_length_exceeded",
                param="messages",
            )


def pictures(path: str, count: int) -> int:
    """Return the tokens that the answers of an image request count as; 0 for other paths."""
    return PICTURE_TOKENS * min(count, MOST_PICTURES) if path in PICTURES else 0


def lowest(*ceilings: Ceilings | None) -> int | None:
    """Return the lowest ceiling of answers, or None."""
    found = [one.max_tokens for one in ceilings if one is not None and one.max_tokens is not None]
    return min(found, default=None)


def answer_length(asked: int | None, answers: int, ceiling: int | None, room: int | None) -> int:
    """Return the most tokens of each answer.

    Args:
        asked: tokens of each answer that the request asks for, or None.
        answers: number of answers that the request asks for.
        ceiling: most tokens of all answers, or None.
        room: tokens that the key's limits leave for answers; None without limits of tokens.

    Raises:
        ApiError: the request asks for more than the ceiling.
    """
    if ceiling is not None and (asked or 1) * answers > ceiling:
        raise _too_much(asked, answers, ceiling)
    if asked is not None:
        return asked
    each = UNSAID_TOKENS if ceiling is None else ceiling // answers
    # What the engine may do is what the budget holds back: no two answers share the same rest.
    return each if room is None else max(1, min(each, room // answers))


def _too_much(asked: int | None, answers: int, ceiling: int) -> errors.ApiError:
    if answers == 1:
        return errors.bad_request(
            f"max_tokens is {asked}, and at most {ceiling} are allowed here", param="max_tokens"
        )
    return errors.bad_request(
        f"{answers} answers of {asked or 1} tokens are asked for, and at most {ceiling} tokens are"
        " allowed here together",
        param="n" if asked is None else "max_tokens",
    )
