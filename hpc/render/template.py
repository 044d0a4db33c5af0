"""Jinja2 with this project's settings: strict, for shells, the site's templates first."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc import assets
from hpc.errors import ConfigError
from hpc.state import trust

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jinja2 import Environment

CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""Characters that a line of a script cannot hold."""


def fill(kind: assets.Kind, name: str, values: Mapping[str, Any], templates: Path | None) -> str:
    """Return a template's rendered text.

    Args:
        kind: kind of templates.
        name: file name of the template.
        values: the template's variables; a missing variable is an error.
        templates: a folder whose templates replace the bundled ones.

    Raises:
        ConfigError: a template is missing or faulty, or a variable is missing.
    """
    from jinja2 import TemplateError  # noqa: PLC0415 - most commands render nothing

    try:
        text: str = _environment(kind, templates).get_template(name).render(values)
    except TemplateError as error:
        told = error.message or type(error).__name__
        raise ConfigError(f"cannot render {name}: {told}") from error
    return text


def _check_safe(path: Path) -> None:
    """Refuse a template that others may have written, since templates are code."""
    try:
        weak = trust.weak_file(path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if weak is not None:
        raise ConfigError(
            f"the template {path} is not used, as others may have written it: {weak.text}",
            hint=weak.repair or "use a copy of your own",
        )


def _environment(kind: assets.Kind, templates: Path | None) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415

    class SafeLoader(FileSystemLoader):
        """A loader that refuses the site's templates if others may have written them."""

        def get_source(self, environment: Environment, template: str) -> Any:
            found = super().get_source(environment, template)
            path = Path(found[1]).absolute()
            if templates is not None and path.is_relative_to(templates.absolute()):
                _check_safe(path)
            return found

    environment = Environment(
        loader=SafeLoader(assets.folders(kind, templates)),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 # nosec B701 - shell scripts, no HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    return environment
