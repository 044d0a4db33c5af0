"""The schema of the gateway's part of models.yaml, and its cross-checks."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from hpc.config.fields import Alias, KeyName, Strict, one_or_many
from hpc.gateway_policy import RedactKind, Routing  # noqa: TC001 - pydantic reads them

_HEADER = re.compile(r"[a-z0-9][a-z0-9_-]*")
_ORIGIN = re.compile(r"\*|https?://[^\s/,]+")
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
CONDITIONS = ("models", "keys", "headers", "prompt_tokens_over", "max_tokens_over")


def _check_header(name: str) -> str:
    lower = name.lower()
    if not _HEADER.fullmatch(lower):
        raise ValueError(f"{name!r} is not the name of a header; allowed: letters, digits, '-'")
    # The value would be a client's key, in a file that is not closed to others.
    if lower == "authorization":
        raise ValueError("name a key under 'keys'; its text does not belong into a file")
    return lower


def _check_value(text: str) -> str:
    # HTTP strips blanks around a value: a rule with such blanks would never match.
    if not (text.isascii() and (text.isprintable() or not text)) or text != text.strip():
        raise ValueError(f"{text!r} is not a value of a header")
    return text


def _check_origin(text: str) -> str:
    if not _ORIGIN.fullmatch(text):
        raise ValueError(f"{text!r} is not an origin; allowed: such as https://lab.example, or '*'")
    return text


def _check_label(name: str) -> str:
    if not _LABEL.fullmatch(name):
        raise ValueError(f"{name!r} needs a letter, then up to 31 letters, digits, '-' or '_'")
    return name


def _check_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from error
    return text


Header = Annotated[str, AfterValidator(_check_header)]
Value = Annotated[str, AfterValidator(_check_value)]
Origin = Annotated[str, AfterValidator(_check_origin)]
Label = Annotated[str, AfterValidator(_check_label)]
Pattern = Annotated[str, AfterValidator(_check_pattern)]


Aliases = Annotated[list[Alias], BeforeValidator(one_or_many)]
KeyNames = Annotated[list[KeyName], BeforeValidator(one_or_many)]


class RuleEntry(Strict):
    """An entry of gateway.rules: conditions, and the model for the requests that meet all."""

    use: Alias = Field(description="model that gets the matching requests")
    models: Aliases = Field(
        default_factory=list, description="requested model names, or the models behind these names"
    )
    keys: KeyNames = Field(default_factory=list, description="names of client keys")
    headers: dict[Header, Value] = Field(
        default_factory=dict, description='required header values; "" accepts any value'
    )
    prompt_tokens_over: int | None = Field(
        None, ge=0, description="matches prompts of more tokens, 4 bytes of text each"
    )
    max_tokens_over: int | None = Field(None, ge=0, description="matches requests for more tokens")

    @model_validator(mode="after")
    def _has_condition(self) -> RuleEntry:
        if not any(getattr(self, key) not in (None, [], {}) for key in CONDITIONS):
            raise ValueError(f"a rule needs a condition: one of {', '.join(CONDITIONS)}")
        return self


class CacheEntry(Strict):
    """The response cache, for requests with repeatable answers."""

    mib: int = Field(64, ge=1, le=65536, description="memory of the cache, in MiB")
    ttl: int = Field(3600, ge=1, description="seconds until a cached answer expires")
    vectors: bool = Field(default=True, description="cache embeddings and rankings too")


class RedactEntry(Strict):
    """The redaction of personal data and secrets in prompts and answers."""

    kinds: list[RedactKind] = Field(
        default_factory=list, description="built-in kinds of data, recognised by form and checksum"
    )
    patterns: dict[Label, Pattern] = Field(
        default_factory=dict, description="regular expressions by label; the label replaces a match"
    )
    answers: bool = Field(default=False, description="redact answers too")

    @model_validator(mode="after")
    def _has_one(self) -> RedactEntry:
        if not self.kinds and not self.patterns:
            raise ValueError("name what to hide, under 'kinds' or 'patterns'")
        return self


class GatewayEntry(Strict):
    """The gateway's settings in models.yaml, beside the models."""

    aliases: dict[Alias, Alias] = Field(
        default_factory=dict, description="further model names, each with the model behind the name"
    )
    rules: list[RuleEntry] = Field(
        default_factory=list, description="routing rules (see below); the first match decides"
    )
    routing: Routing = Field("prefix", description="how a replica is chosen for a request")
    cors: list[Origin] = Field(
        default_factory=list, description="web origins that may call the gateway; '*' is all"
    )
    cache: CacheEntry | None = Field(None, description="response cache (see below); default: none")
    redact: RedactEntry | None = Field(None, description="redaction (see below); none by default")
    anonymous: bool = Field(
        default=False, description="serve without a key, on loopback and Unix sockets only"
    )
    body_mib: int = Field(8, ge=1, le=64, description="largest request, in MiB; more for images")
    batch_file_mib: int = Field(
        512, ge=0, le=65536, description="largest file for batches, in MiB; 0 serves no batches"
    )
    batch_files: int = Field(1000, ge=1, le=100_000, description="most stored files of a key")
    open_batches: int = Field(
        100, ge=1, le=10_000, description="most batches of a key that are not over"
    )

    @model_validator(mode="after")
    def _closed_to_all_pages(self) -> GatewayEntry:
        if self.anonymous and "*" in self.cors:
            raise ValueError(
                "anonymous: true with cors: ['*'] would let every web page of a user's browser use"
                " the gateway; name the pages' origins, such as https://lab.example"
            )
        return self
