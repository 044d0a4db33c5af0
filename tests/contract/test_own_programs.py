"""Programs that we start: their umask, and the variables of the second process of connect."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from hpc.errors import CommandError
from hpc.node import engine_process
from hpc.processes import own_python, programs
from hpc.state import private

if TYPE_CHECKING:
    from pathlib import Path

UMASK = ["/bin/sh", "-c", "umask"]
PATIENCE_S = 60.0


def test_a_program_gets_our_umask_or_the_given_one(tmp_path: Path) -> None:
    with private.users_umask():
        ours = programs.run(UMASK).stdout
    assert int(ours, 8) == private.user_umask()
    assert int(programs.run(UMASK, umask=0o027).stdout, 8) == 0o027
    child = programs.spawn(UMASK, log=tmp_path / "log", umask=0o026)
    assert child.wait(PATIENCE_S) == 0
    assert int((tmp_path / "log").read_text(), 8) == 0o026
    write = ["/bin/sh", "-c", f"umask >{tmp_path}/attached"]
    assert programs.run_attached(write, umask=0o025) == 0
    assert int((tmp_path / "attached").read_text(), 8) == 0o025


def test_the_first_line_comes_from_a_program_with_the_given_variables() -> None:
    line, status = programs.first_line(["/bin/sh", "-c", "echo $A$B"], env={"A": "x"})
    assert (line, status) == ("x\n", None)
    with pytest.raises(CommandError):
        programs.first_line(["/no/such/program"], env={})


def test_a_groups_cache_of_weights_keeps_the_users_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "_users", 0o002)
    engine_process._make_cache(tmp_path / "group/cache")
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "group", tmp_path / "group/cache")]
    assert modes == [0o775, 0o775]


def test_a_module_runs_as_with_m_but_for_the_search_path(tmp_path: Path) -> None:
    (tmp_path / "hpc").mkdir()
    (tmp_path / "hpc/__init__.py").write_text("raise SystemExit(86)\n")
    done = programs.run(own_python.argv("hpc", "--version"), cwd=tmp_path, env={})
    assert done.stdout.startswith("hpc-serve, version ")
    planted = programs.run([sys.executable, "-m", "hpc"], cwd=tmp_path, env={}, check=False)
    assert planted.returncode == 86
