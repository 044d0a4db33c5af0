"""Passwords of addresses in pip's file of passwords, as Python reads such files."""

from __future__ import annotations

import netrc
import sys
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpc.images.carried import Packing
from hpc.images.pip_passwords import Passwords

if TYPE_CHECKING:
    from pathlib import Path

WORD = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=12)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("told") / "netrc"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="netrc before Python 3.11 misreads quotes")
@given(user=WORD.filter(bool), password=WORD)
@example(user='"', password="\\")
@example(user="#", password="machine")
@example(user="a b", password="")
def test_every_login_is_read_as_it_was_meant(file: Path, user: str, password: str) -> None:
    packing = Packing("/told")
    passwords = Passwords(packing)
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"

    bare = passwords.bare("x", f"https://{login}@H.example:8443/simple?a=b")
    passwords.pack({"NETRC": "/nowhere"}, file.parent)
    file.write_bytes(packing.files["netrc"])

    assert bare == "https://h.example:8443/simple?a=b"
    found = netrc.netrc(str(file)).authenticators("h.example")
    assert found is not None
    assert (found[0], found[2]) == (user, password)


@pytest.mark.parametrize(
    "address",
    [
        "https://h.example/simple",
        "https://h.example/a@b",
        "https://@h.example/simple",
        "git+ssh://git@h.example/a",
        "file:///a@b",
    ],
)
def test_an_address_without_a_login_for_such_a_file_stays(address: str) -> None:
    packing = Packing("/told")
    assert Passwords(packing).bare("x", address) == address
    assert packing.done().left_out == ()


@pytest.mark.parametrize(
    "address", ["https://u:p@[::1]/s", "https://:p@h.example/s", "https://u:p%0Ax@h.example/s"]
)
def test_a_login_that_no_file_can_hold_stays_and_is_told(address: str) -> None:
    packing = Packing("/told")
    assert Passwords(packing).bare("x", address) == address
    assert len(packing.done().left_out) == 1
