"""A jump host: a fifth node between the laptop and an entrance of login that only it reaches.

laptop 10.97.0.2 ---- 10.97.0.1 gate 10.98.0.2 ---- 10.98.0.1 login (there called "inner")
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from . import boot, network
from .node import Bind, Node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .lab import Lab

ADDRESS = "10.97.0.1"
INNER = "10.98.0.1"
_CONFIG = """
Host gate
  HostName {gate}
Host inner
  ProxyJump gate
"""


@contextmanager
def gate(lab: Lab) -> Iterator[Node]:
    """Run the jump host; the laptop's ssh configuration has it on the way to "inner"."""
    node = Node("gate", lab.folder / "nodes" / "gate", tied=True)
    node.prepare({"/etc/hosts": f"127.0.0.1 localhost\n{INNER} inner\n", "/etc/hostname": "gate\n"})
    before = lab.run("laptop", ["cat", ".ssh/known_hosts"]).stdout
    laptop, login = lab.nodes["laptop"], lab.nodes["login"]
    node.start(lab.build(), [Bind(lab.homes, "/home", writable=True)])
    try:
        network.join(laptop, "to-gate", "10.97.0.2", node, "eth0", ADDRESS)
        network.join(node, "eth1", "10.98.0.2", login, "to-gate", INNER)
        key = boot.start_sshd(node)
        inner = lab.run("login", ["cat", f"{boot.HOST_KEY}.pub"]).stdout
        known = "".join(
            f"{name} {' '.join(text.split()[:2])}\n"
            for name, text in ((ADDRESS, key), ("inner", inner))
        )
        lab.write_file("/home/owner/.ssh/known_hosts", before + known, node="laptop")
        lab.write_file("/home/owner/.ssh/config", _CONFIG.format(gate=ADDRESS), node="laptop")
        yield node
    finally:
        node.stop()
        lab.run("laptop", ["rm", "-f", ".ssh/config"])
        lab.write_file("/home/owner/.ssh/known_hosts", before, node="laptop")
