"""The root file system of the nodes: Debian with Slurm and Apptainer, built once and cached."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from hpc.images import apt_settings

from .host import FILES, LabError, install_programs, remove_tree, sh, turn


@dataclass(frozen=True)
class Suite:
    """A release of Debian, and what its Slurm and its libraries allow.

    Args:
        name: what the archive calls it.
        apptainer: whether sid's Apptainer can be installed there.
        cgroup_plugin: slurmd's choice on nodes that have no cgroups.
    """

    name: str
    apptainer: bool = True
    cgroup_plugin: str = "disabled"

    @property
    def extra_packages(self) -> str:
        """What runs llama.cpp there: sid's Apptainer, or what llama-cpp-python needs without it."""
        return "apptainer" if self.apptainer else "libgomp1"


SUITES = {
    # Slurm 22.05, which knows no "disabled"; Apptainer wants a newer libc.
    "bookworm": Suite("bookworm", apptainer=False, cgroup_plugin="cgroup/v1"),
    "trixie": Suite("trixie"),  # Slurm 24.11
    "sid": Suite("sid"),
}
DEFAULT_SUITE = "trixie"
PACKAGES = [
    "ca-certificates",
    "curl",
    "debootstrap",
    "fakeroot",
    "fuse-overlayfs",
    "fuse2fs",
    "iproute2",
    "iputils-ping",
    "mariadb-server",
    "munge",
    "nftables",
    "openssh-client",
    "openssh-server",
    "procps",
    "python3",
    "python3-venv",
    "slurm-client",
    "slurmctld",
    "slurmd",
    "slurmdbd",
    "squashfs-tools",
    "squashfuse",
    "uidmap",
]
_TOLD = "/etc/apt/hpc-serve-lab"
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


def mirror() -> str:
    """Return the address of the Debian archive that this machine uses.

    It is `$HPC_SERVE_DEBIAN_MIRROR`, else what apt is configured with.

    Raises:
        LabError: apt knows no repository whose origin is Debian.
    """
    chosen = os.environ.get("HPC_SERVE_DEBIAN_MIRROR") or _apt_mirror()
    if not chosen:
        sh(["apt-get", "update", "-qq"])
        chosen = _apt_mirror()
    if not chosen:
        msg = "apt on this machine lists no Debian archive; set HPC_SERVE_DEBIAN_MIRROR to one"
        raise LabError(msg)
    return chosen.rstrip("/")


def _apt_mirror() -> str | None:
    targets = sh(["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"])
    archives = [
        line.split("|")[2] for line in targets.splitlines() if line[:14] == "Debian|Debian|"
    ]
    return archives[0] if archives else None


@functools.cache
def apt_files() -> dict[str, bytes]:
    """Return apt's configuration of this machine and what it names, by path on a node."""
    carried = apt_settings.carried(_TOLD, mirror=mirror())
    for line in carried.left_out:
        logging.getLogger("slurmlab").info("%s", line)
    return {_path(name): content for name, content in carried.files.items()}


def _path(name: str) -> str:
    return "/etc/apt/apt.conf.d/50site" if name == "apt.conf" else f"{_TOLD}/{name}"


def suite_named(name: str) -> Suite:
    """Return a suite by the archive's name for it.

    Raises:
        LabError: the lab does not know it.
    """
    if name not in SUITES:
        msg = f"no suite {name}; there are {', '.join(SUITES)}"
        raise LabError(msg)
    return SUITES[name]


def rootfs_path(cache: Path, suite: Suite) -> Path:
    """Return where the root file system of the present recipe lies, built or not."""
    provision = (FILES / "provision.sh").read_text()
    words = (suite.name, suite.extra_packages, mirror(), *PACKAGES)
    recipe = b"\n".join([*map(str.encode, words), *apt_files().values(), provision.encode()])
    return cache / f"rootfs-{suite.name}-{hashlib.sha256(recipe).hexdigest()[:12]}"


def build_rootfs(cache: Path, suite: Suite, in_use: frozenset[Path] = frozenset()) -> Path:
    """Build the root file system of a suite unless it is there, and return its path.

    Args:
        cache: folder that keeps it from one lab to the next.
        suite: the release to build it from.
        in_use: root file systems of running labs, which outlive a change of recipe.
    """
    final = rootfs_path(cache, suite)
    if final.is_dir():
        return final
    with turn(cache / f"lock-{suite.name}"):
        if final.is_dir():  # another lab has built it meanwhile
            return final
        install_programs()
        for old in cache.glob(f"rootfs-{suite.name}-*"):
            if old not in in_use:
                remove_tree(old)
        building = cache / f"rootfs-{suite.name}-building"
        try:
            _bootstrap(building, cache / "debs", suite)
        except BaseException:
            remove_tree(building)
            raise
        building.rename(final)
    return final


def _bootstrap(root: Path, debs: Path, suite: Suite) -> None:
    debs.mkdir(parents=True, exist_ok=True)
    archive = mirror()
    include = f"--include={','.join(PACKAGES)}"
    cached = f"--cache-dir={debs}"
    sh(["debootstrap", "--variant=minbase", cached, include, suite.name, str(root), archive])
    apt = root / "etc/apt"
    if suite.name != "sid":
        (apt / "sources.list.d/sid.list").write_text(f"deb {archive} sid main\n")
    for path, content in apt_files().items():
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    for name in ("/etc/resolv.conf", str(CA_BUNDLE)):
        if Path(name).exists():
            shutil.copyfile(name, root / name.lstrip("/"))
    script = (FILES / "provision.sh").read_text()
    env = {**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    env["EXTRA_PACKAGES"] = suite.extra_packages
    sh(["/usr/sbin/chroot", str(root), "/bin/sh", "-c", script], env=env)
