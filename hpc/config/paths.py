"""Paths and model names as people write both: with variables, ``~``, or a page's address."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from hpc.errors import ConfigError

HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
NO_OWNERS = frozenset({"datasets", "spaces", "collections", "models", "docs", "papers", "blog"})
"""First parts of Hugging Face's addresses that are no owner of a model."""
REVISION_PAGES = frozenset({"tree", "blob", "resolve", "raw"})
SCHEME = re.compile(r"(https?|hf|file)://", re.IGNORECASE)
PLAIN_FORMS = "allowed: ORG/NAME, ORG/NAME:FILE.gguf or a path"


def expanded(text: str) -> str:
    """Return a path with ``~`` and the variables of the environment replaced, as a shell does.

    Args:
        text: a path; a variable that is not set stays, for the check at submission.
    """
    replaced = os.path.expandvars(text)
    try:
        return str(Path(replaced).expanduser()) if replaced.startswith("~") else replaced
    except RuntimeError:  # no such user
        return replaced


def expanded_bind(text: str, base: Path) -> str:
    """Return an Apptainer bind with both paths replaced; a relative source is in *base*.

    Args:
        text: ``SRC[:DEST[:ro]]``, or ``type=bind,...`` as for --mount, which stays.
        base: folder of the file that names the bind.
    """
    if text.startswith("type="):
        return text
    source, colon, rest = expanded(text).partition(":")
    if source.startswith(("./", "../")):
        source, colon, rest = str(base / source), ":", rest or str(base / source)
    return f"{source}{colon}{rest}"


def hub_name(text: str, of: str) -> tuple[str, str | None]:
    """Return name and revision of a model from a page's address; from another text, the text.

    ``https://huggingface.co/ORG/NAME/blob/REV/FILE.gguf`` is ``ORG/NAME:FILE.gguf`` at REV.

    Args:
        text: a model, in any form.
        of: name of the model's entry.

    Raises:
        ConfigError: the address is no page of a model on Hugging Face.
    """
    plain = text.strip()
    scheme, rest = _scheme(plain)
    if scheme == "file":
        return rest, None
    host, _, path = rest.partition("/")
    if scheme != "hf" and not _is_hub(host.lower()):
        if scheme:
            raise ConfigError(
                f"the model of {of!r} is an address outside Hugging Face: {plain}",
                hint=f"download the file, and give its path; {PLAIN_FORMS}",
            )
        return plain, None
    page = rest if scheme == "hf" else path
    found = _of_page(unquote(re.split(r"[?#]", page)[0]))
    if found is None:
        raise ConfigError(
            f"the model of {of!r} is no model's page on Hugging Face: {plain}", hint=PLAIN_FORMS
        )
    return found


def _is_hub(host: str) -> bool:
    endpoint = _scheme(os.environ.get("HF_ENDPOINT", ""))[1].rstrip("/").lower()
    return bool(host) and host in {*HUB_HOSTS, endpoint}


def _scheme(text: str) -> tuple[str, str]:
    """Return the scheme of an address in lower case, or "", and the rest."""
    match = SCHEME.match(text)
    return (match[1].lower(), text[match.end() :]) if match else ("", text)


def _of_page(path: str) -> tuple[str, str | None] | None:
    """Return name and revision from a page's path, ``ORG/NAME[:TAG][/tree/REV[/FILE]]``."""
    words = path.strip("/").split("/")
    page = next((n for n, word in enumerate(words) if word in REVISION_PAGES and n), len(words))
    name, rest = "/".join(words[:page]), words[page + 1 :]
    if not name or words[0] in NO_OWNERS or page > 2:
        return None
    revision = rest[0] if rest and rest[0] != "main" else None
    file = "/".join(rest[1:])
    return (f"{name}:{file}" if file.endswith(".gguf") else name), revision
