"""The names and addresses that a node publishes."""

from __future__ import annotations

import socket
from typing import NamedTuple

import psutil
import pytest

from hpc.errors import EngineError
from hpc.node import addresses

JOB = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n17"}


class Entry(NamedTuple):
    """An address as psutil has it."""

    family: int
    address: str


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    four, six = socket.AF_INET, socket.AF_INET6
    found = {
        "lo": [Entry(four, "127.0.0.1"), Entry(six, "::1"), Entry(-1, "00:00:00:00:00:00")],
        "eth0": [Entry(four, "10.1.0.17"), Entry(six, "fe80::1%eth0"), Entry(six, "2001:db8::17")],
        "hsn0": [Entry(four, "10.9.0.17")],
        "docker0": [Entry(four, "172.17.0.1")],
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu17.cluster")
    monkeypatch.setattr(socket, "getfqdn", lambda: "gpu17.cluster.example.org")


def test_a_node_publishes_all_names_and_outward_addresses() -> None:
    found = addresses.of_node(JOB, None)
    assert found.host == "n17"
    assert found.others == (
        *("gpu17", "gpu17.cluster", "gpu17.cluster.example.org", "10.1.0.17", "10.9.0.17"),
    )
    assert (found.bind, found.dial) == ("0.0.0.0", "127.0.0.1")


@pytest.mark.parametrize(
    ("interface", "address"),
    [("hsn0", "10.9.0.17"), ("10.9.0.0/16", "10.9.0.17"), ("2001:db8::/32", "2001:db8::17")],
)
def test_a_chosen_interface_is_the_only_address(interface: str, address: str) -> None:
    found = addresses.of_node(JOB, interface)
    assert (found.host, found.others, found.bind, found.dial) == (address, (), address, address)


def test_a_missing_interface_is_told_with_those_that_are_there() -> None:
    with pytest.raises(EngineError, match=r"no interface ib0; it has: eth0 \(10\.1\.0\.17\), "):
        addresses.of_node(JOB, "ib0")


def test_outside_slurm_only_loopback_is_published() -> None:
    found = addresses.of_node({}, "hsn0")
    assert (found.host, found.others, found.bind) == ("127.0.0.1", (), "127.0.0.1")


def test_a_node_without_ipv4_listens_on_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    only = {"eth0": [Entry(socket.AF_INET6, "2001:db8::17")]}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: only)
    found = addresses.of_node(JOB, None)
    assert (found.bind, found.dial, found.others[-1]) == ("::", "::1", "2001:db8::17")
