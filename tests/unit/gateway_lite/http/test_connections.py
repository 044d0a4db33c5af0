"""The connection that makes room for another."""

from __future__ import annotations

import resource
from dataclasses import dataclass, field

from gateway_lite.http import protocol
from gateway_lite.http.connections import CONNECTIONS, STRANGERS, ConnectionTable
from gateway_lite.http.protocol import InferenceProtocol
from hpc.file_limit import MOST_FILES, raise_file_limit


@dataclass(eq=False)
class Connection:
    """A connection that is cut or not."""

    key: str = ""
    working: bool = False
    gone: list[int] = field(default_factory=list)
    listed: str = ""

    def shown_key(self) -> str:
        return self.key

    def idle(self) -> bool:
        return not self.working

    def cut(self) -> None:
        self.gone.append(1)


def table(most: int = 16) -> ConnectionTable:
    """Return a table of so many connections, half of them without a key."""
    made = ConnectionTable(most * 2 + 128)
    assert (made.most, made.most_strangers) == (most, most // 2)
    return made


def filled(made: ConnectionTable, count: int, **more: object) -> list[Connection]:
    found = [Connection(**more) for _ in range(count)]  # type: ignore[arg-type]
    for one in found:
        made.add(one)
    return found


def cut(connections: list[Connection]) -> list[int]:
    return [number for number, one in enumerate(connections) if one.gone]


def test_the_oldest_without_a_key_goes_first() -> None:
    made = table()
    known = filled(made, 4, key="a")
    strangers = filled(made, 10)
    assert not cut(known)
    assert cut(strangers) == [0, 1]


def test_keys_among_themselves_give_up_the_oldest_idle_of_the_heaviest() -> None:
    made = table()
    few = filled(made, 3, key="b")
    many = filled(made, 13, key="a")
    many[0].working = True
    new = filled(made, 2, key="c")
    assert not cut(few)
    assert not cut(new)
    assert cut(many) == [1, 2]


def test_a_stranger_does_not_push_out_itself_while_keys_have_all() -> None:
    made = table()
    many = filled(made, 16, key="a", working=True)
    new = filled(made, 1)
    assert not cut(new)
    assert cut(many) == [15]


def test_closed_connections_leave_room() -> None:
    made = table()
    for _ in range(5):
        for one in filled(made, 8):
            made.remove(one)
            made.remove(one)
    assert made.cuts == 0


def test_the_bound_is_below_the_number_of_files() -> None:
    assert ConnectionTable(1024).most == 448
    assert ConnectionTable(1_000_000).most == CONNECTIONS
    assert ConnectionTable(1_000_000).most_strangers == STRANGERS


def test_the_limit_on_files_is_never_lowered() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        found = raise_file_limit()
        assert found == min(before[1], max(MOST_FILES, before[0]))
        assert raise_file_limit() == found
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Buffer:
    """A transport that tells only how much waits."""

    waits = 0

    def get_write_buffer_size(self) -> int:
        return self.waits


def test_what_waits_for_a_client_must_be_gone_in_time() -> None:
    reader = object.__new__(InferenceProtocol)
    reader.transport = buffer = Buffer()  # type: ignore[assignment]
    reader._slow, reader._written, reader._due_s = True, 0, 0.0
    buffer.waits = 100_000
    for _ in range(int(protocol.SEND_S) - 1):
        buffer.waits -= 1  # it reads, though not a thousandth of what waits
        assert not reader._reads_too_slowly(1.0)
    assert reader._reads_too_slowly(1.0)


def test_a_client_that_keeps_up_may_always_have_bytes_that_wait() -> None:
    reader = object.__new__(InferenceProtocol)
    reader.transport = buffer = Buffer()  # type: ignore[assignment]
    reader._slow, reader._written, reader._due_s = True, 0, 0.0
    buffer.waits = 100_000
    for _ in range(300):
        reader._written += 5_000  # as much comes as it reads
        assert not reader._reads_too_slowly(1.0)
