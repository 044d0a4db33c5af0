"""The models.yaml in force: read again at each change, and kept if the new file is invalid.

All functions here block, as a shared file system may, and run in the watching thread; only the
outcome is read elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from gateway_lite.features import pipeline
from hpc import config
from hpc.errors import ConfigError, HpcServeError, StateError
from hpc.keys import store as key_store
from hpc.model import Reload

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from hpc.config import Backend, Config
    from hpc.gateway_policy import GatewayPolicy
    from hpc.keys.store import Stamp

log = logging.getLogger(__name__)
SETTLE_S = 0.4
"""Seconds without a change before a read, as editors empty a file before they write."""
RETRY_S = 2.0
"""Seconds between two reads of a refused file, as the cause may be in the site file."""
SETTINGS = "gateway settings"
"""The name of a changed policy beside the names of changed models; no model can have this name."""
SAYS_MODELS = re.compile(r"^[^#\n]*\bmodels\b", re.MULTILINE)


def compare(old: Mapping[str, object], new: Mapping[str, object]) -> Reload:
    """Return the added, removed and changed models between two reads."""
    return Reload(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(n for n in new.keys() & old.keys() if new[n] != old[n])),
    )


def by_jobs(
    change: Reload, resolved: Config, served: Collection[str], static: Collection[str]
) -> Reload:
    """Return a change with the models apart whose service depends on jobs, not on the file.

    Args:
        change: the change of the file.
        resolved: the new configuration.
        served: models in the catalog, before the change.
        static: models that the old file led to servers of somebody else.
    """
    still = tuple(name for name in change.removed if name in served and name not in static)
    unserved = (name for name in change.added if name in resolved.services and name not in served)
    waiting = tuple(unserved)
    return replace(
        change,
        added=tuple(name for name in change.added if name not in waiting),
        removed=tuple(name for name in change.removed if name not in still),
        still_served=still,
        not_submitted=waiting,
    )


def digest(resolved: Config) -> str:
    """Return a fingerprint of a configuration: 12 digits of a SHA-256.

    Engines' variables do not count, as they may hold secrets.
    """
    services = {name: replace(spec, env={}) for name, spec in resolved.services.items()}
    said = [services, resolved.backends, resolved.gateway]
    plain = json.dumps(said, default=asdict, sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()[:12]


class ModelsFile:
    """The models.yaml in force.

    Args:
        config: the configuration at the gateway's start.

    Raises:
        ConfigError: the configuration cannot come into force.

    Attributes:
        backends: static servers in force.
        policy: policy in force; replaced as a whole, before the outcome is.
        digest: fingerprint of policy and models.
        outcome: outcome of the last reads; replaced as a whole.
        taken: number of reads that changed the configuration.
        refused: number of refused reads, each reason once.
    """

    def __init__(self, config: Config) -> None:
        _check(config)
        self._home = config.home
        self._anonymous = config.gateway.anonymous
        self.path = config.models_file
        self._found = config.found
        self._known = _by_name(config)
        self._served: frozenset[str] = frozenset()
        self.backends: tuple[Backend, ...] = config.backends
        self.policy: GatewayPolicy = config.gateway
        self.digest = digest(config)
        now = time.time()
        self.outcome = Reload(read_at=now, taken_at=now)
        self.taken = self.refused = 0
        self._seen: Stamp | str = ""
        self._seen_at = 0.0
        self._read: Stamp | str = ""
        self._asked = False
        self._retry_at = 0.0

    def refresh(self, *, asked: bool = False) -> bool:
        """Read the file if it changed and has settled.

        Args:
            asked: True if the user declares the file complete and waits for the outcome.

        Returns:
            Whether the outcome is new.
        """
        self._asked = self._asked or asked
        began, before = time.time(), self.outcome
        found = self._look()
        if not self._due(found):
            return False
        verdict = self._judge(found)
        if self._look() != found:  # the file changed during the read
            return False
        if isinstance(verdict, str):
            self._refuse(verdict, began)
        else:
            self._take(verdict, began)
        self._read, self._asked = found, False
        self._retry_at = time.monotonic() + RETRY_S
        return self.outcome is not before

    def _due(self, found: Stamp | str) -> bool:
        """Return whether to read now: at once on request, else once the file has settled."""
        now = time.monotonic()
        if found != self._seen:
            self._seen, self._seen_at = found, now
        if now - self._seen_at < SETTLE_S and not self._asked:
            return False
        overdue = self.outcome.refused is not None and now >= self._retry_at
        return self._asked or overdue or found != self._read

    def _look(self) -> Stamp | str:
        """Return the file's stamp, which changes with the file, or the reason of a failure."""
        try:
            if self.path is None:
                self.path, self._found = config.find_models(None), config.searched(None)
            if self.path is None:
                return ""
            if self._found:  # its owner or mode may have changed
                config.safe(self.path)
            return key_store.stamp(self.path) or f"there is no models file {self.path}"
        except HpcServeError as error:
            return f"{error}; {error.hint}" if error.hint else str(error)
        except OSError as error:
            return str(error)

    def _judge(self, found: Stamp | str) -> Config | str:
        """Return the file's configuration, or the reason of its refusal."""
        try:
            return self._load(found)
        except HpcServeError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - such as YAML's own for an impossible date
            return f"{self.path} is not usable: {type(error).__name__}"

    def _load(self, found: Stamp | str) -> Config:
        """Return the file's configuration.

        The state directory must exist, as loading would create a new one.
        """
        if isinstance(found, str):
            raise ConfigError(found or "there is no models file")
        if not self._home.is_dir():
            raise StateError(f"there is no state directory {self._home}")
        resolved = config.load(models_file=str(self.path), found=self._found, home=str(self._home))
        none = not (resolved.services or resolved.backends)
        if none and not SAYS_MODELS.search(_text(self.path)):
            raise ConfigError(f"{self.path}: no models; to serve none, it must say 'models: []'")
        # ``anonymous`` itself counts after a restart only.
        if self._anonymous and "*" in resolved.gateway.cors:
            raise ConfigError(
                f"{self.path}: gateway.cors: '*' is not allowed while this gateway serves without"
                " keys; restart the gateway to change that"
            )
        return _check(resolved)

    def _take(self, resolved: Config, began: float) -> None:
        models = _by_name(resolved)
        static = [backend.name for backend in self.backends]
        change = by_jobs(compare(self._known, models), resolved, self._served, static)
        # Other threads read ``policy`` without a lock: each attribute is replaced as a whole.
        self._known, self.backends, self.policy = models, resolved.backends, resolved.gateway
        self.digest = digest(resolved)
        if change.changes:
            log.info("%s: %s", self.path, change.changes)
            self.taken += 1
            was = self.outcome.warnings
            self.outcome = replace(change, read_at=began, taken_at=time.time(), warnings=was)
        elif self._asked or self.outcome.refused is not None:
            if self.outcome.refused is not None:
                log.info("%s: valid again, without a change", self.path)
            self.outcome = replace(self.outcome, read_at=began, refused=None, refused_at=None)

    def _refuse(self, sentence: str, began: float) -> None:
        """Keep the configuration in force, and record and log each reason once."""
        at = self.outcome.refused_at
        if sentence != self.outcome.refused:
            log.error("%s; the last valid configuration stays in force", sentence)
            self.refused += 1
            at = time.time()
        elif not self._asked:
            return
        self.outcome = replace(self.outcome, read_at=began, refused=sentence, refused_at=at)

    def weigh(self, served: Collection[str], more: tuple[str, ...] = ()) -> None:
        """Record the parts of the policy without a target or effect.

        Args:
            served: names of the models in the catalog.
            more: warnings about servers, which are logged elsewhere.
        """
        self._served = frozenset(served)
        known = {*served, *self._known} - {SETTINGS}
        idle = () if self.policy.cache is None else uncached(self.backends)
        found = (*policy_warnings(self.policy, known), *idle, *more)
        if found != self.outcome.warnings:
            for sentence in found:
                if sentence not in self.outcome.warnings and sentence not in more:
                    log.warning("%s: %s", self.path, sentence)
            self.outcome = replace(self.outcome, warnings=found)


def uncached(backends: Collection[Backend]) -> tuple[str, ...]:
    """Return a sentence for each model whose answers are not cached, as it may change unseen."""
    names = sorted({each.name for each in backends if each.revision is None})
    return tuple(
        f"answers of the model {name!r} are not cached, as its entry has no 'revision'"
        for name in names
    )


def _by_name(resolved: Config) -> dict[str, object]:
    """Return the parts to compare between two reads: models by name, and the general settings."""
    policy = resolved.gateway
    models: dict[str, object] = dict(resolved.services)
    for name in {backend.name for backend in resolved.backends}:
        models[name] = tuple(each for each in resolved.backends if each.name == name)
    every = {name: (model, policy.models.get(name)) for name, model in models.items()}
    return {**every, SETTINGS: replace(policy, models={})}


def _check(resolved: Config) -> Config:
    """Return a configuration after the checks that only the gateway can make.

    Such a check is the compilation of redaction patterns.
    """
    try:
        pipeline.check_policy(resolved.gateway)
    except ConfigError as error:
        raise ConfigError(f"{resolved.models_file}: gateway.{error}", hint=error.hint) from error
    return resolved


def _text(path: Path | None) -> str:
    try:
        return path.read_text(encoding="utf-8") if path is not None else ""
    except (OSError, UnicodeDecodeError):
        return ""


def policy_warnings(policy: GatewayPolicy, known: Collection[str]) -> tuple[str, ...]:
    """Return the parts of a policy without a target, one sentence each.

    Args:
        policy: the gateway policy of models.yaml.
        known: names of served models and of models in models.yaml.
    """
    names = {*known, *policy.aliases}
    nowhere = [
        f"{who} {model!r}, which nobody serves"
        for who, model in _mentions(policy)
        if model not in names
    ]
    hidden = [
        f"the alias {alias!r} is not used, as a model has that name"
        for alias in policy.aliases
        if alias in known
    ]
    return (*hidden, *nowhere)


def _mentions(policy: GatewayPolicy) -> Iterator[tuple[str, str]]:
    """Yield each model named by a policy, after the words for the place of the name."""
    for alias, model in policy.aliases.items():
        yield f"the alias {alias!r} stands for", model
    for number, rule in enumerate(policy.rules, 1):
        yield f"rule {number} uses", rule.use
        yield from ((f"rule {number} waits for", model) for model in rule.models)
    for name, own in policy.models.items():
        yield from ((f"the model {name!r} falls back to", model) for model in own.fallback)
