"""A neighbour at one of a replica's addresses holds no command and no node."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from hpc.node import own_door
from tests.fakes.login_node import free_port
from tests.security.neighbour_on_node.impostor import HEAD, impostor
from tests.waits import POLL_S

if TYPE_CHECKING:
    from tests.security.neighbour_on_node.impostor import Ear

BYTES = 600


def drip(ear: Ear) -> None:
    """Send an answer without end, each byte in time."""
    ear.connection.sendall(HEAD)
    for _ in range(BYTES):
        ear.connection.sendall(b"x")
        time.sleep(POLL_S)
    ear.dripped = True  # type: ignore[attr-defined]


def test_a_drip_of_bytes_does_not_hold_a_command() -> None:
    """The attempt at a replica's address ends at its deadline, long before the drip does."""
    port = free_port()
    with impostor(port, drip) as other:
        door = own_door.OwnDoor("127.0.0.1", port, "secret")
        with pytest.raises(own_door.SilentDoorError):
            own_door.knock(door, deadline=time.monotonic() + 10 * POLL_S)
        assert not hasattr(other.ears[0], "dripped")
        assert b"secret" not in other.heard
