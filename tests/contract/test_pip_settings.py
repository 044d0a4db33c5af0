"""Our reading of pip's configuration is real pip's, and pip finds in a build what it finds here."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpc.images import carried as carrying
from hpc.images import pip_files, pip_settings

if TYPE_CHECKING:
    from hpc.images.pip_files import Sections

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pip") is None, reason="this Python has no pip to compare with"
)
# `pip config` has no command for this: newer ones `list` the values of all files, those
# without effect too, and `get` reads one file alone. So pip's parser of options is imitated.
IN_FORCE = """
import json
from pip._internal.configuration import Configuration
configuration = Configuration(isolated=False)
configuration.load()
found = {}
for name, value in configuration.items():  # of newer pips a dict per file, the strongest last
    found.update(value if isinstance(value, dict) else {name: value})
print(json.dumps(found))
"""
FILES = {
    "xdg1/pip": "[global]\nfirst = xdg1\nretries = 1\nfind-links =\n    /a\n    # no\n    /b c\n",
    "xdg2/pip": "[global]\nfirst = xdg2\nTimeout: 5\n[install]\nno_binary = :all:\n",
    "home/.pip": "[DEFAULT]\npre = yes\n[global]\nretries = 3\n[download]\nquiet = 1\n",
    "home/.config/pip": "[global]\nretries =\n--no-index = %(x)s ; text\n[list]\nformat=json\n",
    "venv": "[install]\ncert = ~/ca.pem\n",
    "chosen": "[global]\nproxy = http://u:p%40ss=1@h:1\nfirst = chosen\n",
}
VARIABLES = {
    "PIP_DEFAULT_TIMEOUT": "9",
    "PIP_no_index": "1",
    "PIP_VERSION": "x",
    "PIP_EXTRA_INDEX_URL": "http://a.example/s\n  file:///b",
    "PIP_EMPTY": "",
    "pip_lower": "1",
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("machine")
    venv.create(root / "venv", with_pip=False)
    for name, text in FILES.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "pip.conf").write_text(text)
    return root


def environ(root: Path, **changes: str) -> dict[str, str]:
    spec = importlib.util.find_spec("pip")
    assert spec is not None
    assert spec.origin is not None
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(spec.origin).parents[1]),
        "LC_ALL": "C.UTF-8",
        "HOME": f"{root}/home",
        "XDG_CONFIG_DIRS": f"{root}/xdg1:{root}/xdg2",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        **changes,
    }


def run(python: Path | str, env: dict[str, str], *argv: str) -> str:
    done = subprocess.run([python, *argv], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pip(python: Path | str, env: dict[str, str], *argv: str) -> str:
    return run(python, env, "-m", "pip", *argv)


def in_force(python: Path, env: dict[str, str]) -> Sections:
    """Return the values that count for pip, by section and option."""
    found: Sections = {}
    for name, value in json.loads(run(python, env, "-c", IN_FORCE)).items():
        section, _, key = name.partition(".")
        found.setdefault(section, {})[key] = value
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        VARIABLES,
        {"PIP_CONFIG_FILE": "{root}/chosen/pip.conf"},
        {"PIP_CONFIG_FILE": "{root}/gone.conf"},
        {"PIP_CONFIG_FILE": os.devnull, "PIP_PRE": "1"},
        {"XDG_CONFIG_HOME": "{root}/home", "XDG_CONFIG_DIRS": ""},
        {"XDG_CONFIG_DIRS": "~/.config:{root}/xdg1"},
    ],
)
def test_pip_lists_what_we_read(machine: Path, changes: dict[str, str]) -> None:
    env = environ(machine, **{key: text.format(root=machine) for key, text in changes.items()})

    said = in_force(machine / "venv/bin/python", env)
    found = pip_files.read(env, prefix=str(machine / "venv"))

    assert found.passed_over == {}
    assert {name: section for name, section in found.sections.items() if section} == said


def package(folder: Path, version: str) -> None:
    """Make a package of one file."""
    folder.mkdir(exist_ok=True)
    info = f"demo-{version}.dist-info"
    with zipfile.ZipFile(folder / f"demo-{version}-py3-none-any.whl", "w") as file:
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: demo\nVersion: {version}\n"
        )
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.mark.parametrize(
    ("conf", "version"),
    [
        ("[global]\nfind-links = ~/w1 file://{home}/my%20wheels\n", "3.0"),
        ("[global]\nfind-links = {home}/w2\nconstraint = {home}/two.txt\n", "2.0"),
        ("[global]\nconstraint = {home}/deep/one.txt\n", "1.0"),
        ("[global]\nfind-links = {home}/w2/demo-2.0-py3-none-any.whl {home}/one.html\n", "2.0"),
        (
            "[global]\nindex-url = {home}/simple\n[download]\nconstraint={home}/deep/one.txt\n",
            "1.0",
        ),
    ],
)
def test_pip_finds_the_same_with_what_was_carried(tmp_path: Path, conf: str, version: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for number in ("1.0", "2.0", "3.0"):
        package(home / "my wheels", number)
        package(home / f"w{number[0]}", number)
    (home / "two.txt").write_text("demo<3\n")
    (home / "deep").mkdir()
    (home / "deep/one.txt").write_text("-c ../two.txt\n-f ../my\\ wheels\ndemo != ${NOT}\n")
    links = "".join(f'<a href="../../my%20wheels/demo-{n}.0-py3-none-any.whl">x</a>' for n in "123")
    (home / "one.html").write_text('<!DOCTYPE html><a href="w1/demo-1.0-py3-none-any.whl">x</a>')
    (home / "simple/demo").mkdir(parents=True)
    (home / "simple/demo/index.html").write_text(
        f"<!DOCTYPE html><html><body>{links}</body></html>"
    )
    (tmp_path / "pip.conf").write_text(conf.format(home=home))
    here = {**environ(tmp_path), "PIP_CONFIG_FILE": f"{tmp_path}/pip.conf", "NOT": "2.0"}

    carried = pip_settings.carried(here, seen_as=f"{tmp_path}/seen", prefix=str(tmp_path))
    carrying.write(tmp_path / "seen", carried)
    build = {
        **here,
        "HOME": f"{tmp_path}/elsewhere",
        "PIP_CONFIG_FILE": f"{tmp_path}/seen/pip.conf",
    }
    del build["NOT"]

    for name, env in (("here", here), ("build", build)):
        argv = ["download", "--quiet", "--no-deps", "--no-cache-dir", f"--dest={tmp_path}/{name}"]
        argv += [] if "index-url" in conf else ["--no-index"]
        pip(sys.executable, env, *argv, "demo")
        made = [path.name for path in (tmp_path / name).iterdir()]
        assert made == [f"demo-{version}-py3-none-any.whl"]
    assert not [line for line in carried.left_out if "pip" in line]
