"""The names and addresses by which other machines may reach this node."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from hpc.errors import EngineError
from hpc.node.environment import node_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LOOPBACK = "127.0.0.1"
EVERY_IPV4 = "0.0.0.0"  # noqa: S104 - a sidecar asks each connection for a proof
EVERY_IPV6 = "::"
BRIDGES = ("br-", "cni", "docker", "flannel", "lo", "lxc", "podman", "veth", "virbr")
"""Beginnings of the names of interfaces that lead nowhere beyond the node."""
MOST = 8
"""Names and addresses in a record; each is a connection that a gateway may have to try."""


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """The addresses of a replica.

    Attributes:
        host: the name or address to try first.
        others: further names and addresses, in the order to try.
        bind: address that the sidecar listens at.
        dial: address of the sidecar for this node itself.
    """

    host: str
    others: tuple[str, ...] = ()
    bind: str = LOOPBACK
    dial: str = LOOPBACK


def of_node(env: Mapping[str, str], interface: str | None) -> NodeAddresses:
    """Return this node's addresses in a job; outside Slurm, loopback alone.

    NodeName need not be a name that the network knows, nor the host name one that leads to the
    network between login and compute nodes.

    Args:
        env: the job's environment.
        interface: name of the only interface to use, or a network such as ``10.1.0.0/16``.

    Raises:
        EngineError: the node has no such interface.
    """
    if "SLURM_JOB_ID" not in env:
        return NodeAddresses(LOOPBACK)
    found = interfaces()
    if interface is not None:
        address = _chosen(found, interface)
        return NodeAddresses(address, bind=address, dial=address)
    own, node = socket.gethostname(), node_name(env)
    outward = [each for name, each in found if not name.startswith(BRIDGES)]
    ipv4 = [each for each in outward if ":" not in each]
    names = (node, own.partition(".")[0], own, socket.getfqdn())
    known = dict.fromkeys(name for name in names if name and not name.startswith("localhost"))
    host, *others = dict.fromkeys([*known, *(ipv4 or outward)]) or [LOOPBACK]
    bind = EVERY_IPV6 if outward and not ipv4 else EVERY_IPV4
    dial = "::1" if bind == EVERY_IPV6 else LOOPBACK
    return NodeAddresses(host, tuple(others[: MOST - 1]), bind, dial)


def interfaces() -> list[tuple[str, str]]:
    """Return the interfaces' names and addresses that are no loopback or link-local ones."""
    return [
        (name, entry.address)
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6) and _routed(entry.address)
    ]


def _routed(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    return not (found.is_loopback or found.is_link_local or found.is_unspecified)


def _chosen(found: Sequence[tuple[str, str]], interface: str) -> str:
    """Return the first address of an interface or network, IPv4 before IPv6."""
    fitting = sorted(_fitting(found, interface), key=lambda address: ":" in address)
    if not fitting:
        there = ", ".join(f"{name} ({address})" for name, address in found) or "none"
        raise EngineError(
            f"the node {socket.gethostname()} has no interface {interface}; it has: {there}",
            hint="the key 'interface' names an interface or a network, such as 10.1.0.0/16",
        )
    return fitting[0]


def _fitting(found: Sequence[tuple[str, str]], interface: str) -> Iterator[str]:
    try:
        network = ipaddress.ip_network(interface, strict=False)
    except ValueError:
        yield from (address for name, address in found if name == interface)
    else:
        yield from (each for _, each in found if ipaddress.ip_address(each) in network)
