"""Base images for Apptainer definitions, built once, by an ordinary account."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from . import debian
from .host import turn

if TYPE_CHECKING:
    from pathlib import Path

    from .lab import Lab

FOLDER = "/srv/images"
# Seconds instead of half a minute for a small image, and hardly larger.
FAST = ["--mksquashfs-args", "-comp zstd -Xcompression-level 1"]
_DEFINITION = """\
Bootstrap: debootstrap
OSVersion: {suite}
MirrorURL: {mirror}
Include: ca-certificates python3-venv

%post
    set -e
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
"""


def base_image(lab: Lab, suite: str) -> str:
    """Build a Debian base image unless it is there, and return its path on the nodes.

    Args:
        lab: whose cache keeps the image.
        suite: a Debian release, such as "bookworm".
    """
    text = _DEFINITION.format(suite=suite, mirror=debian.mirror())
    image = lab.images / f"base-{suite}.sif"
    recipe = image.with_suffix(".def")
    with turn(image.with_suffix(".lock")):
        if not (image.exists() and recipe.exists() and recipe.read_text() == text):
            _build(lab, text, image)
            recipe.write_text(text)
    return f"{FOLDER}/{image.name}"


def _build(lab: Lab, text: str, image: Path) -> None:
    work = "/tmp"
    # An ordinary account's PATH on Debian lacks the chroot that debootstrap calls.
    path = {"PATH": "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"}
    with lab.workshop("image-builder") as node:
        node.run(["tee", "base.def"], input=text, cwd=work)
        argv = ["apptainer", "build", *FAST, "base.sif", "base.def"]
        node.run(argv, env=path, cwd=work, timeout=1200)
        built = node.folder / "tmp" / "base.sif"
        os.chown(built, 0, 0)
        built.chmod(0o644)
        built.replace(image)
