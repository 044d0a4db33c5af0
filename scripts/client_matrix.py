"""Clients of the gateway, each with its real package, as a table in Markdown.

Each client is installed into a folder of its own (by npm and uv with their usual settings) and
asks a gateway, in front of a scripted engine, for a first answer, a stream, and the answer after a
tool's call. Progress goes to standard error, the table to standard output, for docs/clients.md.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.clients.catalog import CLIENTS, PROGRAMS, STEPS, Client, outcomes  # noqa: E402
from tests.clients.scripted import MODEL, ScriptedEngine  # noqa: E402
from tests.contract.gateway.engines import serve  # noqa: E402
from tests.contract.gateway.programs import run_gateway  # noqa: E402

HEADINGS = ("client", "package", "version", "first call", "stream", "tool's second turn")
LIMIT_S = 300
"""Longest run of one client's program."""


def main() -> int:
    """Run the chosen clients; 1 where a step failed."""
    chosen = arguments()
    cache = Path(chosen.cache).absolute()
    with ExitStack() as stack:
        engine = ScriptedEngine()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(serve(engine))  # type: ignore[arg-type]
        gateway = stack.enter_context(run_gateway(folder / "home", {MODEL: url}))
        settings = {"OPENAI_BASE_URL": f"{gateway.url}/v1", "OPENAI_API_KEY": gateway.key}
        rows = [(one, tried(one, cache, engine, settings)) for one in chosen.clients]
    print(table(rows))
    return int(any("failed" in told for _, steps in rows for told in steps.values()))


def arguments() -> argparse.Namespace:
    """Return the caller's choice; without names it is every client."""
    parser = argparse.ArgumentParser(prog="scripts/test-clients", description=__doc__)
    names = "; ".join(one.name for one in CLIENTS)
    parser.add_argument("client", nargs="*", help=f"by default all: {names}")
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    default = Path(caches) / "hpc-serve" / "clients"
    parser.add_argument("--cache", default=default, help=f"by default {default}")
    chosen = parser.parse_args()
    known = {one.name: one for one in CLIENTS}
    for name in chosen.client:
        if name not in known:
            parser.error(f"there is no client {name!r}; there are: {names}")
    chosen.clients = [known[name] for name in chosen.client or known]
    return chosen


def tried(
    client: Client, cache: Path, engine: ScriptedEngine, settings: dict[str, str]
) -> dict[str, str]:
    """Install a client and run its program; the outcome of each step."""
    sys.stderr.write(f"test-clients: {client.name} {client.version}\n")
    folder = cache / client.folder
    try:
        install(client, folder)
    except (subprocess.CalledProcessError, OSError) as error:
        sys.stderr.write(f"test-clients: {client.name} cannot be installed here: {error}\n")
        return dict.fromkeys(STEPS, "failed: not installed")
    engine.streams = 0
    done = run(client, folder, settings)
    told = outcomes(client, done, engine.streams)
    if any("failed" in one for one in told.values()):
        sys.stderr.write(f"{done.stdout}\n{done.stderr}\n")
    return told


def install(client: Client, folder: Path) -> None:
    """Install a client's packages, unless they are there from a run before."""
    done = folder / "installed"
    if done.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if client.is_node:
        (folder / "package.json").write_text("{}\n", encoding="utf-8")
        argv = ["npm", "install", "--no-audit", "--no-fund", "--silent", *client.packages]
    else:
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
        argv = [uv, "pip", "install", "--quiet", "--python", str(folder), *client.packages]
    subprocess.run(argv, cwd=folder, check=True, stdout=sys.stderr)
    done.touch()


def run(client: Client, folder: Path, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a client's program as a user would, with the variables of ``gateway env``."""
    # Node looks for packages beside the program.
    program = Path(shutil.copy(PROGRAMS / client.program, folder))
    places = [folder / "bin", folder / "node_modules/.bin"]
    python = sys.executable if client.is_node else str(folder / "bin/python")
    interpreter = "node" if program.suffix == ".mjs" else python
    path = os.pathsep.join([*map(str, places), os.environ.get("PATH", os.defpath)])
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    argv = [interpreter, str(program), MODEL, *client.arguments]
    env = {**kept, **settings, "PATH": path, "no_proxy": "*"}
    try:
        return subprocess.run(
            argv, cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode()
        return subprocess.CompletedProcess(argv, 124, said, f"no end after {LIMIT_S} s")


def table(rows: list[tuple[Client, dict[str, str]]]) -> str:
    """Return the table, dated."""
    today = dt.datetime.now(tz=dt.timezone.utc).date()
    lines = [f"Tried on {today} with `scripts/test-clients`:", "", cells(HEADINGS)]
    lines.append(cells(["---"] * len(HEADINGS)))
    for client, told in rows:
        package = client.packages[0].removesuffix(f"=={client.version}")
        package = package.removesuffix(f"@{client.version}").partition("[")[0]
        shown = [client.name, f"`{package}`", client.version, *(told[step] for step in STEPS)]
        lines.append(cells(shown))
    return "\n".join(lines)


def cells(words: list[str] | tuple[str, ...]) -> str:
    """Return one line of the table."""
    return f"| {' | '.join(words)} |"


if __name__ == "__main__":
    sys.exit(main())
