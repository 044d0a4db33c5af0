"""Look-ups at Hugging Face before a submission: existence, access and files of a repository.

A login node without the internet is no error: no answer within ``PATIENCE_S`` is no knowledge.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from hpc.engines import hf_cache, weights
from hpc.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import httpx

    from hpc.model import ServiceSpec

HUB = "https://huggingface.co"
TIMEOUT_S = 2.0
"""Seconds for each step of an answer."""
PATIENCE_S = 5.0
"""Seconds for all steps, the look-up of the name included, which no library limits."""
CODE = "x-error-code"
NO_REPOSITORY, NO_REVISION, GATED = "RepoNotFound", "RevisionNotFound", "GatedRepo"
DEFAULT_TAG = "Q4_K_M"
"""llama.cpp's quantization where none is named."""
NO_MODEL = re.compile(r"(?:^|/)(?:mmproj|imatrix)", re.IGNORECASE)
SHOWN = 8
"""Files that an error lists."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at one revision."""

    files: tuple[str, ...]

    @property
    def gguf(self) -> list[str]:
        """Return the models in GGUF, each split one by its first part."""
        return gguf_files(self.files)


def endpoint(environ: Mapping[str, str]) -> str:
    """Return the address of Hugging Face, or of its mirror."""
    return (environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def look(spec: ServiceSpec, environ: Mapping[str, str]) -> Listing | None:
    """Return the files of a model's repository; None without an answer.

    Args:
        spec: the service, of a Hugging Face model.
        environ: variables of the engine, with HF_ENDPOINT and the token.

    Raises:
        EngineError: the repository or revision does not exist, or is closed to the user.
    """
    answers: list[Listing | EngineError] = []

    def ask() -> None:
        try:
            answers.append(_listing(spec, environ))
        except EngineError as error:
            answers.append(error)
        except Exception:  # noqa: BLE001, S110 # nosec B110 - whatever it is, nothing is known
            pass

    # A thread, as the look-up of a name may take a minute, and ends with the process.
    thread = threading.Thread(target=ask, name="hub", daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    if answers and isinstance(answers[0], EngineError):
        raise answers[0]
    return answers[0] if answers and isinstance(answers[0], Listing) else None


def _listing(spec: ServiceSpec, environ: Mapping[str, str]) -> Listing:
    import httpx  # noqa: PLC0415 - most commands look nothing up

    base = endpoint(environ)
    repo, revision = weights.of(spec).repo or "", spec.revision or "main"
    loopback = urlsplit(base).hostname in hf_cache.LOOPBACK
    headers = {"user-agent": "hpc-serve"}
    if (token := hf_cache.token(environ)) and (base.startswith("https:") or loopback):
        headers["authorization"] = f"Bearer {token}"
    with httpx.Client(
        base_url=base,
        headers=headers,
        timeout=TIMEOUT_S,
        follow_redirects=True,
        trust_env=not loopback,
    ) as client:
        answer = client.get(f"/api/models/{repo}/revision/{quote(revision, safe='')}")
        _check(spec, answer, signed=token is not None)
        told = answer.json()
        files = tuple(name for one in told["siblings"] if _is_within(name := one["rfilename"]))
        if told.get("gated") and files:
            first = next((name for name in files if name == "config.json"), files[0])
            path = f"/{repo}/resolve/{quote(revision, safe='')}/{quote(first)}"
            reached = client.head(path, follow_redirects=False)
            if reached.status_code in (401, 403):
                raise _closed(spec, base)
    return Listing(files)


def _is_within(name: object) -> bool:
    """Return whether a name of the Hub is a path within a repository, fit for a command line."""
    if not isinstance(name, str) or not name.isprintable():
        return False
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith(("/", "-", "~")) and ".." not in parts


def _check(spec: ServiceSpec, answer: httpx.Response, *, signed: bool) -> None:
    """Raise an error if the Hub itself, and no proxy on the way, refuses the repository."""
    if answer.is_success:
        return
    code = answer.headers.get(CODE) or (GATED if answer.status_code == 403 else "")
    told = _error(answer)
    if not told and not answer.headers.get(CODE):
        raise ValueError("not the Hub's answer")
    repo = weights.of(spec).repo
    if code == GATED:
        raise _closed(spec, str(answer.url.copy_with(path="/")).rstrip("/"))
    if code == NO_REVISION:
        raise EngineError(f"the model {repo} of {spec.name!r} has no revision {spec.revision}")
    if code == NO_REPOSITORY or answer.status_code in (401, 404):
        hint = "check the name on the model's page"
        if not signed:
            hint += "; a private model needs HF_TOKEN, or 'hf auth login'"
        raise EngineError(
            f"there is no model {repo} at {answer.url.host}, as {spec.name!r} names it", hint=hint
        )
    raise ValueError("an answer that says nothing about the repository")


def _error(answer: httpx.Response) -> str:
    try:
        told: Any = answer.json()
    except ValueError:
        return ""
    return str(told.get("error") or "") if isinstance(told, dict) else ""


def _closed(spec: ServiceSpec, base: str) -> EngineError:
    repo = weights.of(spec).repo
    return EngineError(
        f"the model {repo} of {spec.name!r} is open only to accounts that accepted its terms",
        hint=f"accept them at {base}/{repo}, and set HF_TOKEN or run 'hf auth login'",
    )


def gguf_files(names: Iterable[str]) -> list[str]:
    """Return the models among files: GGUF without projectors, each split one by its first part."""
    found = sorted(name for name in names if name.endswith(".gguf") and not NO_MODEL.search(name))
    return [
        name
        for name in found
        if not weights.SPLIT_GGUF.search(name) or name == weights.first_part(name)
    ]


def file_of(tag: str, names: Iterable[str]) -> str | None:
    """Return the GGUF file of a quantization, or None.

    Args:
        tag: such as ``Q4_K_M``; "" and "latest" are llama.cpp's default, else any.
        names: files of the repository.
    """
    models = gguf_files(names)
    if tag.lower() in ("", "latest"):
        return file_of(DEFAULT_TAG, models) or next(iter(models), None)
    rule = re.compile(rf"(?:^|[./_-]){re.escape(tag)}(?=[./-]|$)", re.IGNORECASE)
    fits = [name for name in models if rule.search(name)]
    return min(fits, key=lambda name: (len(name), name), default=None)
