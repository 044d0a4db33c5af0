"""The shared state directory: whole files, private files, and readers that tolerate."""

from __future__ import annotations

import json
import os
import resource
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpc.errors import StateError
from hpc.model import Endpoint, GatewayRecord, JobHandle, Phase, Resources, ServiceSpec
from hpc.state import directory, files, records
from hpc.state import records as state_records

if TYPE_CHECKING:
    from collections.abc import Iterator

SPEC = ServiceSpec(
    name="mistral",
    engine="vllm",
    server="vllm",
    model="mistralai/Mistral-7B",
    image="/images/vllm.sif",
    replicas=2,
    resources=Resources(partition="gpu", gpus=2, time_min=0, extra={"exclusive": ""}),
    engine_args={"max-model-len": 8192, "enable-prefix-caching": True, "rate": 0.5},
    env={"A": "b c"},
    binds=("/data:/data:ro", "/scratch"),
    setup=("module load cuda",),
)
ENDPOINT = Endpoint(
    service="mistral",
    replica=1,
    model="mistral",
    host="node7",
    port=40123,
    phase=Phase.READY,
    job_id="17",
    ends_at=None,
    beat_at=12.5,
    phases={"STARTING": 1.0, "READY": 12.5},
    slots=4,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Let every write beyond a size fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_home_is_made_for_its_owner_only(tmp_path: Path) -> None:
    root = directory.home(str(tmp_path / "a" / "b"))
    assert root == tmp_path / "a" / "b"
    assert mode(root) == 0o700


def test_a_home_that_others_could_read_is_closed(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    assert mode(directory.home(str(tmp_path / "open"))) == 0o700


def test_home_is_where_the_variable_says_unless_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HPC_SERVE_HOME", "named")
    assert directory.home() == tmp_path / "named"
    assert directory.home(str(tmp_path / "given")) == tmp_path / "given"
    monkeypatch.delenv("HPC_SERVE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", unset)
        assert directory.home() == tmp_path / "user/.local/state/hpc-serve"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "states"))
    assert directory.home() == tmp_path / "states/hpc-serve"


def test_a_home_of_somebody_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    if os.getuid() == 0:
        foreign = tmp_path / "foreign"
        foreign.mkdir(mode=0o777)
        os.chown(foreign, 65534, 65534)
    else:
        foreign = Path("/usr")
    before = mode(foreign)
    with pytest.raises(StateError, match=r"belongs to uid \d+, not to you"):
        directory.home(str(foreign))
    assert mode(foreign) == before


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match=f"state directory {tmp_path}/file/x: Not a directory"):
        directory.home(str(tmp_path / "file" / "x"))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    job = JobHandle("17", "slurm", "/jobs", 3.5)
    directory.save_spec(tmp_path, SPEC)
    directory.save_job(tmp_path, "mistral", 1, job)
    directory.save_endpoint(tmp_path, ENDPOINT)
    assert directory.load_spec(tmp_path, "mistral") == SPEC
    assert directory.load_job(tmp_path, "mistral", 1) == job
    assert directory.load_job(tmp_path, "mistral", 0) is None
    assert directory.endpoints(tmp_path, "mistral") == [ENDPOINT]
    assert list(directory.replicas(tmp_path, "mistral")) == [0, 1]
    assert directory.services(tmp_path) == ["mistral"]


def test_a_gateways_record_comes_and_goes(tmp_path: Path) -> None:
    record = GatewayRecord("login1", "127.0.0.1", 8081, 7, 1.0, 2.0, "0.1")
    directory.save_gateway(tmp_path, record)
    assert directory.load_gateway(tmp_path, "login1") == record
    assert directory.load_gateway(tmp_path, "login2") is None
    directory.drop_gateway(tmp_path, "login1")
    directory.drop_gateway(tmp_path, "login1")
    assert directory.load_gateway(tmp_path, "login1") is None


def test_files_and_folders_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        root = directory.home(str(tmp_path / "home"))
        files.write_text(root / "made" / "file", "x")
        secret = directory.new_secret(root, "mistral", 0)
    finally:
        os.umask(before)
    assert mode(root / "made") == 0o700
    assert mode(root / "made" / "file") == 0o600
    assert mode(directory.secret_path(root, "mistral", 0)) == 0o600
    assert mode(directory.replica_dir(root, "mistral", 0)) == 0o700
    assert directory.load_secret(root, "mistral", 0) == secret


def test_secrets_are_long_differ_and_go(tmp_path: Path) -> None:
    first, second = (directory.new_secret(tmp_path, "mistral", 0) for _ in range(2))
    assert first != second
    assert len(first) >= directory.SECRET_BYTES
    assert directory.load_secret(tmp_path, "mistral", 0) == second
    directory.drop_secret(tmp_path, "mistral", 0)
    directory.drop_secret(tmp_path, "mistral", 0)
    assert directory.load_secret(tmp_path, "mistral", 0) is None


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_text(path, "old")
    with path.open() as reader:
        files.write_text(path, "new and longer")
        assert reader.read() == "old"
    assert path.read_text() == "new and longer"
    assert names(tmp_path) == ["file"]


def test_a_write_to_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_text(path, "old")
    with (
        files_end_at(100),
        pytest.raises(StateError, match=rf"cannot write {path}: File too large"),
    ):
        files.write_text(path, "x" * 101)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_text_that_no_file_can_hold_leaves_nothing_either(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "lone surrogate \udc80")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_write_over_a_folder_fails_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(StateError, match="cannot write"):
        files.write_text(tmp_path / "file", "x")
    assert names(tmp_path) == ["file"]


def test_a_write_below_a_file_names_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match=f"cannot write {tmp_path}/file/x/y: Not a directory"):
        files.write_text(tmp_path / "file" / "x" / "y", "x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"service": "mistral", "repl',
        "null",
        "[]",
        "17",
        '"text"',
        "{}",
        json.dumps(records.encode(ENDPOINT) | {"phase": "A_PHASE_OF_THE_FUTURE"}),
    ],
)
def test_a_record_that_is_partial_or_wrong_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "endpoint.json"
    path.write_text(text)
    assert state_records.read_record(path, Endpoint) is None


def test_every_beginning_of_a_record_is_none(tmp_path: Path) -> None:
    path = tmp_path / "endpoint.json"
    whole = json.dumps(records.encode(ENDPOINT))
    for size in range(len(whole)):
        path.write_text(whole[:size])
        assert state_records.read_record(path, Endpoint) is None


def test_a_newer_record_is_read_without_what_it_adds(tmp_path: Path) -> None:
    newer = records.encode(SPEC) | {"schema": 9, "colour": "red"}
    newer["resources"] |= {"tpus": 4}
    path = directory.service_dir(tmp_path, "mistral") / "spec.json"
    files.write_text(path, json.dumps(newer))
    found = directory.load_spec(tmp_path, "mistral")
    assert found is not None
    assert found.schema == 9
    assert found.resources == SPEC.resources


def test_an_older_record_gets_the_defaults(tmp_path: Path) -> None:
    older = records.encode(ENDPOINT)
    del older["slots"], older["phases"]
    files.write_text(tmp_path / "endpoint.json", json.dumps(older))
    found = state_records.read_record(tmp_path / "endpoint.json", Endpoint)
    assert found is not None
    assert (found.slots, found.phases, found.port) == (None, {}, 40123)


def test_what_is_no_text_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff\xfe\x00")
    assert files.read_text(tmp_path / "file") is None
    assert files.read_text(tmp_path) is None
    assert files.read_text(tmp_path / "missing") is None


def test_only_records_are_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not a record"):
        state_records.write_record(tmp_path / "file", {"a": 1})
    with pytest.raises(TypeError, match="not a record"):
        state_records.write_record(tmp_path / "file", Endpoint)
    assert names(tmp_path) == []


def test_services_are_folders_that_do_not_begin_with_a_dot(tmp_path: Path) -> None:
    assert directory.services(tmp_path) == []
    for name in ("b", "a", ".nfs01"):
        directory.service_dir(tmp_path, name).mkdir(parents=True)
    (tmp_path / "services" / "file").touch()
    assert directory.services(tmp_path) == ["a", "b"]
    assert directory.load_spec(tmp_path, "a") is None
    assert directory.endpoints(tmp_path, "a") == []


def test_a_dropped_service_is_gone_and_dropping_again_is_nothing(tmp_path: Path) -> None:
    directory.save_spec(tmp_path, SPEC)
    directory.save_endpoint(tmp_path, ENDPOINT)
    directory.drop_service(tmp_path, "mistral")
    directory.drop_service(tmp_path, "mistral")
    assert directory.services(tmp_path) == []
