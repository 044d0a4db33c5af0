"""The gateway's policy for requests: frozen values without behaviour or I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Routing = Literal["prefix", "least_outstanding", "round_robin"]
RedactKind = Literal["email", "iban", "card", "phone", "ip", "key"]


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """The policy for requests to a model.

    Attributes:
        fallback: models to try in order while this one cannot serve.
        routing: choice of a replica; None is the gateway's setting.
        max_tokens: most tokens that a request may ask for, or None.
        max_prompt_tokens: most tokens of a prompt, by estimate, or None.
    """

    fallback: tuple[str, ...] = ()
    routing: Routing | None = None
    max_tokens: int | None = None
    max_prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ModelRule:
    """A routing rule: requests that meet all conditions go to a model.

    Attributes:
        use: the model that gets matching requests.
        models: requested names, or the models behind these names; empty matches any known name.
        keys: names of client keys; empty matches any.
        headers: required header values by lower-case name; "" accepts any value.
        prompt_tokens_over: matches prompts of more tokens, by estimate.
        max_tokens_over: matches requests for more tokens.
    """

    use: str
    models: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    prompt_tokens_over: int | None = None
    max_tokens_over: int | None = None


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """The response cache for deterministic answers.

    Attributes:
        mib: memory of the cache, in MiB.
        ttl_s: seconds until an answer expires.
        vectors: cache embeddings and rankings too.
    """

    mib: int = 64
    ttl_s: float = 3600.0
    vectors: bool = True


@dataclass(frozen=True, slots=True)
class RedactPolicy:
    """The redaction of texts.

    Attributes:
        kinds: built-in kinds of data, recognised by form and checksum.
        patterns: further regular expressions by label; the label replaces a match.
        answers: redact answers too.
    """

    kinds: tuple[RedactKind, ...] = ()
    patterns: Mapping[str, str] = field(default_factory=dict)
    answers: bool = False


@dataclass(frozen=True, slots=True)
class GatewayPolicy:
    """The complete policy for requests, from models.yaml.

    Attributes:
        aliases: further model names, each with the model behind the name.
        rules: routing rules in order; the first match decides.
        routing: choice of a replica for models without their own setting.
        cors: web origins that may call, such as ``https://lab.example``; "*" is all.
        cache: response cache; None caches nothing.
        redact: redaction; None changes nothing.
        anonymous: serve without a key, on loopback and Unix sockets only.
        body_mib: largest body of a request, in MiB; bodies in progress together have 8 times that.
        batch_file_mib: largest uploaded batch file, in MiB; 0 serves no batches.
        batch_files: most stored files of a key.
        open_batches: most batches of a key that are not over.
        models: policies of single models, by name; other models have no limits.
    """

    aliases: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[ModelRule, ...] = ()
    routing: Routing = "prefix"
    cors: tuple[str, ...] = ()
    cache: CachePolicy | None = None
    redact: RedactPolicy | None = None
    anonymous: bool = False
    body_mib: int = 8
    batch_file_mib: int = 512
    batch_files: int = 1000
    open_batches: int = 100
    models: Mapping[str, ModelPolicy] = field(default_factory=dict)
