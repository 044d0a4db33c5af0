"""The shape of models.yaml's ``gateway`` section, and what it means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from hpc.policy import CachePolicy, GatewayPolicy, ModelPolicy, RedactPolicy, Routing, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hpc.config.schema import ModelEntry

KINDS = ("email", "iban", "card", "phone", "ip", "key")
_ORIGIN = re.compile(r"\*|https?://[^\s/]+")


def _known_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of data; allowed: {', '.join(KINDS)}")
    return kind


def _origin(text: str) -> str:
    if not _ORIGIN.fullmatch(text):
        raise ValueError(f"{text!r} is not an origin such as https://host, or '*'")
    return text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class When(_Strict):
    """What a request must look like for a rule."""

    model: list[str] = Field(default_factory=list, description="models that are asked for")
    key: list[str] = Field(default_factory=list, description="names of keys")
    header: dict[str, str] = Field(default_factory=dict, description="headers and their values")
    prompt_tokens_over: int | None = Field(
        None, ge=0, description="the prompt is longer, as estimated from its bytes"
    )
    max_tokens_over: int | None = Field(None, ge=0, description="a longer answer is allowed")

    @model_validator(mode="after")
    def _something(self) -> When:
        if not self.model_fields_set:
            raise ValueError("a rule needs a condition; without one, use an alias")
        return self


class RuleEntry(_Strict):
    """One rule of the gateway."""

    when: When = Field(description="conditions, all of which must hold")
    use: str = Field(min_length=1, description="model that gets the request")


class CacheEntry(_Strict):
    """The memory of answers that are sure to come again."""

    mib: int = Field(64, ge=1, le=4096, description="MiB of all answers together")
    ttl: float = Field(3600, gt=0, description="seconds until an answer is forgotten")


class RedactEntry(_Strict):
    """What is hidden before a prompt leaves the gateway."""

    kinds: list[Annotated[str, AfterValidator(_known_kind)]] = Field(
        default_factory=list, description="kinds of personal data: " + ", ".join(KINDS)
    )
    patterns: dict[str, str] = Field(
        default_factory=dict, description="further regular expressions, by name"
    )
    answers: bool = Field(default=False, description="hide them in answers, too")


class GatewayEntry(_Strict):
    """How the gateway treats requests."""

    aliases: dict[str, str] = Field(default_factory=dict, description="other names of models")
    rules: list[RuleEntry] = Field(
        default_factory=list, description="rules that send requests to another model"
    )
    routing: Routing = Field("prefix", description="how to choose among replicas")
    cors: list[Annotated[str, AfterValidator(_origin)]] = Field(
        default_factory=list, description="origins of web pages that may ask"
    )
    cache: CacheEntry | None = Field(None, description="memory of deterministic answers")
    redact: RedactEntry | None = Field(None, description="personal data to hide")
    anonymous: bool = Field(
        default=False, description="serve requests without a key, on loopback and sockets only"
    )


def check(entry: GatewayEntry, models: Iterable[ModelEntry]) -> None:
    """Hold the section to the models of its file.

    Names may also be those of services that were submitted otherwise, so that an unknown one is no
    error here.

    Raises:
        ValueError: an alias hides a model, or models fall back on each other in a circle.
    """
    entries = list(models)
    names = {one.name for one in entries}
    hidden = sorted(names & entry.aliases.keys())
    if hidden:
        raise ValueError(f"the alias {hidden[0]!r} is the name of a model, too")
    chained = sorted(entry.aliases.keys() & set(entry.aliases.values()))
    if chained:
        raise ValueError(f"the alias {chained[0]!r} is the target of another one")
    falls = {one.name: one.fallback or [] for one in entries}
    for name, targets in falls.items():
        if name in targets:
            raise ValueError(f"the model {name!r} falls back on itself")


def policy(entry: GatewayEntry, models: Iterable[ModelEntry]) -> GatewayPolicy:
    """Return what the section and the models' own keys mean."""
    own = {
        one.name: ModelPolicy(
            tuple(one.fallback or ()), one.routing, one.max_tokens, one.max_prompt_tokens
        )
        for one in models
    }
    cache, redact = entry.cache, entry.redact
    return GatewayPolicy(
        aliases=entry.aliases,
        rules=tuple(_rule(one) for one in entry.rules),
        routing=entry.routing,
        cors=tuple(entry.cors),
        cache=None if cache is None else CachePolicy(cache.mib, cache.ttl),
        redact=None
        if redact is None
        else RedactPolicy(tuple(redact.kinds), redact.patterns, redact.answers),
        anonymous=entry.anonymous,
        models={name: one for name, one in own.items() if one != ModelPolicy()},
    )


def _rule(entry: RuleEntry) -> Rule:
    when = entry.when
    return Rule(
        use=entry.use,
        models=tuple(when.model),
        keys=tuple(when.key),
        headers={name.lower(): value for name, value in when.header.items()},
        prompt_tokens_over=when.prompt_tokens_over,
        max_tokens_over=when.max_tokens_over,
    )
