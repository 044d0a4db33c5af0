"""What the gateway does with requests beyond passing them on, as models.yaml says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Routing = Literal["prefix", "least_outstanding", "round_robin"]


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """What holds for one model at the gateway.

    Attributes:
        fallback: models that are asked, in order, when no replica of this one answers.
        routing: how to choose among its replicas; None is the gateway's way.
        max_tokens: longest answer that may be asked for, in tokens.
        max_prompt_tokens: longest prompt, as estimated.
    """

    fallback: tuple[str, ...] = ()
    routing: Routing | None = None
    max_tokens: int | None = None
    max_prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Sends requests that look so to another model; all that is said must hold.

    Attributes:
        use: the model that gets them.
        models: names that were asked for; empty is any.
        keys: names of keys; empty is any.
        headers: values of headers, by lower-case name.
        prompt_tokens_over: the estimate of the prompt is larger.
        max_tokens_over: a longer answer is allowed.
    """

    use: str
    models: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    prompt_tokens_over: int | None = None
    max_tokens_over: int | None = None


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """How much the gateway remembers of answers that are sure to come again."""

    mib: int = 64
    ttl_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class RedactPolicy:
    """What is taken out of prompts, and of answers.

    Attributes:
        kinds: known kinds of personal data.
        patterns: further regular expressions, by the name that stands in their place.
        answers: also what models say.
    """

    kinds: tuple[str, ...] = ()
    patterns: Mapping[str, str] = field(default_factory=dict)
    answers: bool = False


@dataclass(frozen=True, slots=True)
class GatewayPolicy:
    """All of it.

    Attributes:
        aliases: other names of models.
        rules: the first that fits decides.
        routing: how to choose among replicas.
        cors: origins whose pages may ask; "*" is all.
        anonymous: requests without a key are served, on loopback and Unix sockets only.
        models: by name; one that is missing has the defaults.
    """

    aliases: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    routing: Routing = "prefix"
    cors: tuple[str, ...] = ()
    cache: CachePolicy | None = None
    redact: RedactPolicy | None = None
    anonymous: bool = False
    models: Mapping[str, ModelPolicy] = field(default_factory=dict)
