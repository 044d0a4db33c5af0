"""The gateway's descriptions of itself and of its models. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpc import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from gateway_lite.catalog.scanner import Catalog, Model
    from hpc.model import Reload


def version(
    catalog: Catalog,
    outcome: Reload,
    *,
    digest: str,
    path: Path | None,
    allows: Callable[[str], bool],
) -> dict[str, Any]:
    """Return the running version, the configuration in force, and the server of each model.

    Args:
        catalog: the known models.
        outcome: outcome of the last read of models.yaml.
        digest: digest of the configuration in force.
        path: path of models.yaml; users need not learn its folder.
        allows: returns whether the requesting key may use a model.
    """
    refused = outcome.refused
    if refused is not None and path is not None:
        refused = refused.replace(f"{path.parent}/", "")
    return {
        "name": "hpc-serve",
        "version": __version__,
        "config": digest,
        "models_file": {
            "taken_at": outcome.taken_at,
            "refused": refused,
            "refused_at": outcome.refused_at,
        },
        "models": {
            model.name: {
                "engine": model.engine,
                "revision": model.revision,
                "phase": model.phase.value,
                "jobs": [one.job_id for one in model.members if one.job_id is not None],
            }
            for model in catalog.models.values()
            if allows(model.name)
        },
    }


def listing(
    catalog: Catalog, aliases: Mapping[str, str], *, created: int, allows: Callable[[str], bool]
) -> dict[str, Any]:
    """Return OpenAI's list of the models that a key may use, with their aliases.

    Args:
        catalog: the known models.
        aliases: model by alias.
        created: Unix time given for all models.
        allows: returns whether the requesting key may use a name.
    """
    names = {name: name for name in catalog.models} | {
        alias: name for alias, name in aliases.items() if name in catalog.models
    }
    data = [
        described(catalog.models[model], name, created=created)
        for name, model in names.items()
        if allows(name) or allows(model)
    ]
    return {"object": "list", "data": data}


def described(model: Model, name: str, *, created: int) -> dict[str, Any]:
    """Return OpenAI's description of a model.

    Args:
        model: the model.
        name: the model's own name, or an alias.
        created: Unix time given for the model.
    """
    alias = {} if name == model.name else {"alias_of": model.name}
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "hpc-serve",
        **alias,
        "phase": model.phase.value,
        "replicas": {"ready": len(model.replicas), "asked": model.asked},
    }
