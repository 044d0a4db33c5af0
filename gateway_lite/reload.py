"""The models.yaml in force: read again whenever it changes, kept where the new one is not good.

Everything here blocks, as a shared file system may, and belongs to the watching thread; only the
outcome is read elsewhere.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from hpc import config, keys
from hpc.errors import ConfigError, HpcServeError, StateError
from hpc.model import Reload

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hpc.config import Backend, Config
    from hpc.keys import Stamp

log = logging.getLogger(__name__)

SETTLE_S = 0.4
"""Seconds for which a file must stay the same: editors empty it, and then write."""
RETRY_S = 2.0
"""Seconds between two readings of a refused file: what is wrong may stand in the site file."""
SECTION = "(gateway)"
SAYS_MODELS = re.compile(r"^[^#\n]*\bmodels\b", re.MULTILINE)


def compare(old: Mapping[str, object], new: Mapping[str, object]) -> Reload:
    """Return which models come, go and change from one reading to the next."""
    return Reload(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(n for n in new.keys() & old.keys() if new[n] != old[n])),
    )


def told(outcome: Reload) -> str:
    """Return what a reading changed, such as ``added a, b; removed c``; empty for nothing."""
    kinds = {"added": outcome.added, "removed": outcome.removed, "changed": outcome.changed}
    return "; ".join(f"{verb} {', '.join(names)}" for verb, names in kinds.items() if names)


class Models:
    """The models.yaml in force.

    Args:
        config: the configuration that the gateway started with.

    Attributes:
        backends: static servers in force.
        policy: what to do with requests.
        outcome: what became of the last readings; replaced as a whole.
        taken: readings that changed something.
        refused: readings that did not come into force, each reason once.
    """

    def __init__(self, config: Config) -> None:
        self._home = config.home
        self.path = config.models_file
        self._known = _by_name(config)
        self.backends: tuple[Backend, ...] = config.backends
        self.policy = config.gateway
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
            asked: somebody says that it is complete and wants to know what becomes of it.

        Returns:
            Whether there is an outcome that was not there before.
        """
        self._asked = self._asked or asked
        began, before = time.time(), self.outcome
        found = self._look()
        if not self._due(found):
            return False
        verdict = self._judge(found)
        if self._look() != found:  # it was written while we read
            return False
        if isinstance(verdict, str):
            self._refuse(verdict, began)
        else:
            self._take(verdict, began)
        self._read, self._asked = found, False
        self._retry_at = time.monotonic() + RETRY_S
        return self.outcome is not before

    def _due(self, found: Stamp | str) -> bool:
        """Tell whether to read now: at once where somebody asks, else when it has settled."""
        now = time.monotonic()
        if found != self._seen:
            self._seen, self._seen_at = found, now
        if now - self._seen_at < SETTLE_S and not self._asked:
            return False
        overdue = self.outcome.refused is not None and now >= self._retry_at
        return self._asked or overdue or found != self._read

    def _look(self) -> Stamp | str:
        """Return what changes when the file does, or why it cannot be told."""
        try:
            self.path = self.path or config.find_models(None)
            if self.path is None:
                return ""
            return keys.stamp(self.path) or f"there is no models file {self.path}"
        except (HpcServeError, OSError) as error:
            return str(error)

    def _judge(self, found: Stamp | str) -> Config | str:
        """Return what the file says, or why it cannot come into force."""
        try:
            return self._load(found)
        except HpcServeError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - such as YAML's own for a date that cannot be
            return f"{self.path} is not usable: {type(error).__name__}"

    def _load(self, found: Stamp | str) -> Config:
        """Read the file; the state directory must be there, as loading would make it anew."""
        if isinstance(found, str):
            raise ConfigError(found or "there is no models file")
        if not self._home.is_dir():
            raise StateError(f"there is no state directory {self._home}")
        resolved = config.load(models_file=str(self.path), home=str(self._home))
        if (
            not resolved.services
            and not resolved.backends
            and not SAYS_MODELS.search(_text(self.path))
        ):
            raise ConfigError(f"{self.path}: no models; to serve none, it must say 'models: []'")
        return resolved

    def _take(self, resolved: Config, began: float) -> None:
        models = _by_name(resolved)
        change = compare(self._known, models)
        if told(change):
            log.info("%s: %s", self.path, told(change))
            self.taken += 1
            self.outcome = replace(change, read_at=began, taken_at=time.time())
        elif self._asked or self.outcome.refused is not None:
            if self.outcome.refused is not None:
                log.info("%s: as before, and well again", self.path)
            self.outcome = replace(self.outcome, read_at=began, refused=None, refused_at=None)
        self._known, self.backends = models, resolved.backends
        self.policy = resolved.gateway

    def _refuse(self, sentence: str, began: float) -> None:
        """Keep what is in force, and say why; once for each reason."""
        at = self.outcome.refused_at
        if sentence != self.outcome.refused:
            log.error("%s; the models known so far are served", sentence)
            self.refused += 1
            at = time.time()
        elif not self._asked:
            return
        self.outcome = replace(self.outcome, read_at=began, refused=sentence, refused_at=at)


def _by_name(resolved: Config) -> dict[str, object]:
    """Return what each model is, and under a name that no model can have, the gateway's section."""
    models = {**resolved.services, **{backend.name: backend for backend in resolved.backends}}
    return {**models, SECTION: resolved.gateway}


def _text(path: Path | None) -> str:
    try:
        return path.read_text(encoding="utf-8") if path is not None else ""
    except (OSError, UnicodeDecodeError):
        return ""
