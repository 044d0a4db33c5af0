"""A stolen host key that the site has revoked, and hosts that only an authority vouches for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hpc.errors import TunnelError
from hpc.tunnel import open_link
from tests.fakes.login_node import LoginNode, shared_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpc.tunnel.login import TransportName


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginNode]:
    yield from shared_node(tmp_path_factory)


@pytest.fixture(params=["openssh", "paramiko"])
def transport(request: pytest.FixtureRequest) -> TransportName:
    name: TransportName = request.param
    return name


def public(node: LoginNode, name: str) -> str:
    return " ".join((node.folder / f"{name}.pub").read_text().split()[:2])


def refused(node: LoginNode, transport: TransportName, *options: tuple[str, str]) -> str:
    before = node.said().count("Accepted")
    login = node.login(options=(*options, *node.options))
    with pytest.raises(TunnelError) as caught:
        open_link(login, transport=transport, interactive=False)
    assert node.said().count("Accepted") == before
    return str(caught.value)


@pytest.mark.parametrize("pattern", ["*", "[127.0.0.1]:{port}", "[127.0.0.*]:*,!other"])
def test_a_revoked_key_is_refused_though_it_is_known(
    node: LoginNode, transport: TransportName, pattern: str
) -> None:
    node.known()
    known = node.folder / "known_hosts"
    line = f"@revoked {pattern.format(port=node.port)} {public(node, 'host')}\n"
    known.write_text(known.read_text() + line)
    said = refused(node, transport)
    assert said == "the host key of login is marked as revoked, so nothing was sent to it"


def test_a_list_of_revoked_keys_counts(node: LoginNode, transport: TransportName) -> None:
    node.known()
    revoked = node.folder / "revoked"
    revoked.write_text(public(node, "host") + "\n")
    assert "revoked" in refused(node, transport, ("RevokedHostKeys", str(revoked)))


def test_another_revoked_key_is_no_obstacle(node: LoginNode, transport: TransportName) -> None:
    node.known()
    known = node.folder / "known_hosts"
    known.write_text(f"@revoked * {public(node, 'stranger')}\n" + known.read_text())
    open_link(node.login(), transport=transport, interactive=False).close()


def test_paramiko_says_that_it_checks_no_authority(node: LoginNode) -> None:
    line = f"@cert-authority * {public(node, 'stranger')}\n"
    (node.folder / "known_hosts").write_text(line)
    assert "(@cert-authority)" in refused(node, "paramiko")
    node.known()
    known = node.folder / "known_hosts"
    known.write_text(known.read_text() + line)
    open_link(node.login(), transport="paramiko", interactive=False).close()
