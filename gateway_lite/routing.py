"""Which model a request goes to: aliases, rules, fallbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway_lite.errors import bad_request
from hpc.policy import ModelPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpc.policy import GatewayPolicy, Rule

PLAIN = ModelPolicy()
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def resolve(
    policy: GatewayPolicy,
    model: str,
    *,
    key: str,
    headers: Mapping[bytes, bytes],
    prompt_tokens: int,
    max_tokens: int | None,
) -> tuple[str, ...]:
    """Return the models to ask, in order.

    Args:
        policy: what models.yaml says.
        model: what the client asked for.
        key: name of its key.
        headers: of the request, with lower-case names.
        prompt_tokens: estimate of its prompt.
        max_tokens: the longest answer that it allows, or None.
    """
    first = policy.aliases.get(model, model) if policy.aliases else model
    for rule in policy.rules:
        if _fits(rule, (model, first), key, headers, prompt_tokens, max_tokens):
            first = rule.use
            break
    own = policy.models.get(first)
    if own is None or not own.fallback:
        return (first,)
    return tuple(dict.fromkeys((first, *own.fallback)))


def _fits(
    rule: Rule,
    asked: tuple[str, str],
    key: str,
    headers: Mapping[bytes, bytes],
    prompt_tokens: int,
    max_tokens: int | None,
) -> bool:
    if rule.models and not any(name in rule.models for name in asked):
        return False
    if rule.keys and key not in rule.keys:
        return False
    if rule.prompt_tokens_over is not None and prompt_tokens <= rule.prompt_tokens_over:
        return False
    over = rule.max_tokens_over
    if over is not None and (max_tokens is None or max_tokens <= over):
        return False
    return all(headers.get(name.encode()) == value.encode() for name, value in rule.headers.items())


def own_policy(policy: GatewayPolicy, model: str) -> ModelPolicy:
    """Return what holds for a model."""
    return policy.models.get(model, PLAIN)


def with_fields(body: bytes, **fields: object) -> bytes:
    """Return a request with some of its fields set, and all others as they stand.

    Args:
        body: a JSON object.
        fields: new values.

    Raises:
        ApiError: it is no JSON object.
    """
    try:
        found: dict[str, object] = dict(_FIELDS.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request("the request is not valid JSON") from error
    return msgspec.json.encode({**found, **fields})
