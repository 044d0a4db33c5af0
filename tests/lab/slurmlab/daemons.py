"""The daemons of the lab's nodes, started one by one and stopped by the number they recorded."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .host import LabError, wait_until

if TYPE_CHECKING:
    from .node import Node


@dataclass(frozen=True)
class Daemon:
    """How a daemon starts and where it records its number.

    Args:
        start: shell text that starts it in the background; $(hostname) is the node.
        pidfile: where it writes its process number.
        user: the account that starts it.
    """

    start: str
    pidfile: str
    user: str = "root"


_MARIADB = (
    "mariadbd --user=mysql --skip-networking --innodb-flush-log-at-trx-commit=0 "
    "--pid-file=/run/mysqld/mysqld.pid "
    "--log-error=/run/mysqld/lab.err >/dev/null 2>&1 </dev/null &"
)
DAEMONS = {
    "munged": Daemon("munged", "/run/munge/munged.pid", "munge"),
    "sshd": Daemon("/usr/sbin/sshd", "/run/sshd.pid"),
    "slurmctld": Daemon("slurmctld", "/run/slurm/slurmctld.pid"),
    "slurmd": Daemon("slurmd -N $(hostname)", "/run/slurm/slurmd.pid"),
    "mariadbd": Daemon(_MARIADB, "/run/mysqld/mysqld.pid"),
    "slurmdbd": Daemon("slurmdbd", "/run/slurm/slurmdbd.pid"),
}


def start(node: Node, name: str) -> None:
    """Start a daemon and wait until it has recorded its number.

    Raises:
        LabError: no such daemon, or it did not start.
    """
    daemon = _lookup(name)
    node.run(["sh", "-c", daemon.start], user=daemon.user, cwd="/")
    wait_until(lambda: pid(node, name) is not None, f"{name} runs on {node.name}", timeout=120)


def stop(node: Node, name: str, sig: int = signal.SIGTERM) -> None:
    """Stop a daemon and wait until it is gone; one that does not run is left as it is."""
    send_signal(node, name, sig)
    wait_until(lambda: pid(node, name) is None, f"{name} on {node.name} is gone", timeout=120)
    node.run(["rm", "-f", _lookup(name).pidfile], user="root")


def send_signal(node: Node, name: str, sig: int) -> None:
    """Send a daemon a signal, such as SIGSTOP for a controller that hangs."""
    number = pid(node, name)
    if number is not None:
        node.run(["kill", f"-{int(sig)}", str(number)], user="root")


def pid(node: Node, name: str) -> int | None:
    """Return a daemon's process number on its node, or None when it does not run."""
    script = 'pid=$(cat "$0") && [ "$(cat "/proc/$pid/comm")" = "$1" ] && echo "$pid"'
    argv = ["sh", "-c", script, _lookup(name).pidfile, name]
    answer = node.run(argv, user="root", check=False).stdout.strip()
    return int(answer) if answer else None


def _lookup(name: str) -> Daemon:
    if name not in DAEMONS:
        msg = f"no daemon {name}; there are {', '.join(DAEMONS)}"
        raise LabError(msg)
    return DAEMONS[name]
