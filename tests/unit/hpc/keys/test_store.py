"""Client keys: only hashes are kept, in a file that others cannot read."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hpc.errors import ConfigError, StateError
from hpc.keys import limits as key_limits
from hpc.keys import store as key_store
from hpc.state import lock

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def test_a_key_is_shown_once_and_kept_as_its_hash(path: Path) -> None:
    secret, entry = key_store.add(path, "alice", models=("a", "b"))
    text = path.read_text()
    assert secret.startswith("hs-")
    assert len(secret) >= 3 + 43
    assert secret not in text
    assert secret[3:] not in text
    assert entry.sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert path.stat().st_mode & 0o777 == 0o600
    assert key_store.load(path) == (entry,)


def test_the_ring_finds_keys_in_force_only(path: Path) -> None:
    plain, _ = key_store.add(path, "plain")
    dated, _ = key_store.add(path, "dated", expires=NOW)
    ended, _ = key_store.add(path, "ended")
    key_store.revoke(path, "ended")
    ring = key_store.Keyring(key_store.load(path))

    def name(secret: str, at: datetime) -> str | None:
        found = ring.find(secret.encode(), at)
        return found.name if found else None

    assert name(plain, NOW) == "plain"
    assert name(dated, NOW - timedelta(seconds=1)) == "dated"
    assert name(dated, NOW) is None
    assert name(ended, NOW) is None
    for wrong in ("", "hs-", plain[:-1], plain + "x", plain.upper()):
        assert name(wrong, NOW) is None
    assert ring.find(b"\xff\x00") is None


def test_an_allow_list_is_exact(path: Path) -> None:
    _, some = key_store.add(path, "some", models=("llama",))
    _, all_ = key_store.add(path, "all")
    assert (some.allows("llama"), some.allows("llama2"), some.allows("all")) == (True, False, False)
    assert all_.allows("anything")


def test_a_name_is_free_again_after_revocation(path: Path) -> None:
    _, first = key_store.add(path, "alice")
    with pytest.raises(ConfigError, match="there is a key named 'alice' already"):
        key_store.add(path, "alice")
    assert key_store.revoke(path, "alice").id == first.id
    _, second = key_store.add(path, "alice")
    assert key_store.revoke(path, second.id).id == second.id
    assert [key.revoked is None for key in key_store.load(path)] == [False, False]
    with pytest.raises(ConfigError, match="there is no key 'alice' to revoke; there are: none"):
        key_store.revoke(path, "alice")


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "-a", "x" * 64, "a/b"])
def test_a_name_must_be_plain(path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is not a name for a key"):
        key_store.add(path, name)
    assert not path.exists()


def test_no_file_is_no_keys(path: Path) -> None:
    assert key_store.load(path) == ()
    assert key_store.stamp(path) is None


def test_a_folder_that_is_gone_is_not_a_file_without_keys(path: Path) -> None:
    with pytest.raises(StateError, match="cannot read"):
        key_store.stamp(path.parent / "gone" / "keys.yaml")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o601])
def test_a_file_open_to_others_is_not_used(path: Path, mode: int) -> None:
    key_store.add(path, "alice")
    path.chmod(mode)
    for use in (
        lambda: key_store.load(path),
        lambda: key_store.add(path, "bob"),
        lambda: key_store.revoke(path, "alice"),
    ):
        with pytest.raises(ConfigError, match=r"is open to others \(mode 6\d\d\)") as caught:
            use()
        assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_not_used(path: Path) -> None:
    key_store.add(path, "alice")
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to uid 12345"):
        key_store.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keys: [", "is not YAML: line 2"),
        ("- 1", "the file: "),
        ("version: 2\nkeys: []", "version: "),
        ("keys: [{name: alice}]", r"keys\.0\.id: field required"),
        ("kyes: []", "kyes: extra inputs are not permitted"),
    ],
)
def test_a_bad_file_is_told_with_its_place(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=message):
        key_store.load(path)


def test_a_complaint_never_shows_a_value(path: Path) -> None:
    path.write_text("keys:\n- {id: hs-secret, name: alice, sha256: hs-secret}\n")
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        key_store.load(path)
    assert "hs-secret" not in str(caught.value)


def test_the_file_reads_well_and_survives_an_edit_by_hand(path: Path) -> None:
    _, entry = key_store.add(path, "alice", models=("m",), expires=NOW)
    data = yaml.safe_load(path.read_text())
    assert data["version"] == 1
    assert data["keys"][0]["models"] == ["m"]
    assert data["keys"][0]["expires"] == NOW
    path.write_text(path.read_text().replace("2026-11-20 12:00:00+00:00", "2026-11-20T12:00:00Z"))
    path.chmod(0o600)
    assert key_store.load(path) == (entry,)


def test_limits_are_kept_changed_and_taken_away(path: Path) -> None:
    _, entry = key_store.add(path, "alice", limits=key_limits.KeyLimits(rpm=60, tpm=1000))
    _, other = key_store.add(path, "bob")
    changed = key_store.change(path, "alice", {"rpm": None, "daily_tokens": 5})
    assert (entry.sha256, entry.id) == (changed.sha256, changed.id)
    assert changed.limits == key_limits.KeyLimits(tpm=1000, daily_tokens=5)
    assert key_store.load(path) == (changed, other)
    assert yaml.safe_load(path.read_text())["keys"][0]["limits"] == {"tpm": 1000, "daily_tokens": 5}

    bare = key_store.change(path, changed.id, {"tpm": None, "daily_tokens": None})
    assert bare.limits is None
    assert "limits" not in path.read_text()
    key_store.revoke(path, "bob")
    with pytest.raises(ConfigError, match="there is no key 'bob' to change; there are: alice"):
        key_store.change(path, "bob", {"rpm": 1})


@pytest.mark.parametrize(("name", "value"), [("rpm", 0), ("tpm", -1), ("speed", 3)])
def test_a_limit_by_hand_that_is_none_is_told(path: Path, name: str, value: int) -> None:
    key_store.add(path, "alice", limits=key_limits.KeyLimits(rpm=60))
    path.write_text(path.read_text().replace("rpm: 60", f"{name}: {value}"))
    with pytest.raises(ConfigError, match=rf"keys\.0\.limits\.{name}: "):
        key_store.load(path)


def test_keys_made_at_the_same_time_are_all_kept(path: Path) -> None:
    names = [f"user{number}" for number in range(12)]
    program = "import sys; from pathlib import Path; from hpc.keys import store as keys; "
    program += "[keys.add(Path(sys.argv[1]), name) for name in sys.argv[2:]]"
    crews = [
        subprocess.Popen([sys.executable, "-c", program, str(path), *names[start::3]])
        for start in range(3)
    ]
    assert [crew.wait() for crew in crews] == [0, 0, 0]

    assert sorted(key.name for key in key_store.load(path)) == sorted(names)
    assert (path.parent / ".keys.yaml.lock").stat().st_mode & 0o777 == 0o600


def test_a_lock_that_is_never_given_back_is_told(path: Path) -> None:
    with (
        lock.exclusive(path),
        pytest.raises(StateError, match="another command has been changing"),
        lock.exclusive(path, patience_s=0.05),
    ):
        pytest.fail("two have it")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1", 1),
        ("600", 600),
        ("20k", 20_000),
        ("1.5M", 1_500_000),
        ("2G", 2 * 10**9),
        (" 3K ", 3000),
    ],
)
def test_counts(text: str, count: int) -> None:
    assert key_limits.parse_count(text) == count


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "0.0001k", "1e3", "k", "5T", "1000000G"])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number; allowed"):
        key_limits.parse_count(text)


@given(st.integers(1, 10**12))
def test_a_short_count_is_the_same_count(count: int) -> None:
    assert key_limits.parse_count(key_limits.short(count)) == count


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("5M", {"total_tokens": 5_000_000}),
        ("1k/day", {"daily_tokens": 1000}),
        ("1k/day, 2k/total", {"daily_tokens": 1000, "total_tokens": 2000}),
    ],
)
def test_budgets(text: str, budget: dict[str, int]) -> None:
    assert key_limits.parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "1k/week", "1k/day,2k/day", "1k,2k/total", "/day", "x/day"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(ValueError, match="allowed"):
        key_limits.parse_budget(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12h", NOW + timedelta(hours=12)),
        ("30d", NOW + timedelta(days=30)),
        ("4w", NOW + timedelta(weeks=4)),
        ("2027-03-31", datetime(2027, 3, 31, tzinfo=timezone.utc)),
    ],
)
def test_expiries(text: str, expected: datetime) -> None:
    assert key_limits.parse_expiry(text, NOW) == expected


@pytest.mark.parametrize(
    "text", ["", "30", "0d", "-1d", "1.5d", "soon", "2026-11-20", "31-03-2027"]
)
def test_what_is_no_expiry(text: str) -> None:
    with pytest.raises(ValueError, match=r"allowed|in the past"):
        key_limits.parse_expiry(text, NOW)
