"""The static backends of models.yaml: servers that run outside hpc-serve."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpc.config.schema import ModelEntry
    from hpc.model import StaticEngine


@dataclass(frozen=True, slots=True)
class Backend:
    """A static backend: a server that runs outside hpc-serve.

    Attributes:
        url: the server's address, without ``/v1``.
        api_key_env: the gateway's variable that holds the server's key.
        revision: the revision of the served model, according to models.yaml.
        served_model: the model's name at the server; None is for the server itself to tell.
        ca: PEM of the authority that signs the server's certificate; None trusts this machine's.
        health: path at which the server is asked whether it serves; None asks nothing.
    """

    name: str
    backend: StaticEngine
    url: str
    format: str = "chat_completions"
    api_key_env: str | None = None
    revision: str | None = None
    served_model: str | None = None
    ca: str | None = None
    health: str | None = "/v1/models"


def static_backends(entry: ModelEntry, base: Path, file: Path | None) -> Iterator[Backend]:
    """Yield the static backends of an entry; a service has none.

    Args:
        entry: the entry of models.yaml.
        base: folder of relative paths.
        file: models.yaml, for errors.

    Raises:
        ConfigError: the entry's ``ca`` is not usable.
    """
    ca = (
        None
        if entry.ca is None
        else _authority(f"{file}: the model {entry.name!r}", base / Path(entry.ca).expanduser())
    )
    for url in entry.backend_url:
        yield Backend(
            name=entry.name,
            backend=entry.backend,
            url=url,
            format=entry.format,
            api_key_env=entry.api_key_env,
            revision=entry.revision,
            served_model=entry.served_model,
            ca=ca,
            health=entry.health or None,
        )


def _authority(entry: str, file: Path) -> str:
    """Return the PEM of an authority's certificates.

    Args:
        entry: models.yaml and the entry, for errors.
        file: the PEM file.

    Raises:
        ConfigError: the file cannot be read, or holds no certificate.
    """
    where = f"{entry}: ca: {file}"
    try:
        text = file.read_text(encoding="ascii")
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"{where} holds no certificate in PEM form") from error
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}") from error
    return text
