"""What a gateway is told beside where its models are: frozen values without behaviour or I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Routing = Literal["prefix", "least_outstanding", "round_robin"]
RedactKind = Literal["email", "iban", "card", "phone", "ip", "key"]


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """What holds for requests to one model.

    Attributes:
        fallback: models that are tried in order while this one cannot serve.
        routing: how a replica is chosen; None is the gateway's way.
        max_tokens: most tokens that a request may ask for, or None.
        max_prompt_tokens: most tokens that a prompt may have, by estimate, or None.
    """

    fallback: tuple[str, ...] = ()
    routing: Routing | None = None
    max_tokens: int | None = None
    max_prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Sends requests with certain features to a model; all that is said must hold.

    Attributes:
        use: the model that gets them.
        models: names asked for, or models that those stand for; none is any known one.
        keys: names of keys; none is any.
        headers: values of headers by lower-case name; "" asks only that it is there.
        prompt_tokens_over: the prompt has more tokens than this, by estimate.
        max_tokens_over: the request asks for more tokens than this.
    """

    use: str
    models: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    prompt_tokens_over: int | None = None
    max_tokens_over: int | None = None


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """How much of deterministic answers is kept.

    Attributes:
        mib: memory for it, in MiB.
        ttl_s: seconds that an answer stays good.
        vectors: keep embeddings and rankings too.
    """

    mib: int = 64
    ttl_s: float = 3600.0
    vectors: bool = True


@dataclass(frozen=True, slots=True)
class RedactPolicy:
    """What is taken out of texts.

    Attributes:
        kinds: what is known by form and checksum.
        patterns: further regular expressions, by the name that stands in their place.
        answers: take it out of answers too.
    """

    kinds: tuple[RedactKind, ...] = ()
    patterns: Mapping[str, str] = field(default_factory=dict)
    answers: bool = False


@dataclass(frozen=True, slots=True)
class GatewayPolicy:
    """All that models.yaml says of requests.

    Attributes:
        aliases: further names of models, each with the model that it stands for.
        rules: asked in order; the first that fits decides.
        routing: how a replica is chosen where a model says nothing.
        cors: origins of web pages that may call, such as ``https://lab.example``; "*" is all.
        cache: None keeps no answers.
        redact: None leaves texts alone.
        anonymous: serve without a key, on loopback and Unix sockets only.
        batch_file_mib: largest file that a client may keep here for batches, in MiB; 0 serves none.
        models: what holds for single models, by name; those without an entry have no limits.
    """

    aliases: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    routing: Routing = "prefix"
    cors: tuple[str, ...] = ()
    cache: CachePolicy | None = None
    redact: RedactPolicy | None = None
    anonymous: bool = False
    batch_file_mib: int = 512
    models: Mapping[str, ModelPolicy] = field(default_factory=dict)
