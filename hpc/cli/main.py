"""The root command, which imports a subcommand's module only for its own run."""

from __future__ import annotations

import sys
from importlib import import_module
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

import click

from hpc.cli import output
from hpc.cli.guesses import GuessingGroup
from hpc.errors import HpcServeError
from hpc.state import private
from hpc.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("hpc.cli.setup:init", "Write models.yaml and the site file from what Slurm reports."),
    "render": ("hpc.cli.render:render", "Print a script or definition; submit nothing."),
    "build": ("hpc.cli.build:build", "Build the container image of an engine."),
    "submit": ("hpc.cli.services:submit", "Start the replicas of a service as Slurm jobs."),
    "ls": ("hpc.cli.services:ls", "List services and their phases."),
    "status": ("hpc.cli.overview:status", "Show everything at a glance, or one service."),
    "logs": ("hpc.cli.logs:logs", "Print the logs of a service."),
    "wait": ("hpc.cli.services:wait", "Wait until a service is ready."),
    "stop": ("hpc.cli.services:stop", "Stop services and remove their records."),
    "gateway": ("hpc.cli.gateway:gateway", "Run the gateway on this machine."),
    "keys": ("hpc.cli.keys:keys", "Manage the API keys of the gateway's users."),
    "chat": ("hpc.cli.chat:chat", "Talk to a model from the terminal."),
    "batch": ("hpc.cli.batch.commands:batch", "Answer files of requests with jobs."),
    "clean": ("hpc.cli.clean:clean", "Show and remove what is over and takes disk space."),
    "connect": ("hpc.cli.connect:connect", "Open a tunnel to a cluster's gateway."),
    "relay": ("hpc.cli.relay:relay", "Carry one connection of a tunnel (used by connect)."),
}

EPILOG = """\b
From a login node to a first token:
  hpc-serve submit chat --wait
  hpc-serve gateway start
On the laptop:
  hpc-serve connect USER@LOGIN
"""


class LazyGroup(GuessingGroup):
    """A group that imports a command's module when the command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of use."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, without importing a command."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hpc-serve")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def root(*, debug: bool) -> None:
    """Serve language models from a Slurm cluster as an OpenAI-compatible endpoint."""
    del debug


def run(argv: Iterable[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        argv: arguments after the program's name; None takes those of the process.
    """
    private.keep_files()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name that the terminal cannot show
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code: Any = root.main(arguments, prog_name="hpc-serve", standalone_mode=False)
    except HpcServeError as error:
        if "--debug" in arguments:
            raise
        sys.exit(report(error))
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def report(error: HpcServeError) -> int:
    """Print an error and, on a second line, its hint; return the exit code."""
    output.echo(f"hpc-serve: {error}", err=True)
    if error.hint:
        output.echo(f"  {error.hint}", err=True)
    return error.exit_code
