"""The command line of the lab; `scripts/lab` runs it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from . import debian, recorder
from .host import LabError
from .lab import NODES, Lab
from .node import USERS, Bind, login_environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from .node import Network


def main() -> int:
    """Run one command of the lab and return the exit status."""
    words = sys.argv[1:]
    # argparse cannot take a command with options of its own after a positional argument.
    end = words.index("--") if "--" in words else len(words)
    arguments = _parser().parse_args(words[:end])
    arguments.argv = words[end + 1 :]
    try:
        return int(arguments.call(Lab(arguments.name, suite=arguments.suite), arguments) or 0)
    except LabError as error:
        sys.stderr.write(f"lab: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/lab",
        description="A real Slurm cluster on this machine, for tests. Needs root.",
    )
    parser.add_argument("--name", help="which lab; several can run side by side")
    parser.add_argument("--suite", choices=debian.SUITES, help="the nodes' release of Debian")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, call: object, about: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(call=call)
        return sub

    command("build", _build, "build the nodes' root file system, unless it is there")
    up = command("up", _up, "start the lab afresh")
    up.add_argument(
        "--accounting", action="store_true", help="with slurmdbd, so that sacct answers"
    )
    down = command("down", _down, "stop the lab and leave nothing running")
    down.add_argument("--all", action="store_true", help="and each other lab that nobody holds")
    command("list", _list, "say which labs run, and which of them somebody holds")
    command("status", _status, "say what runs")
    command("report", lambda lab, _: _say(lab.report()), "show queue, nodes and slurmctld's log")
    switch = command("accounting", _accounting, "turn accounting on or off in the running lab")
    switch.add_argument("state", choices=["on", "off"])
    install = command("install", _install, "install a wheel of the project for all nodes")
    install.add_argument("wheel", type=Path)
    install.add_argument("--extra", action="append", default=[], help="an extra of the project")
    install.add_argument("--package", action="append", default=[], help="a further requirement")
    install.add_argument("-c", "--constraints", type=Path, help="pip constraints file")
    image = command("base-image", _base_image, "build a base image for Apptainer definitions")
    image.add_argument("release", help="a Debian release, such as bookworm")
    for name, about in (
        ("shell", "open a shell on a node, or run a command there with this terminal"),
        ("run", "run a command on a node"),
    ):
        enter = command(name, _shell, about)
        enter.add_argument("node", choices=NODES)
        enter.add_argument("-u", "--user", default="owner", choices=[*USERS, "root"])
        enter.add_argument("--host-network", action="store_true", help="use this machine's network")
        enter.epilog = "The command stands after --; without one, a login shell."
    _add_tools(command)
    return parser


def _add_tools(command: Callable[[str, object, str], argparse.ArgumentParser]) -> None:
    about = "run a command as root on a passing node that shares this machine's network"
    workshop = command("workshop", _workshop, about)
    workshop.add_argument("--bind", action="append", default=[], metavar="SOURCE:TARGET[:rw]")
    workshop.epilog = "The command stands after --."
    about = "play a scenario in a lab that has just started, and write down what Slurm prints"
    recording = command("record", _record, about)
    recording.add_argument("folder", type=Path, help="such as tests/golden/slurm")


def _build(lab: Lab, _: argparse.Namespace) -> None:
    start = time.monotonic()
    _say(f"{lab.build()} ({time.monotonic() - start:.0f} s)")


def _up(lab: Lab, arguments: argparse.Namespace) -> None:
    start = time.monotonic()
    lab.up(accounting=arguments.accounting)
    _say(f"lab up in {time.monotonic() - start:.1f} s")


def _down(lab: Lab, arguments: argparse.Namespace) -> None:
    for one in lab.every() if arguments.all else [lab]:
        try:
            one.down()
        except LabError as error:
            if not arguments.all or not one.held():
                raise
            _say(f"left running: {error}")


def _list(lab: Lab, _: argparse.Namespace) -> None:
    for one in lab.every():
        nodes = [node for node in one.nodes.values() if node.pid()]
        if nodes:
            _say(f"{one.name:24}{len(nodes)} nodes{', held by a process' * one.held()}")


def _status(lab: Lab, _: argparse.Namespace) -> int:
    for node, state in lab.status().items():
        _say(f"{node:8}{state}")
    return 0 if lab.is_up() else 3


def _accounting(lab: Lab, arguments: argparse.Namespace) -> None:
    with lab.locked():
        lab.set_accounting(on=arguments.state == "on")


def _install(lab: Lab, arguments: argparse.Namespace) -> None:
    changed = lab.install_project(
        arguments.wheel,
        extras=arguments.extra,
        packages=arguments.package,
        constraints=arguments.constraints,
    )
    _say("installed" if changed else "already installed")


def _base_image(lab: Lab, arguments: argparse.Namespace) -> None:
    _say(lab.base_image(arguments.release))


def _record(lab: Lab, arguments: argparse.Namespace) -> None:
    with lab.locked():
        lab.up(accounting=True)
        recorder.record(lab, arguments.folder)
        lab.down()


def _workshop(lab: Lab, arguments: argparse.Namespace) -> int:
    parts = [text.split(":") for text in arguments.bind]
    binds = [Bind(Path(source), target, bool(rest)) for source, target, *rest in parts]
    with lab.workshop("workshop", binds) as node:
        argv = arguments.argv
        return node.popen(argv, user="root", stdout=sys.stdout, stderr=sys.stderr).wait()


def _shell(lab: Lab, arguments: argparse.Namespace) -> None:
    argv = arguments.argv or ["bash", "--login"]
    network: Network = "host" if arguments.host_network else "node"
    command = lab.nodes[arguments.node].enter(argv, arguments.user, None, network)
    env = login_environment(arguments.user)
    if "TERM" in os.environ:
        env["TERM"] = os.environ["TERM"]
    os.execve(command[0], command, env)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
