"""Slurm on the lab's nodes: its configuration, its start, accounting on and off."""

from __future__ import annotations

import re
from string import Template
from typing import TYPE_CHECKING

from . import daemons
from .host import FILES, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .debian import Suite
    from .node import Node

CLUSTER_NODES = ("login", "c1", "c2")
COMPUTE_NODES = ("c1", "c2")
CONFIG = "/etc/slurm/slurm.conf"
COMMANDS = ["sacct", "salloc", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun"]
_DATABASE = (
    "CREATE DATABASE IF NOT EXISTS slurm_acct_db;"
    "CREATE USER IF NOT EXISTS slurm@localhost IDENTIFIED VIA unix_socket;"
    "GRANT ALL ON slurm_acct_db.* TO slurm@localhost;"
)


def config(*, accounting: bool) -> str:
    """Return slurm.conf."""
    storage = "accounting_storage/slurmdbd" if accounting else "accounting_storage/none"
    text = (FILES / "slurm.conf").read_text()
    return Template(text).substitute(accounting_storage=storage)


def config_files(suite: Suite, *, accounting: bool) -> dict[str, str]:
    """Return the files that every node of the cluster has, by path."""
    return {
        CONFIG: config(accounting=accounting),
        "/etc/slurm/gres.conf": (FILES / "gres.conf").read_text(),
        "/etc/slurm/cgroup.conf": f"CgroupPlugin={suite.cgroup_plugin}\n",
    }


def start(nodes: Mapping[str, Node], *, accounting: bool) -> None:
    """Start Slurm on nodes that are up, and wait until jobs can run."""
    for name in CLUSTER_NODES:
        daemons.start(nodes[name], "munged")
    if accounting:
        start_accounting(nodes["login"])
    daemons.start(nodes["login"], "slurmctld")
    for name in COMPUTE_NODES:
        daemons.start(nodes[name], "slurmd")
    wait_idle(nodes["login"])


def start_accounting(login: Node) -> None:
    """Start the database and slurmdbd, and register the cluster and its two users."""
    conf = (FILES / "slurmdbd.conf").read_text()
    install = ["install", "-m", "600", "-o", "slurm", "/dev/stdin", "/etc/slurm/slurmdbd.conf"]
    login.run(install, user="root", input=conf)
    daemons.start(login, "mariadbd")
    ready = ["mariadb-admin", "--silent", "ping"]
    wait_until(lambda: _succeeds(login, ready), "mariadbd answers", timeout=120)
    login.run(["mariadb"], user="root", input=_DATABASE)
    daemons.start(login, "slurmdbd")
    ready = ["sacctmgr", "-n", "list", "cluster"]
    wait_until(lambda: _succeeds(login, ready), "slurmdbd answers", timeout=120)
    for what in ("cluster lab", "account research", "user owner,neighbour account=research"):
        login.run(["sacctmgr", "-i", "add", *what.split()], user="root", check=False)


def stop_accounting(login: Node) -> None:
    """Stop slurmdbd and its database."""
    for name in ("slurmdbd", "mariadbd"):
        daemons.stop(login, name)


def switch_accounting(nodes: Mapping[str, Node], *, accounting: bool) -> None:
    """Turn accounting on or off in a running cluster; its jobs live on."""
    login = nodes["login"]
    for name in CLUSTER_NODES:
        nodes[name].run(["tee", CONFIG], user="root", input=config(accounting=accounting))
    if accounting:
        start_accounting(login)
    daemons.stop(login, "slurmctld")
    # It names the cluster by a number, which slurmdbd would find to be another one.
    login.run(["rm", "-f", "/var/lib/slurm/slurmctld/clustername"], user="root")
    daemons.start(login, "slurmctld")
    wait_until(lambda: _nodes_answer(login), "both compute nodes have reported", timeout=120)
    if not accounting:
        stop_accounting(login)


def wait_idle(login: Node, timeout: float = 120) -> None:
    """Wait until both compute nodes are idle, with no job left on them."""
    wait_until(lambda: _states(login) == ["idle", "idle"], "both compute nodes are idle", timeout)


def report(login: Node) -> str:
    """Return what the cluster says of itself, for a person who looks into a failure."""
    script = (
        "sinfo --long --Node; squeue --long; scontrol show nodes; "
        "sacct --format=jobid,jobname,user,state,exitcode,nodelist 2>&1; "
        "tail -n 60 /var/log/slurm/slurmctld.log"
    )
    done = login.run(["timeout", "20", "sh", "-c", script], user="root", check=False)
    return done.stdout + done.stderr


def _states(login: Node) -> list[str]:
    argv = ["sinfo", "--noheader", "--Node", "--partition=cpu", "--format=%T"]
    return login.run(argv, check=False).stdout.split()


def _nodes_answer(login: Node) -> bool:
    """Say whether slurmctld has heard from every compute node since it started."""
    states = _states(login)
    bad = re.compile(r"down|unknown|\*$")
    return len(states) == len(COMPUTE_NODES) and not any(map(bad.search, states))


def _succeeds(node: Node, argv: list[str]) -> bool:
    return node.run(argv, user="root", check=False).returncode == 0
