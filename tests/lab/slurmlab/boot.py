"""Bringing a lab up: homes, files, nodes, network, ssh, Slurm, in that order."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from . import daemons, debian, images, network, project, slurm
from .host import FILES, remove_tree
from .node import USER_PATH, USERS, Bind, home_of, users_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .lab import Lab
    from .node import Node

HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
# A laptop has neither Slurm nor Apptainer.
NOT_ON_LAPTOP = [f"/usr/bin/{name}" for name in [*slurm.COMMANDS, "apptainer", "singularity"]]


def start(lab: Lab, rootfs: Path, *, accounting: bool) -> None:
    """Start a lab that is down, its homes empty and its daemons without a past."""
    for folder in (lab.homes, lab.laptop_homes):
        _make_homes(folder, rootfs)
    for folder in (lab.folder / "opt", lab.images):
        folder.mkdir(exist_ok=True)
    for name, node in lab.nodes.items():
        outside = name == "laptop"
        files = _files(name, lab.suite, accounting=accounting)
        node.prepare(files, masked=NOT_ON_LAPTOP if outside else ())
        node.start(rootfs, _laptop_binds(lab) if outside else _cluster_binds(lab))
    network.connect(lab.nodes)
    _start_sshd(lab)
    slurm.start(lab.nodes, accounting=accounting)


def start_workshop(node: Node, rootfs: Path, binds: Sequence[Bind]) -> None:
    """Start a node of no cluster, with homes of its own."""
    node.prepare({**_files_for_host_network(), **project.pip_files()})
    homes = node.folder / "home"
    _make_homes(homes, rootfs)
    _give_passwords(node, homes)
    packages = project.package_folders()
    node.start(rootfs, [Bind(homes, "/home", writable=True), *packages, *binds])


def _give_passwords(node: Node, homes: Path) -> None:
    """Give root and the cluster's user what pip logs in with; only workshops reach registries."""
    passwords = project.passwords()
    root = node.folder / "upper/root"
    for home, number in ((root, 0), (homes / "owner", USERS["owner"])) if passwords else ():
        home.mkdir(mode=0o700, exist_ok=True)
        file = home / ".netrc"
        file.touch(mode=0o600)
        file.write_bytes(passwords or b"")
        os.chown(file, number, number)


def _files(node: str, suite: debian.Suite, *, accounting: bool) -> dict[str, str | bytes]:
    names = {"/etc/hosts": network.hosts(node), "/etc/hostname": f"{node}\n"}
    if node == "laptop":
        return {**_files_for_host_network(), **names}
    config = {**slurm.config_files(suite, accounting=accounting), **_environment()}
    return {**_files_for_host_network(), **names, **config, **project.pip_files()}


def _environment() -> dict[str, str]:
    """Return the file from which sshd's sessions get what is set for every user."""
    settings = {"PATH": f'"{USER_PATH}"', **users_environment()}
    return {"/etc/environment": "".join(f"{key}={value}\n" for key, value in settings.items())}


def _files_for_host_network() -> dict[str, str]:
    """Return files of this machine that make its network usable from a node, by path."""
    paths = [Path("/etc/resolv.conf"), debian.CA_BUNDLE]
    return {str(path): path.read_text() for path in paths if path.exists()}


def _laptop_binds(lab: Lab) -> list[Bind]:
    return [Bind(lab.laptop_homes, "/home", writable=True), _project_bind(lab)]


def _cluster_binds(lab: Lab) -> list[Bind]:
    shared = [Bind(lab.homes, "/home", writable=True), _project_bind(lab)]
    return [*shared, Bind(lab.images, images.FOLDER), *project.package_folders()]


def _project_bind(lab: Lab) -> Bind:
    """Return the bind of /opt, writable by root so that more can be bound below it."""
    return Bind(lab.folder / "opt", "/opt", writable=True)


def _make_homes(folder: Path, rootfs: Path) -> None:
    remove_tree(folder)
    folder.mkdir(parents=True)
    for user, number in USERS.items():
        home = folder / Path(home_of(user)).name
        shutil.copytree(rootfs / "etc/skel", home)
        for path in (home, *home.iterdir()):
            os.chown(path, number, number)
        home.chmod(0o700)


def start_sshd(node: Node) -> str:
    """Start sshd with a host key of its own on a node whose homes let the laptop in; return it."""
    node.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", HOST_KEY], user="root")
    config = "/etc/ssh/sshd_config.d/lab.conf"
    node.run(["tee", config], user="root", input=(FILES / "sshd.conf").read_text())
    daemons.start(node, "sshd")
    return node.run(["cat", f"{HOST_KEY}.pub"]).stdout


def _start_sshd(lab: Lab) -> None:
    """Start sshd on login, with the laptop's owner let in and login's key known to the laptop."""
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"]
    lab.run("login", [*keygen, HOST_KEY], user="root")
    for node in ("login", "laptop"):
        lab.run(node, ["mkdir", "-m", "700", ".ssh"])
    lab.run("laptop", [*keygen, ".ssh/id_ed25519"])
    key = lab.run("laptop", ["cat", ".ssh/id_ed25519.pub"]).stdout
    lab.write_file("/home/owner/.ssh/authorized_keys", key, mode="600")
    kind, public, *_ = lab.run("login", ["cat", f"{HOST_KEY}.pub"]).stdout.split()
    known = f"login,{network.OUTSIDE['login']} {kind} {public}\n"
    lab.write_file("/home/owner/.ssh/known_hosts", known, node="laptop")
    lab.write_file("/etc/ssh/sshd_config.d/lab.conf", (FILES / "sshd.conf").read_text(), "root")
    lab.start("login", "sshd")
