"""The word of engines on themselves: whether they serve, under which names, with which context."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from gateway_lite.wire import response_head
from hpc.model import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway_lite.catalog.models import Catalog, Model
    from gateway_lite.catalog.replica import Replica
    from gateway_lite.upstream.fetch import FetchedAnswer

MODELS = "/v1/models"
PROPS = "/props"
"""llama.cpp's path with the context that is really served."""
REDIRECTS = range(300, 400)
FAILED = 400
UNAUTHORIZED = frozenset({401, 403})
NOT_FOUND = frozenset({404, 405, 501})
UNAVAILABLE = 503
BROKEN = 500
LONGEST_NAME = 256
MOST_MODELS = 1000
LARGEST = 2**31
UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model in the list of an engine.

    Attributes:
        name: the model's name at the engine.
        root: the model behind the name; several names may have one.
        context: longest prompt and answer together, in tokens, or None.
        trained: the context of the weights, which the served one may fall short of, or None.
    """

    name: str
    root: str
    context: int | None = None
    trained: int | None = None


@dataclass(frozen=True, slots=True)
class EngineReport:
    """The last word of one engine.

    Attributes:
        phase: READY while the engine answers, LOADING while it answers 503, else FAILED.
        reason: the reason for which the engine is not ready, or empty.
        models: the models that the engine lists; empty if it lists none.
    """

    phase: Phase
    reason: str = ""
    models: tuple[ServedModel, ...] = ()


UNASKED = EngineReport(Phase.STARTING, "not asked yet")
UNWATCHED = EngineReport(Phase.READY)
"""The report of a server that is never asked."""


class _Meta(msgspec.Struct):
    n_ctx: Any = None
    n_ctx_train: Any = None


class _Entry(msgspec.Struct):
    id: str = ""
    root: Any = None
    parent: Any = None
    max_model_len: Any = None
    context_length: Any = None
    context_window: Any = None
    meta: Any = None


class _List(msgspec.Struct):
    data: list[_Entry] = []


class _Generation(msgspec.Struct):
    n_ctx: Any = None


class _Props(msgspec.Struct):
    default_generation_settings: _Generation | None = None


def models_of(body: bytes) -> tuple[ServedModel, ...]:
    """Return the models of an engine's list, without adapters; an unreadable list has none."""
    try:
        entries = msgspec.json.decode(body, type=_List).data[:MOST_MODELS]
    except UNREADABLE:
        return ()
    return tuple(_served(each) for each in entries if each.parent is None and _is_name(each.id))


def _is_name(text: str) -> bool:
    return 0 < len(text) <= LONGEST_NAME and text.isprintable()


def _served(entry: _Entry) -> ServedModel:
    meta = entry.meta if isinstance(entry.meta, dict) else {}
    said = (entry.max_model_len, entry.context_length, entry.context_window, meta.get("n_ctx"))
    context = next(filter(None, map(_tokens, said)), None)
    root = entry.root if isinstance(entry.root, str) else entry.id
    return ServedModel(entry.id, root, context, _tokens(meta.get("n_ctx_train")))


def _tokens(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < LARGEST else None


def context_in_props(body: bytes) -> int | None:
    """Return the context of one slot that llama.cpp's properties name, or None."""
    try:
        found = msgspec.json.decode(body, type=_Props).default_generation_settings
    except UNREADABLE:
        return None
    return None if found is None else _tokens(found.n_ctx)


def judged(answer: FetchedAnswer, path: str) -> EngineReport:
    """Return the report of a server that has answered.

    Args:
        answer: the answer to a GET of ``path``.
        path: the path at which the server is asked whether it serves.
    """
    status = answer.status
    if status in REDIRECTS:
        return EngineReport(Phase.FAILED, response_head.redirected(status, answer.headers))
    if status in UNAUTHORIZED:
        return EngineReport(Phase.FAILED, f"answers {status}: its key (api_key_env) is refused")
    if status == UNAVAILABLE:
        return EngineReport(Phase.LOADING, f"answers {status} at {path}")
    # A server without a list of models may serve all the same; one without the path that
    # models.yaml names does not.
    if status >= BROKEN or (status >= FAILED and not (path == MODELS and status in NOT_FOUND)):
        return EngineReport(Phase.FAILED, f"answers {status} at {path}")
    return EngineReport(Phase.READY, models=models_of(answer.body) if path == MODELS else ())


def served_name(name: str, models: tuple[ServedModel, ...]) -> str | None:
    """Return the name of a model at a server that lists models, or None for the same name.

    A server with a single model, under one or several names, serves that model; of several models
    none is guessed.

    Args:
        name: the model's name at the gateway.
        models: the models that the server lists.
    """
    if not models or any(each.name == name for each in models):
        return None
    return models[0].name if len({each.root for each in models}) == 1 else None


def context_of(name: str, models: tuple[ServedModel, ...]) -> int | None:
    """Return the context of a model in an engine's list, or None if unknown.

    Args:
        name: the model's name at the engine.
        models: the models that the engine lists.
    """
    named = [each for each in models if each.name == name]
    chosen = named or (models if len({each.root for each in models}) == 1 else ())
    found = [each.context or each.trained for each in chosen]
    return found[0] if found else None


def informed(catalog: Catalog, reports: Mapping[str, EngineReport]) -> Catalog:
    """Return a catalog with the word of its engines.

    Args:
        catalog: the catalog of the state directory and models.yaml.
        reports: last reports by key of the replica.
    """
    found = {name: _informed(model, reports) for name, model in catalog.models.items()}
    return replace(catalog, models=found)


def _informed(model: Model, reports: Mapping[str, EngineReport]) -> Model:
    told = {replica.key: _report(replica, reports) for replica in (*model.static, *model.replicas)}
    static = tuple(_named(model, each, told[each.key]) for each in model.static)
    up = tuple(each for each in static if told[each.key].phase is Phase.READY)
    own = tuple(each for each in model.replicas if each.secret is not None)
    contexts = [context_of(each.model or model.name, told[each.key].models) for each in (*up, *own)]
    known = [each for each in contexts if each is not None]
    phases = tuple(told[each.key].phase for each in static)
    return model.with_word(
        # A server that came back since the last question serves at once: without any other it is
        # asked all the same.
        replicas=(*up, *own) or static,
        static=static,
        phases=phases,
        context=min(known, default=None),
    )


def _report(replica: Replica, reports: Mapping[str, EngineReport]) -> EngineReport:
    if replica.secret is None and replica.health is None:
        return UNWATCHED
    return reports.get(replica.key, UNASKED)


def _named(model: Model, replica: Replica, report: EngineReport) -> Replica:
    """Return a static server with the model's name there."""
    return (
        replica if replica.model else replace(replica, model=served_name(model.name, report.models))
    )
