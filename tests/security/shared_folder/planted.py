"""A folder in which somebody else has put modules, and a user who works there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc.processes import by_pid

if TYPE_CHECKING:
    from collections.abc import Mapping

PROJECT = Path(__file__).parents[3]
PACKAGES = ("hpc", "gateway_lite", "submitit", "click", "yaml", "llama_cpp", "vllm")
MODULES = ("sitecustomize", "usercustomize", "runpy", "json", "numpy", "psutil", "uvloop")
START = """
import sys
sys.path.pop(0)  # as the installed command, whose own folder is first
import os
os.chdir(sys.argv.pop(1))
os.environ["PYTHONPATH"] = sys.argv.pop(1)
from hpc.__main__ import main
main()
"""


def pythons() -> dict[str, str]:
    """Return interpreters with our dependencies by version: this one, and scripts/test-pythons'."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = {f"{sys.version_info[0]}.{sys.version_info[1]}": sys.executable}
    for made in sorted((cache / "hpc-serve/pythons").glob("*/complete")):
        version = ".".join(made.parent.name.split(".")[:2])
        if version == "3.10":
            found.setdefault(version, str(made.parent / "bin/python"))
    return found


def bare_pythons() -> dict[str, str]:
    """Return the interpreters of this machine by version, with or without any package."""
    found = pythons()
    for version in ("3.10", "3.11", "3.12", "3.13", "3.14"):
        home = Path.home()
        for candidate in (
            f"python{version}",
            *map(str, sorted(home.glob(f".pyenv/versions/{version}.*/bin/python3"))),
            *map(str, sorted(home.glob(f".local/share/uv/python/cpython-{version}.*/bin/python3"))),
        ):
            if version not in found and _runs(candidate):
                found[version] = candidate
    return found


def _runs(python: str) -> bool:
    try:
        return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@dataclass
class SharedFolder:
    """A folder that everybody can write to, with planted modules, each of which tells its run."""

    path: Path
    log: Path

    @classmethod
    def make(cls, folder: Path) -> SharedFolder:
        """Make one, and a log that planted code writes to."""
        made = cls(folder / "shared", folder / "planted.log")
        made.path.mkdir()
        made.path.chmod(0o1777)
        code = f"import os\nwith open({str(made.log)!r}, 'a') as log:\n"
        code += "    log.write(f'{__name__} {os.getpid()}\\n')\n"
        for name in PACKAGES:
            (made.path / name).mkdir()
            (made.path / name / "__init__.py").write_text(code)
            (made.path / name / "__main__.py").write_text(code)
        for name in MODULES:
            (made.path / f"{name}.py").write_text(code)
        return made

    def ran(self) -> str:
        """Return what planted code has told; empty if none ran."""
        return self.log.read_text() if self.log.exists() else ""


@dataclass
class Victim:
    """A user who types hpc-serve in a shared folder.

    Attributes:
        shared: the folder.
        python: the interpreter that hpc-serve is installed in.
        folder: the user's own folder.
        extra: variables of the user's.
    """

    shared: SharedFolder
    python: str
    folder: Path
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """The state directory."""
        return self.folder / "state"

    def environment(self) -> dict[str, str]:
        """Return the user's variables."""
        hidden = ("HPC_SERVE_", "SLURM_", "SUBMITIT_", "XDG_", "PYTHON")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        own = {"HOME": str(self.folder), "HPC_SERVE_HOME": str(self.home)}
        return {**kept, **own, "PYTHONPATH": str(PROJECT), **self.extra}

    def argv(self, *words: str) -> list[str]:
        """Return a command in the shared folder, with an empty entry in its PYTHONPATH.

        The entry comes once the command has begun: what Python itself does with the variable at
        the start of a command is the user's own doing.
        """
        return [self.python, "-c", START, str(self.shared.path), f"{PROJECT}:", *words]

    def type(
        self, *words: str, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the shared folder."""
        done = subprocess.run(
            self.argv(*words),
            env={**self.environment(), **(env or {})},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert not check or done.returncode == 0, (done.stdout, done.stderr)
        return done

    def end(self) -> None:
        """End what still runs for the state directory."""
        import psutil  # noqa: PLC0415 - at the end only

        for process in psutil.process_iter(["pid", "cmdline"]):
            words: Any = process.info["cmdline"] or []
            if process.pid != os.getpid() and any(str(self.folder) in word for word in words):
                by_pid.stop(by_pid.identity(process.pid) or "", grace_s=5)
