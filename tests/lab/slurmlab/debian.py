"""The root file system of the nodes: Debian with Slurm and Apptainer, built once and cached."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

from .host import FILES, LabError, install_programs, remove_tree, sh, turn

SUITE = "trixie"
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


def apt_options() -> str:
    """Return how this machine reaches its mirrors: proxies, retries, what is checked."""
    wanted = re.compile(r"Acquire::(Check-|Retries|https?::|ForceIPv)")
    return "".join(
        line for line in sh(["apt-config", "dump"]).splitlines(True) if wanted.match(line)
    )


def rootfs_path(cache: Path) -> Path:
    """Return where the root file system of the present recipe lies, built or not."""
    provision = (FILES / "provision.sh").read_text()
    recipe = "\n".join([SUITE, mirror(), *PACKAGES, apt_options(), provision])
    return cache / f"rootfs-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def build_rootfs(cache: Path, in_use: frozenset[Path] = frozenset()) -> Path:
    """Build the root file system unless it is there, and return its path.

    Args:
        cache: folder that keeps it from one lab to the next.
        in_use: root file systems of running labs, which outlive a change of recipe.
    """
    final = rootfs_path(cache)
    if final.is_dir():
        return final
    with turn(cache / "lock"):
        if final.is_dir():  # another lab has built it meanwhile
            return final
        install_programs()
        for old in cache.glob("rootfs-*"):
            if old not in in_use:
                remove_tree(old)
        building = cache / "rootfs-building"
        try:
            _bootstrap(building, cache / "debs")
        except BaseException:
            remove_tree(building)
            raise
        building.rename(final)
    return final


def _bootstrap(root: Path, debs: Path) -> None:
    debs.mkdir(parents=True, exist_ok=True)
    archive = mirror()
    include = f"--include={','.join(PACKAGES)}"
    cached = f"--cache-dir={debs}"
    sh(["debootstrap", "--variant=minbase", cached, include, SUITE, str(root), archive])
    apt = root / "etc/apt"
    (apt / "sources.list.d/sid.list").write_text(f"deb {archive} sid main\n")
    (apt / "apt.conf.d/50site").write_text(apt_options())
    for name in ("/etc/resolv.conf", str(CA_BUNDLE)):
        if Path(name).exists():
            shutil.copyfile(name, root / name.lstrip("/"))
    script = (FILES / "provision.sh").read_text()
    env = {**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    sh(["/usr/sbin/chroot", str(root), "/bin/sh", "-c", script], env=env)
