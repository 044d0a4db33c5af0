"""Bring the peers onto this machine: virtual environments of their own, or Debian packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.bench.peers import PEERS

HERE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hpc-serve/bench"
"""Where the peers are."""
WRK = "wrk"


def install(names: list[str]) -> list[str]:
    """Install peers; return what could not be, in words."""
    HERE.mkdir(parents=True, exist_ok=True)
    wanted = [PEERS[name].apt for name in names if PEERS[name].apt]
    complaints = _packages([*wanted, WRK])
    for name in names:
        peer = PEERS[name]
        if peer.pip and not _venv(HERE / f"v-{name}", peer.pip):
            complaints.append(f"{name}: pip failed")
        if peer.source:
            complaints.append(f"{name} also needs {peer.source.replace('{HERE}', str(HERE))}")
    return complaints


def _packages(names: list[str]) -> list[str]:
    missing = [name for name in names if not shutil.which(name.removesuffix("-light"))]
    if not missing:
        return []
    if os.geteuid() or not shutil.which("apt-get"):
        return [f"install by hand, as only root can: {' '.join(missing)}"]
    argv = ["apt-get", "install", "-qy", "--no-install-recommends", *missing]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    ran = subprocess.run(argv, env=env, check=False, stdout=sys.stderr)
    return [] if ran.returncode == 0 else [f"apt-get failed: {' '.join(missing)}"]


def _venv(folder: Path, needs: tuple[str, ...]) -> bool:
    if not (folder / "bin/pip").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    argv = [str(folder / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", *needs]
    return subprocess.run(argv, check=False).returncode == 0
