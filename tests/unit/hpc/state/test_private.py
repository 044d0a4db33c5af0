"""The umask and the memory of our processes; the calls last as long as the process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from hpc.state import private

if TYPE_CHECKING:
    from pathlib import Path


def tell(code: str, umask: int = 0o022) -> Any:
    code = f"import json, os\nfrom hpc.state import private\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, umask=umask
    )
    return json.loads(done.stdout)


def test_the_users_umask_is_remembered_and_ours_is_in_force() -> None:
    code = """
private.keep_files()
private.keep_files()
ours = os.umask(0)
print(json.dumps([ours, private.user_umask(), private.user_mode()]))
"""
    assert tell(code, umask=0o002) == [0o077, 0o002, 0o664]


def test_an_earlier_processs_word_on_the_umask_counts() -> None:
    code = "private.keep_files(0o027)\nprint(private.user_umask())"
    assert tell(code) == 0o027


def test_without_the_call_the_process_keeps_its_umask() -> None:
    code = "mode = private.user_mode()\nprint(json.dumps([mode, os.umask(0)]))"
    assert tell(code, umask=0o027) == [0o640, 0o027]


def test_a_moment_with_the_users_umask(tmp_path: Path) -> None:
    code = f"""
os.chdir({str(tmp_path)!r})
private.keep_files()
with private.users_umask():
    os.mkdir("theirs")
os.mkdir("ours")
print(json.dumps([os.stat(name).st_mode & 0o777 for name in ("theirs", "ours")]))
"""
    assert tell(code, umask=0o002) == [0o775, 0o700]


@pytest.mark.parametrize("children", [True, False])
def test_memory_is_kept_from_core_files(*, children: bool) -> None:
    code = f"""
import ctypes, resource
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
private.keep_memory(children={children})
soft = resource.getrlimit(resource.RLIMIT_CORE)[0]
print(json.dumps([ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), soft, hard]))
"""
    dumpable, soft, hard = tell(code)
    assert soft == (0 if children else hard)
    assert dumpable == (0 if sys.platform == "linux" else dumpable)


@pytest.mark.parametrize(
    ("options", "hidden"),
    [
        ("rw,nosuid,relatime", False),
        ("rw,relatime,hidepid=0", False),
        ("rw,relatime,hidepid=off", False),
        ("rw,relatime,hidepid=2", True),
        ("rw,gid=23,hidepid=invisible", True),
        ("rw,hidepid=ptraceable,gid=23", True),
    ],
)
def test_hidden_processes_are_told_by_the_options_of_proc(options: str, hidden: bool) -> None:
    mounts = f"sysfs /sys sysfs rw 0 0\nproc /proc proc {options} 0 0\nx /y ext4 hidepid=2 0 0\n"

    assert private.hides_processes(mounts) is hidden
