"""`scripts/setup` over a small index, with the oldest pip of a Python 3.10 and with the newest.

The index has a newer release of a locked package whose extra another one requires, made after the
lock: as on any day after the lock was written.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

PROJECT = Path(__file__).resolve().parents[2]
OLDEST = "21.2.4"
SCRIPTS = ("setup", "steps.py", "llama.cmake")
BACKEND = """
from pathlib import Path
import shutil
def build_editable(folder, config_settings=None, metadata_directory=None):
    (wheel,) = Path("built").glob("*.whl")
    shutil.copy(wheel, folder)
    return wheel.name
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'

pytestmark = pytest.mark.timeout(180)


def unavailable(reason: str) -> NoReturn:
    """Skip on a developer's machine; in CI a pip that is not there is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def make_wheel(folder: Path, name: str, version: str, *metadata: str) -> Path:
    """Write a wheel with one module that knows its version."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": "\n".join(
            ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata, ""]
        ),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{path},sha256={digest},{len(text)}"
        for path, text in files.items()
        for digest in [
            base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        ]
    ]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(inside, text)
    return path


def pinned(*wheels: Path) -> str:
    """Return a lock of some wheels."""
    return "".join(
        f"{name.replace('_', '-')}=={version} \\\n"
        f"    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
        for wheel in wheels
        for name, version in [wheel.name.split("-")[:2]]
    )


@pytest.fixture(scope="session")
def pips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the wheels of the oldest pip and of the newest."""
    folder = tmp_path_factory.mktemp("pips")
    found = {}
    for key, asked in {"oldest": f"pip=={OLDEST}", "newest": "pip"}.items():
        argv = [sys.executable, "-m", "pip", "download", "--no-deps"]
        argv += ["--dest", str(folder / key), asked]
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
        if done.returncode:
            unavailable(f"{asked} cannot be downloaded: {done.stderr[-300:]}")
        (found[key],) = (folder / key).glob("*.whl")
    return found


def python_for(pip: str) -> str:
    """Return an interpreter that this pip runs on; 21.2 knows none from 3.12 on."""
    if pip == "newest" or sys.version_info < (3, 12):
        return sys.executable
    for name in ("python3.10", "python3.11"):
        path = shutil.which(name)
        if path and not subprocess.run([path, "-c", ""], check=False).returncode:
            return path
    unavailable(f"pip {OLDEST} needs Python 3.10 or 3.11")


@dataclass(frozen=True)
class Site:
    """A small checkout with a virtual environment that was made before, and an index.

    Attributes:
        root: the checkout, in a folder with a space in its name.
        index: folder of wheels.
        env: environment of a user with pip settings that name other things too.
    """

    root: Path
    index: Path
    env: dict[str, str]

    def run(self, *argv: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program in the checkout."""
        return subprocess.run(
            argv, cwd=self.root, env=self.env, check=False, capture_output=True, text=True
        )

    def versions(self) -> dict[str, str]:
        """Return what is installed."""
        argv = (".venv/bin/python", "-m", "pip", "list", "--format", "json")
        listed = self.run(*argv)
        return {one["name"].replace("_", "-"): one["version"] for one in json.loads(listed.stdout)}


@pytest.fixture(params=["oldest", "newest"])
def site(request: pytest.FixtureRequest, pips: dict[str, Path], tmp_path: Path) -> Site:
    """Return a checkout whose lock is older than the index."""
    root, index = tmp_path / "a checkout", tmp_path / "index"
    shutil.copytree(
        PROJECT / "scripts", root / "scripts", ignore=lambda _, names: set(names) - set(SCRIPTS)
    )
    (root / "constraints").mkdir()
    alpha = make_wheel(index, "hs_alpha", "1.0", "Requires-Dist: hs-beta[fast]>=1")
    extra = ("Provides-Extra: fast", "Requires-Dist: hs-gamma; extra == 'fast'")
    beta = make_wheel(index, "hs_beta", "1.0", *extra)
    make_wheel(index, "hs_beta", "2.0", *extra)
    gamma = make_wheel(index, "hs_gamma", "1.0")
    newest = Path(shutil.copy(pips["newest"], index))
    (root / "constraints/gateway.txt").write_text(pinned(alpha, beta, gamma))
    (root / "constraints/build.txt").write_text(pinned(newest))
    (root / "constraints/compile.txt").write_text("")
    make_wheel(root / "built", "hs_project", "3.0")
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "backend.py").write_text(BACKEND)
    (tmp_path / "constraint.txt").write_text("hs-beta!=1.0\nhs-gamma<9\n")
    (tmp_path / "pip.conf").write_text(
        f"[global]\nfind-links = {index}\nno-index = yes\nconstraint = {tmp_path}/constraint.txt\n"
        "[install]\nuser = yes\n"
    )
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "a home")}
    env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    made = Site(root, index, env)
    made.run(python_for(request.param), "-m", "venv", "--without-pip", ".venv")
    wheel = pips[request.param]
    first = made.run(".venv/bin/python", wheel / "pip", "install", "--no-index", wheel)
    assert first.returncode == 0, first.stderr
    return made


def test_the_lock_is_installed_whatever_the_pip_the_index_and_the_settings(site: Site) -> None:
    site.env["PIP_CONFIG_FILE"] = str(site.root.parent / "pip.conf")
    done = site.run("scripts/setup", "gateway")

    assert done.returncode == 0, done.stdout + done.stderr
    found = site.versions()
    assert found["pip"] != OLDEST
    locked = {"hs-alpha": "1.0", "hs-beta": "1.0", "hs-gamma": "1.0", "hs-project": "3.0"}
    assert {name: found.get(name) for name in locked} == locked
    assert site.run("scripts/setup", "gateway").stderr == ""


def test_the_lock_is_installed_by_either_pip_which_an_old_ones_resolver_refuses(site: Site) -> None:
    argv = [".venv/bin/python", "-m", "pip", "install", "--no-index", "--find-links"]
    argv += [str(site.index), "--require-hashes", "-r", "constraints/gateway.txt"]
    if site.versions()["pip"] == OLDEST:
        refused = site.run(*argv)
        assert refused.returncode != 0
        assert "hs-beta" in refused.stderr
    done = site.run(*argv, "--no-deps")

    assert done.returncode == 0, done.stderr
    assert site.versions()["hs-beta"] == "1.0"


@pytest.mark.parametrize("site", ["newest"], indirect=True)
def test_a_lock_with_a_wrong_hash_fails_by_name_and_leaves_no_stamp(site: Site) -> None:
    lock = site.root / "constraints/gateway.txt"
    text = lock.read_text()
    site.env.update(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(site.index))
    lock.write_text(text.replace("sha256:", "sha256:" + 64 * "0" + "#", 1).partition("#")[0] + "\n")
    done = site.run("scripts/setup", "gateway")

    assert done.returncode != 0
    assert "its output is in .venv/setup.log" in done.stderr
    assert "hs-alpha" in done.stderr
    assert not (site.root / ".venv/.stamp-gateway").exists()
