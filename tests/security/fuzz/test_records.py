"""Records of the state directory, half-written or made up: none, or one of the right types."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from hpc.model import Endpoint, GatewayRecord, JobHandle, Phase, ServiceSpec
from hpc.state import records
from tests.security.fuzz.budget import fuzzing

if TYPE_CHECKING:
    from pathlib import Path

KINDS: tuple[type[Any], ...] = (Endpoint, GatewayRecord, JobHandle, ServiceSpec)
SOUND: dict[type[Any], Any] = {
    Endpoint: Endpoint("s", 0, "m", "n1", 1, Phase.READY, "7", None, 1.0),
    GatewayRecord: GatewayRecord("h", "127.0.0.1", 1, 2, 3.0, 4.0, "0.2"),
    JobHandle: JobHandle("7", "slurm", "/f"),
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def plain(value: object) -> bool:
    """Return whether a value is one that a field of a record may have."""
    return isinstance(value, (str, int, float, bool, tuple, dict, Phase)) or value is None


@fuzzing
@given(st.sampled_from(list(SOUND)), st.data())
def test_one_changed_field_never_gives_a_record_of_wrong_types(
    tmp_path: Path, kind: type[Any], data: st.DataObject
) -> None:
    told = records.encode(SOUND[kind])
    name = data.draw(st.sampled_from(sorted(told)))
    told[name] = data.draw(VALUES)
    file = tmp_path / "record.json"
    file.write_text(json.dumps(told))

    found = records.read_record(file, kind)

    if found is not None:
        before = getattr(SOUND[kind], name)
        after = getattr(found, name)
        number = isinstance(before, float) and isinstance(after, (int, float))
        optional = before is None or after is None
        assert number or optional or isinstance(after, type(before)), (name, before, after)


@fuzzing
@given(st.sampled_from(list(SOUND)), st.data())
def test_half_a_record_is_none(tmp_path: Path, kind: type[Any], data: st.DataObject) -> None:
    whole = json.dumps(records.encode(SOUND[kind])).encode()
    cut = data.draw(st.integers(0, len(whole) - 1))
    file = tmp_path / "record.json"
    file.write_bytes(whole[:cut])

    assert records.read_record(file, kind) is None


@fuzzing
@given(
    st.sampled_from(KINDS), st.binary(max_size=300) | VALUES.map(lambda v: json.dumps(v).encode())
)
def test_no_bytes_raise(tmp_path: Path, kind: type[Any], data: bytes) -> None:
    file = tmp_path / "record.json"
    file.write_bytes(data)

    found = records.read_record(file, kind)

    assert found is None or all(plain(getattr(found, each.name)) for each in fields(kind))
