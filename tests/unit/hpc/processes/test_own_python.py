"""The command and the variables of our own modules as programs."""

from __future__ import annotations

import os
import sys

import pytest

from hpc.processes import own_python


def test_the_command_names_the_launcher_and_reads_well_in_ps() -> None:
    made = own_python.argv("gateway_lite", "run", "--port", "0", options=("-u",))
    assert made[:2] == [sys.executable, "-u"]
    assert made[2].endswith("/hpc/processes/run_module.py")
    assert " ".join(made[3:]) == "gateway_lite run --port 0"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/lib", "/lib"),
        ("/lib:", "/lib"),
        (":/lib::/more:.:lib:../x", "/lib:/more"),
        (":", None),
        ("", None),
        (".", None),
    ],
)
def test_entries_relative_to_the_working_folder_are_left_out(given: str, kept: str | None) -> None:
    found = own_python.environment({"PYTHONPATH": given, "A": "."})
    assert found.get("PYTHONPATH") == kept
    assert found["A"] == "."


@pytest.mark.parametrize("name", own_python.FOLDERS)
def test_relative_folders_of_code_are_left_out(name: str) -> None:
    assert name not in own_python.environment({name: "here"})
    assert own_python.environment({name: "/there"}) == {name: "/there"}


def test_the_variables_are_ours_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/lib:")
    assert own_python.environment() == {**os.environ, "PYTHONPATH": "/lib"}


def test_programs_of_others_import_what_lies_beside_them() -> None:
    assert own_python.for_others({"PYTHONSAFEPATH": "1", "A": "b"}) == {"A": "b"}
