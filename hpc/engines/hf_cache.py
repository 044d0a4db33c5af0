"""The user's Hugging Face cache and token, where huggingface_hub itself looks for both."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hpc.engines import snapshot, weights
from hpc.engines.common import model_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hpc.model import ServiceSpec

HUB_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
TRUE = frozenset({"1", "on", "yes", "true"})
MOST_LINKS = 40
"""Links followed from one path, as by the kernel."""


def hf_home(spec: ServiceSpec, environ: Mapping[str, str]) -> str:
    """Return the Hugging Face folder of a model: from its entry, else from the environment."""
    if spec.hf_home:
        return spec.hf_home
    if named := spec.env.get("HF_HOME") or environ.get("HF_HOME"):
        return _expanded(named, environ)
    cache = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "/")) / ".cache")
    return str(Path(cache) / "huggingface")


def hub(spec: ServiceSpec, environ: Mapping[str, str]) -> str:
    """Return the folder of downloaded repositories, as for ``hf_home``."""
    both = [spec.env] if spec.hf_home else [spec.env, environ]
    for name in HUB_VARIABLES:
        if named := next((one[name] for one in both if one.get(name)), None):
            return _expanded(named, environ)
    return str(Path(hf_home(spec, environ)) / "hub")


def _expanded(path: str, environ: Mapping[str, str]) -> str:
    home = environ.get("HOME", "/")
    plain = os.path.expandvars(path)
    return str(Path(home) / plain[2:]) if plain.startswith("~/") else plain


def offline(spec: ServiceSpec, environ: Mapping[str, str]) -> bool:
    """Return whether the user forbids downloads."""
    said = spec.env.get("HF_HUB_OFFLINE") or environ.get("HF_HUB_OFFLINE", "")
    return said.lower() in TRUE


def cached(spec: ServiceSpec, folder: str) -> bool:
    """Return whether an engine can load a model without the network.

    Args:
        spec: the model; always true for a path.
        folder: the ``hub`` of repositories.
    """
    source = weights.of(spec)
    if source.repo is None:
        return True
    found = snapshot_of(spec, folder)
    if found is None:  # never downloaded, or another revision
        return False
    if spec.engine == "llamacpp":
        parts = weights.parts(source.file) if source.file else []
        return bool(parts) and all(_filled(found / part) for part in parts)
    if own_folder(spec):  # weights there, configuration and tokenizer here: not judged
        return False
    own = {"tokenizer", "skip-tokenizer-init"} & _options(spec)
    try:
        return snapshot.whole(found, tokenizer=not own)
    except OSError:  # a cache of others, closed to the user
        return False


def own_folder(spec: ServiceSpec) -> bool:
    """Return whether vLLM keeps the weights in a folder of the model's own."""
    return "download-dir" in _options(spec)


def _options(spec: ServiceSpec) -> set[str]:
    return {key.strip().lstrip("-").replace("_", "-") for key in spec.engine_args}


def _filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def repository(spec: ServiceSpec, folder: str) -> Path | None:
    """Return the folder of a model's repository in the cache; None for a path."""
    repo = weights.of(spec).repo
    return None if repo is None else Path(folder) / f"models--{repo.replace('/', '--')}"


def snapshot_of(spec: ServiceSpec, folder: str) -> Path | None:
    """Return the folder of a revision, given as a commit or as a branch or tag."""
    found = repository(spec, folder)
    if found is None:
        return None
    revision = spec.revision or "main"
    try:
        commit = (found / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        commit = revision
    return found / "snapshots" / commit if (found / "snapshots" / commit).is_dir() else None


def token(environ: Mapping[str, str]) -> str | None:
    """Return the user's token: from the environment, else the file of ``hf auth login``.

    The file's token goes to nobody who cannot prove his name: none for an endpoint without TLS.

    Args:
        environ: variables of the user; HF_HUB_DISABLE_IMPLICIT_TOKEN leaves the file unread.
    """
    if said := next((environ[name] for name in TOKEN_VARIABLES if environ.get(name)), None):
        return said
    if environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in TRUE:
        return None
    endpoint = urlsplit(environ.get("HF_ENDPOINT") or "https://huggingface.co")
    if endpoint.scheme != "https" and endpoint.hostname not in LOOPBACK:
        return None
    cache = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "/")) / ".cache")
    home = environ.get("HF_HOME") or str(Path(cache) / "huggingface")
    path = environ.get("HF_TOKEN_PATH") or str(Path(home) / "token")
    try:
        text = Path(_expanded(path, environ)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return text.strip() or None


def links(spec: ServiceSpec, folder: str, bound: str) -> tuple[str, ...]:
    """Return the files and folders outside of a model's own to which its links lead.

    Args:
        spec: the model.
        folder: the ``hub`` of repositories.
        bound: the folder of the cache that a container has.
    """
    source = weights.of(spec)
    if source.path is not None:
        path = Path(source.path)
        files = [path.with_name(name) for name in weights.parts(path.name)]
        return outside([*files, *below(path)], [model_root(source.path)])
    found = repository(spec, folder)
    if found is None:
        return ()
    inner = [found, *(found / name for name in ("blobs", "refs", "snapshots"))]
    kept = snapshot_of(spec, folder)
    return outside([*inner, *(below(kept) if kept else ())], [bound])


def below(folder: Path) -> Iterator[Path]:
    """Yield all paths in a folder; none for a file."""
    return folder.rglob("*") if folder.is_dir() else iter(())


def outside(paths: Sequence[Path], roots: Sequence[str]) -> tuple[str, ...]:
    """Return the targets of links, outside of *roots*, that a container needs to follow *paths*.

    Args:
        paths: absolute paths below the roots.
        roots: folders and files of the container already.
    """
    seen = list(roots)
    for path in paths:
        _follow(path, seen)
    return tuple(seen[len(roots) :])


def _follow(path: Path, seen: list[str]) -> None:
    """Add the targets on one path's way to *seen*."""
    for _ in range(MOST_LINKS):
        link = _first_link(path, seen)
        if link is None:
            return
        target = os.path.normpath(link.parent / link.readlink())
        if _root_of(target, seen) is None and Path(target).exists():
            seen.append(target)
        path = Path(target) / path.relative_to(link)


def _first_link(path: Path, seen: Sequence[str]) -> Path | None:
    """Return the first part of a path, below a root, that is a link."""
    root = _root_of(str(path), seen)
    if root is None:
        return None
    inner = [path, *path.parents]
    below = [part for part in inner if str(part) != root and _within(str(part), root)]
    return next((part for part in reversed(below) if part.is_symlink()), None)


def _root_of(path: str, seen: Sequence[str]) -> str | None:
    return next((root for root in seen if _within(path, root)), None)


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
