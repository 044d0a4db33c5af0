"""The project as the nodes see it: a virtual environment at /opt/hpc-serve, made from a wheel."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpc.images import pip_settings

from .host import LabError, remove_tree, sh, turn
from .node import Bind

if TYPE_CHECKING:
    from hpc.images.carried import Carried

    from .lab import Lab

PREFIX = "/opt/hpc-serve"
_TOLD = "/etc/hpc-serve-lab"


@dataclass(frozen=True)
class Wanted:
    """What to install.

    Args:
        wheel: the built project.
        extras: its extras.
        packages: further requirements.
        constraints: pip constraints file.
    """

    wheel: Path
    extras: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    constraints: Path | None = None

    def stamp(self, rootfs: Path) -> str:
        """Return a text that differs whenever the result would."""
        content = [self.wheel.read_bytes(), repr((self.extras, self.packages)).encode()]
        content += [
            self.constraints.read_bytes() if self.constraints else b"",
            rootfs.name.encode(),
        ]
        return hashlib.sha256(b"\0".join(content)).hexdigest()

    def requirements(self) -> str:
        """Return a pip requirements file."""
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        name = self.wheel.name.split("-")[0]
        line = f"{name}{extras} @ file:///mnt/wheel/{self.wheel.name}"
        return "\n".join([line, *self.packages, ""])

    def pins(self) -> str:
        """Return the constraints without hashes, which pip would want for the wheel's own too."""
        text = self.constraints.read_text() if self.constraints else ""
        return re.sub(r"\\\n|--hash=\S+", "", text)


def install(lab: Lab, wanted: Wanted) -> bool:
    """Install for all nodes of a lab, up or down, unless the same is there already.

    Returns:
        Whether anything had to be installed.

    Raises:
        LabError: the wheel is missing, or pip failed; what was there before stays.
    """
    if not wanted.wheel.is_file():
        msg = f"no wheel at {wanted.wheel}"
        raise LabError(msg)
    final = lab.folder / "opt" / "hpc-serve"
    key = wanted.stamp(lab.build())
    if _has(final, key):
        return False
    building = lab.folder / "opt-building"
    remove_tree(building)
    final.parent.mkdir(exist_ok=True)
    # One lab installs while the others wait; then each has a copy, in seconds instead of a minute.
    with turn(lab.cache / "project.lock"):
        same = next((p for p in lab.root.glob("labs/*/opt/hpc-serve") if _has(p, key)), None)
        if same:
            sh(["cp", "--archive", "--reflink=auto", str(same), str(building)])
        else:
            building.mkdir(parents=True)
            _build(lab, wanted, building)
            (building / "stamp").write_text(key)
        remove_tree(final)
        building.rename(final)
    return True


def _has(folder: Path, key: str) -> bool:
    """Say whether a folder holds the installation with a stamp, which is written last."""
    stamp = folder / "stamp"
    return stamp.exists() and stamp.read_text() == key


def _build(lab: Lab, wanted: Wanted, target: Path) -> None:
    cache = lab.cache / "pip"
    cache.mkdir(parents=True, exist_ok=True)
    binds = [
        Bind(target, PREFIX, writable=True),
        Bind(cache, "/root/.cache/pip", writable=True),
        Bind(wanted.wheel.absolute().parent, "/mnt/wheel"),
    ]
    pip = [f"{PREFIX}/bin/pip", "install", "--quiet", "-r", "/tmp/requirements.txt"]
    pip += ["--constraint", "/tmp/constraints.txt"]
    with lab.workshop("installer", binds) as node:
        node.run(["python3", "-m", "venv", PREFIX], user="root")
        node.run(["tee", "/tmp/requirements.txt"], user="root", input=wanted.requirements())
        node.run(["tee", "/tmp/constraints.txt"], user="root", input=wanted.pins())
        node.run(pip, user="root", timeout=1800)


def pip_files() -> dict[str, bytes]:
    """Return pip's configuration and what it names, by path on a node; no passwords."""
    files = {name: text for name, text in _carried().files.items() if name != "netrc"}
    return {_path(name): content for name, content in files.items()}


def passwords() -> bytes | None:
    """Return the file of passwords that pip reads on this machine, if it has one."""
    return _carried().files.get("netrc")


def package_folders() -> list[Bind]:
    """Return binds for the folders of packages on this machine that its pip looks into."""
    return [Bind(Path(folder), folder) for folder in _carried().folders]


def _path(name: str) -> str:
    return "/etc/pip.conf" if name == "pip.conf" else f"{_TOLD}/{name}"


@functools.cache
def _carried() -> Carried:
    carried = pip_settings.carried(os.environ, seen_as=_TOLD)
    for line in carried.left_out:
        logging.getLogger("slurmlab").warning("%s", line)
    return carried
