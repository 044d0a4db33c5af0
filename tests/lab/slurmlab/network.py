"""The cables of the lab: a cluster network, and one link from the laptop to the login node.

    laptop 10.99.0.2 ---- 10.99.0.1 login 10.77.0.1 ---- (bridge on login) ---- c1 10.77.0.11
                                                                         `----- c2 10.77.0.12

The laptop has no route to the cluster network, and of the login node it reaches port 22 only.
Every end lies in a node's namespace, so the links vanish with the nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .host import FILES, LabError, sh

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .node import Node

CLUSTER = {"login": "10.77.0.1", "c1": "10.77.0.11", "c2": "10.77.0.12"}
OUTSIDE = {"login": "10.99.0.1", "laptop": "10.99.0.2"}
UPLINK = "eth0"


def hosts(node: str) -> str:
    """Return the /etc/hosts of a node: what it can resolve."""
    names = OUTSIDE if node == "laptop" else {**OUTSIDE, **CLUSTER}
    lines = [f"{address} {name}" for name, address in names.items()]
    return "\n".join(["127.0.0.1 localhost", *lines, ""])


def connect(nodes: Mapping[str, Node]) -> None:
    """Lay the cables between nodes that have just been started."""
    for node in nodes.values():
        _ip(node, "link set lo up")
    login = nodes["login"]
    _ip(login, "link add cluster type bridge")
    _ip(login, f"address add {CLUSTER['login']}/24 dev cluster")
    _ip(login, "link set cluster up")
    for name in ("c1", "c2"):
        _cable(nodes[name], CLUSTER[name], login, f"to-{name}")
        _ip(login, f"link set to-{name} master cluster")
    _cable(nodes["laptop"], OUTSIDE["laptop"], login, "outside")
    _ip(login, f"address add {OUTSIDE['login']}/24 dev outside")
    _inside(login, ["sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"])
    login.run(["nft", "-f", "-"], user="root", input=(FILES / "firewall.nft").read_text())


def set_link(node: Node, state: str) -> None:
    """Take a node's only cable down or up."""
    _ip(node, f"link set {UPLINK} {state}")


def join(node: Node, end: str, address: str, other: Node, far: str, far_address: str) -> None:
    """Lay one more cable, between two nodes and with an address at each end."""
    ends = f"{end} netns {_pid(node)} type veth peer name {far} netns {_pid(other)}"
    sh(["ip", "link", "add", *ends.split()])
    for where, name, own in ((node, end, address), (other, far, far_address)):
        _ip(where, f"address add {own}/24 dev {name}")
        _ip(where, f"link set {name} up")
        _ip(where, "link set lo up")


def _cable(node: Node, address: str, other: Node, far_end: str) -> None:
    ends = f"{UPLINK} netns {_pid(node)} type veth peer name {far_end} netns {_pid(other)}"
    sh(["ip", "link", "add", *ends.split()])
    _ip(node, f"address add {address}/24 dev {UPLINK}")
    _ip(node, f"link set {UPLINK} up")
    _ip(other, f"link set {far_end} up")


def _ip(node: Node, arguments: str) -> None:
    _inside(node, ["ip", *arguments.split()])


def _inside(node: Node, argv: list[str]) -> None:
    """Run a program of this machine in the node's network."""
    sh(["nsenter", f"--target={_pid(node)}", "--net", "--", *argv])


def _pid(node: Node) -> str:
    pid = node.pid()
    if pid is None:
        msg = f"node {node.name} is not up"
        raise LabError(msg)
    return str(pid)
