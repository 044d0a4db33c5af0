"""Locks: each is complete for each Python, and says so without a network."""

from __future__ import annotations

from importlib import metadata

import pytest

from scripts import locks
from scripts.locks import Lock

HASH = "    --hash=sha256:" + 64 * "0" + "\n"
TOPS = ("hs-alpha>=1", "hs-delta; python_version < '3.11'")
LOCK = (
    f"# A comment.\nhs-alpha==1.5 \\\n{HASH}    # requires hs-beta[fast]>=2\n"
    f"hs-beta==2.0 \\\n{HASH}"
    "    # requires hs-gamma<4 ; extra == 'fast'\n"
    "    # requires hs-nothing ; extra == 'slow'\n"
    f"hs-delta==1.0 ; python_full_version < '3.11' \\\n{HASH}"
    f"hs-gamma==3.9 \\\n{HASH}"
)


def check(text: str, *more: str) -> list[str]:
    return locks.check(text, (*TOPS, *more), Lock("test"))


def without(name: str) -> str:
    """Return the lock without one of its pins."""
    head, _, rest = LOCK.partition(f"{name}==")
    tail = rest.partition("\nhs-")
    return head + "".join(tail[1:]).lstrip("\n")


def test_a_complete_lock_has_no_fault() -> None:
    assert check(LOCK) == []


@pytest.mark.parametrize("lock", locks.LOCKS, ids=lambda lock: lock.name)
def test_every_lock_of_this_checkout_is_complete_and_in_step(lock: Lock) -> None:
    assert locks.faults([lock]) == []


@pytest.mark.parametrize("name", ["hs-beta", "hs-gamma"])
def test_a_pin_that_is_gone_is_missed_on_every_python(name: str) -> None:
    (fault,) = [one for one in check(without(name)) if "nothing requires it" not in one]

    assert fault.startswith(name)
    assert "is not pinned; hs-" in fault
    assert fault.endswith("on Python 3.10, 3.11, 3.12, 3.13, 3.14")


def test_a_pin_for_one_python_is_missed_on_that_python_only() -> None:
    (fault,) = check(without("hs-delta"))

    assert fault.endswith("is not pinned; the project requires it on Python 3.10")


def test_a_marker_that_leaves_out_a_python_is_seen() -> None:
    narrow = LOCK.replace("hs-gamma==3.9 ", "hs-gamma==3.9 ; python_full_version < '3.13' ")
    (fault,) = check(narrow)

    assert fault.endswith("requires it on Python 3.13, 3.14")


def test_a_dependency_that_was_never_locked_is_named() -> None:
    assert any("hs-new>=1 is not pinned; the project" in one for one in check(LOCK, "hs-new>=1"))


def test_a_specifier_that_excludes_the_pin_is_named() -> None:
    assert check(LOCK, "hs-alpha>=1.6") == [
        "hs-alpha==1.5 is pinned, but the project requires hs-alpha>=1.6"
    ]
    assert check(LOCK.replace("hs-gamma==3.9", "hs-gamma==4.1")) == [
        "hs-gamma==4.1 is pinned, but hs-beta==2.0 requires hs-gamma<4 ; extra == 'fast'"
    ]


def test_an_extra_is_followed_only_where_it_is_asked_for() -> None:
    told = check(LOCK.replace("hs-beta[fast]", "hs-beta[slow]"))

    assert "hs-gamma==3.9 is pinned, and nothing requires it" in told
    assert any(one.startswith("hs-nothing") for one in told)


def test_a_pin_that_nothing_requires_is_named() -> None:
    told = check(f"{LOCK}hs-old==1 \\\n{HASH}")

    assert told == ["hs-old==1 is pinned, and nothing requires it"]


def test_a_pin_for_windows_is_nobodys_business() -> None:
    assert check(f"{LOCK}hs-win==1 ; sys_platform == 'win32' \\\n{HASH}") == []


def test_two_pins_of_one_package_are_told_apart_by_their_markers() -> None:
    apart = LOCK.replace("hs-gamma==3.9 ", "hs-gamma==3.9 ; python_full_version < '3.12' ")
    both = f"{apart}hs-gamma==3.8 ; python_full_version >= '3.12' \\\n{HASH}"

    assert check(both) == []
    assert "hs-gamma is pinned twice on Python 3.12" in check(f"{LOCK}hs-gamma==3.8 \\\n{HASH}")


@pytest.mark.parametrize("line", ["hs-more>=1", "-e .", "hs-more @ file:///tmp/a.whl"])
def test_a_line_that_pins_nothing_is_no_part_of_a_lock(line: str) -> None:
    assert check(f"{LOCK}{line}\n") == [f"line 13 is neither NAME==VERSION nor a hash: {line}"]


def test_a_pin_without_a_hash_is_named() -> None:
    assert check(LOCK.replace(f"hs-gamma==3.9 \\\n{HASH}", "hs-gamma==3.9\n")) == [
        "hs-gamma==3.9 has no hash"
    ]


def test_an_installed_package_is_believed_more_than_the_lock() -> None:
    """A version that was changed by hand keeps the comments of the one before."""
    version = metadata.version("jinja2")
    pins = f"jinja2=={version} \\\n{HASH}"

    assert locks.check(pins, ["jinja2"], Lock("test", pythons=("3.11",))) == [
        f"MarkupSafe>=2.0 is not pinned; jinja2=={version} requires it on Python 3.11"
    ]


def test_requirements_are_noted_below_their_pin_and_once() -> None:
    edges = {("hs-alpha", "1.5"): ["hs-beta>=3"]}
    once = locks.annotated(LOCK, edges)
    pins, faults = locks.parse(once)

    assert faults == []
    assert [pin.requires for pin in pins] == [("hs-beta>=3",), (), (), ()]
    assert locks.annotated(once, edges) == once
