"""The gateway's policy, made from the entries of models.yaml."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc.gateway_policy import CachePolicy, GatewayPolicy, ModelPolicy, ModelRule, RedactPolicy

if TYPE_CHECKING:
    from hpc.config.gateway_schema import CacheEntry, RedactEntry, RuleEntry
    from hpc.config.schema import ModelEntry, ModelsFileSchema


def resolved(file: ModelsFileSchema) -> GatewayPolicy:
    """Return the gateway's policy from a validated models.yaml."""
    said = file.gateway
    every = {entry.name: _model(entry) for entry in file.models}
    return GatewayPolicy(
        aliases=said.aliases,
        rules=tuple(_rule(entry) for entry in said.rules),
        routing=said.routing,
        cors=tuple(said.cors),
        cache=_cache(said.cache),
        redact=_redact(said.redact),
        anonymous=said.anonymous,
        body_mib=said.body_mib,
        batch_file_mib=said.batch_file_mib,
        batch_files=said.batch_files,
        open_batches=said.open_batches,
        models={name: policy for name, policy in every.items() if policy != ModelPolicy()},
    )


def _model(entry: ModelEntry) -> ModelPolicy:
    return ModelPolicy(
        fallback=tuple(entry.fallback),
        routing=entry.routing,
        max_tokens=entry.max_tokens,
        max_prompt_tokens=entry.max_prompt_tokens,
    )


def _rule(entry: RuleEntry) -> ModelRule:
    return ModelRule(
        use=entry.use,
        models=tuple(entry.models),
        keys=tuple(entry.keys),
        headers=entry.headers,
        prompt_tokens_over=entry.prompt_tokens_over,
        max_tokens_over=entry.max_tokens_over,
    )


def _cache(entry: CacheEntry | None) -> CachePolicy | None:
    return None if entry is None else CachePolicy(entry.mib, float(entry.ttl), entry.vectors)


def _redact(entry: RedactEntry | None) -> RedactPolicy | None:
    if entry is None:
        return None
    return RedactPolicy(tuple(entry.kinds), entry.patterns, entry.answers)
