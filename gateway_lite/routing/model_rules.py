"""Model routing: aliases, rules and fallbacks, precomputed as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from gateway_lite import errors
from hpc.gateway_policy import ModelPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from hpc.gateway_policy import GatewayPolicy, ModelRule, Routing

NOTHING = ModelPolicy()
LATEST = ":latest"
"""The tag that Ollama's clients add to a name without one."""
_BODY = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class _Condition:
    """A routing rule with names, keys and headers in the form of requests."""

    use: str
    models: frozenset[str]
    keys: frozenset[str]
    headers: tuple[tuple[bytes, bytes], ...]
    prompt: int
    answer: int

    def fits(self, key: str, headers: Mapping[bytes, bytes], prompt: int, answer: int) -> bool:
        if prompt <= self.prompt or answer <= self.answer:
            return False
        if self.keys and key not in self.keys:
            return False
        for name, value in self.headers:
            found = headers.get(name)
            if found is None or (value and found != value):
                return False
        return True


class Table:
    """The routing table; built anew when the policy or the set of known models changes.

    Args:
        policy: the gateway policy of models.yaml.
        known: names of the known models.
        bases: the model behind each adapter, whose settings hold for the adapter too.

    Attributes:
        aliases: model by alias; an alias with the name of a known model is left out.
        policies: settings of single models.
        routing: replica policy by known model.
        rules: routing rules in order.
        chains: models to try in order, by the first model, where fallbacks exist.
        plain: True without aliases, rules and fallbacks.
    """

    __slots__ = ("aliases", "chains", "plain", "policies", "routing", "rules")

    def __init__(
        self,
        policy: GatewayPolicy,
        known: Collection[str],
        bases: Mapping[str, str] | None = None,
    ) -> None:
        self.aliases = {a: model for a, model in policy.aliases.items() if a not in known}
        behind = {a: policy.models[b] for a, b in (bases or {}).items() if b in policy.models}
        self.policies = {**behind, **policy.models}
        self.routing: dict[str, Routing] = {
            name: self.policies.get(name, NOTHING).routing or policy.routing for name in known
        }
        self.rules = tuple(self._condition(rule, known) for rule in policy.rules)
        self.chains: dict[str, tuple[str, ...]] = {}
        for name in self.policies:
            chain = tuple(model for model in self._reached(name) if model in known)
            if chain not in ((), (name,)):
                self.chains[name] = chain
        # Most gateways have no policy: one flag spares their requests the lookups below.
        self.plain = not (self.aliases or self.rules or self.chains)

    def untagged(self, name: str) -> str:
        """Return a name without Ollama's usual tag, unless the name with the tag is known."""
        if name in self.routing or name in self.aliases:
            return name
        return name.removesuffix(LATEST)

    def _condition(self, rule: ModelRule, known: Collection[str]) -> _Condition:
        return _Condition(
            use=self.aliases.get(rule.use, rule.use),
            models=frozenset(rule.models or (*known, *self.aliases)),
            keys=frozenset(rule.keys),
            headers=tuple((n.encode(), value.encode()) for n, value in rule.headers.items()),
            prompt=-1 if rule.prompt_tokens_over is None else rule.prompt_tokens_over,
            answer=-1 if rule.max_tokens_over is None else rule.max_tokens_over,
        )

    def _reached(self, name: str) -> list[str]:
        """Return a model, its fallbacks and the fallbacks of fallbacks, each once."""
        found = [name]
        for model in found:
            for other in self.policies.get(model, NOTHING).fallback:
                target = self.aliases.get(other, other)
                if target not in found:
                    found.append(target)
        return found


class Traits(msgspec.Struct, gc=False):
    """The properties of a request that rules test.

    Attributes:
        key: name of the client's key.
        headers: headers by lower-case name.
        prompt_tokens: estimated tokens of the prompt.
        max_tokens: most tokens of the answer that the request allows; None if not given.
    """

    key: str
    headers: Mapping[bytes, bytes]
    prompt_tokens: int
    max_tokens: int | None


def chosen(
    table: Table, allows: Callable[[str], bool], model: str, traits: Traits
) -> tuple[str, ...]:
    """Return the models to try, in order: the ``permitted`` models of ``resolve``.

    Raises:
        ApiError: the key may not use the first model.
    """
    if model.endswith(LATEST):
        model = table.untagged(model)
    if table.plain and allows(model):
        return (model,)
    return permitted(table, allows, model, resolve(table, model, traits))


def resolve(table: Table, model: str, traits: Traits) -> tuple[str, ...]:
    """Return the models to try, in order; only the first may be unknown.

    Args:
        table: the routing table.
        model: the requested name.
        traits: properties of the request.
    """
    if table.plain:
        return (model,)
    target = table.aliases.get(model, model)
    prompt, answer = traits.prompt_tokens, traits.max_tokens or 0
    for rule in table.rules:
        named = model in rule.models or target in rule.models
        if named and rule.fits(traits.key, traits.headers, prompt, answer):
            target = rule.use
            break
    chain = table.chains.get(target)
    if chain is None:
        return (target,)
    return (chain[0], *_fitting(table, chain[1:], prompt, answer))


def _fitting(
    table: Table, chain: tuple[str, ...], prompt_tokens: int, max_tokens: int
) -> Iterator[str]:
    """Yield the models whose ceilings admit the request."""
    for model in chain:
        own = table.policies.get(model, NOTHING)
        most, longest = own.max_prompt_tokens, own.max_tokens
        if (most is None or prompt_tokens <= most) and (longest is None or max_tokens <= longest):
            yield model


def permitted(
    table: Table, allows: Callable[[str], bool], model: str, models: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the models that a key may use.

    A key may use a model if the key may use the model's name, or an alias that the request names. A
    rule that leads to a forbidden model refuses the request; a forbidden fallback is left out.

    Args:
        table: the routing table.
        allows: returns whether the key may use a name.
        model: the requested name.
        models: result of ``resolve``.

    Raises:
        ApiError: the key may not use the first model.
    """
    first = models[0]
    if not (allows(first) or (table.aliases.get(model) == first and allows(model))):
        direct = table.aliases.get(model, model) == first
        raise errors.model_not_allowed(model if direct else first)
    if len(models) == 1:
        return models
    return (first, *filter(allows, models[1:]))


def session_of(headers: Mapping[bytes, bytes], user: object, cache_key: object) -> str | None:
    """Return the conversation's name given by a request, or None.

    Args:
        headers: headers by lower-case name; ``x-session-id`` wins.
        user: the body's ``user``.
        cache_key: the body's ``prompt_cache_key``, which wins over ``user``.
    """
    given = headers.get(b"x-session-id")
    if given:
        return given.decode("latin-1")
    named = cache_key or user
    return named if isinstance(named, str) and named else None


def with_fields(body: bytes, **fields: object) -> bytes:
    """Return a request with some top-level values set; other values stay byte for byte.

    Args:
        body: a JSON object.
        fields: new values.

    Raises:
        ApiError: the body is not a JSON object.
    """
    try:
        found: dict[str, object] = {**_BODY.decode(body), **fields}
        return _encode(found)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise errors.bad_request("the request is not valid JSON") from error
