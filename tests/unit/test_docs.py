"""What the documents say is what the code does."""

from __future__ import annotations

import argparse
import re
import runpy
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from gateway_lite.__main__ import _parser
from gateway_lite.api.openapi.document import OPERATIONS
from gateway_lite.request import sidecar_handler
from hpc import config, errors, site_setup
from hpc.batch.model import BatchSpec
from hpc.batch.worker import pause_rules
from hpc.cli.main import COMMANDS, root
from hpc.slurm import Partition

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).resolve().parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
PROSE = [*PAGES, PROJECT / "CHANGELOG.md", PROJECT / "CONTRIBUTING.md"]
LONGEST = 100
"""Characters of a line, but for a line that a long URL fills."""
LINES = re.DOTALL | re.MULTILINE
GENERATOR = runpy.run_path(str(PROJECT / "scripts" / "make_config_reference"))

VALUES = {
    "HPC_SERVE_CONTAINER": "none",
    "HPC_SERVE_SERVER": "llama-cpp-python",
    "HPC_SERVE_IMAGE": "other.sif",
    "HPC_SERVE_ACCELERATOR": "rocm",
    "HPC_SERVE_REPLICAS": "3",
    "HPC_SERVE_HF_HOME": "/cache",
    "HPC_SERVE_PYTHON": "/other/python",
    "HPC_SERVE_PARTITION": "gpu",
    "HPC_SERVE_ACCOUNT": "a1",
    "HPC_SERVE_QOS": "high",
    "HPC_SERVE_CONSTRAINT": "avx512",
    "HPC_SERVE_GPUS": "2",
    "HPC_SERVE_GPU_TYPE": "h100",
    "HPC_SERVE_GPU_OPTION": "gpus",
    "HPC_SERVE_CPUS": "3",
    "HPC_SERVE_CPUS_PER_GPU": "3",
    "HPC_SERVE_MEM": "3G",
    "HPC_SERVE_MEM_PER_CPU": "3G",
    "HPC_SERVE_MEM_PER_GPU": "3G",
    "HPC_SERVE_TIME": "05:00",
}
"""Every setting that a variable carries, with something else than its default."""

REGISTRIES = {
    "org": ("pypi", "pythonhosted", "npmjs", "debian", "pytorch", "anaconda"),
    "com": ("npmjs", "ubuntu"),
    "io": ("docker", "ghcr", "quay", "nvcr"),
}
FOLDERS = ("work", "root", "Users")


def section(title: str) -> str:
    """Return one section of the README."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and all below it, with the words that call them."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, f"{path} {name}")


EVERY = dict(commands(root, "hpc-serve"))


def typed() -> Iterator[tuple[str, str]]:
    """Yield every `hpc-serve ...` that a page tells people to type."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        spans = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^ {4}(.+)$", text, re.MULTILINE)
        for span in spans:
            line = re.split(r"[#|]| {2,}", span.strip())[0].strip()
            if line.startswith("hpc-serve "):
                yield page.name, line


def test_the_reference_of_settings_is_up_to_date() -> None:
    made = (PROJECT / "docs" / "configuration.md").read_text(encoding="utf-8")

    assert made == GENERATOR["text"](), "run scripts/make_config_reference"


def test_the_reference_names_the_defaults_that_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPC_SERVE_SITE", str(tmp_path / "none.yaml"))
    for key in GENERATOR["SCALARS"]:
        monkeypatch.delenv(f"HPC_SERVE_{key.upper()}", raising=False)
    file = tmp_path / "models.yaml"
    file.write_text("models: [{name: a, backend: llamacpp, model: /m.gguf}]\n")
    spec = config.load(models_file=str(file), home=str(tmp_path / "state")).services["a"]
    said = GENERATOR["RESOLVED"]

    assert said["container"] == spec.container
    assert said["replicas"] == str(spec.replicas)
    assert said["cpus"] == str(spec.resources.cpus)
    assert said["load_timeout"] == str(spec.load_timeout_s)
    assert said["grace"] == str(spec.grace_s)
    assert said["max_restarts"] == str(spec.max_restarts)


def test_every_variable_that_a_page_names_changes_what_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"(?<!_)HPC_SERVE_[A-Z_]+", pages))
    places = {f"HPC_SERVE_{name}" for name in ("HOME", "MODELS", "SITE", "CLUSTER")}
    monkeypatch.setenv("HPC_SERVE_SITE", str(tmp_path / "none.yaml"))
    for name in VALUES:
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "models.yaml"
    model = "{name: a, backend: llamacpp, model: /m.gguf, resources: {gpus: 1}}"
    file.write_text(f"models: [{model}]\n")

    def loaded() -> object:
        return config.load(models_file=str(file), home=str(tmp_path / "state")).services["a"]

    plain = loaded()
    for name, value in VALUES.items():
        monkeypatch.setenv(name, value)
        assert loaded() != plain, name
        monkeypatch.delenv(name)

    told = {name for name in named if name.startswith("HPC_SERVE_BATCH")}  # to --on-done's command
    ours = {"HPC_SERVE_SOCKET"}  # by gateway env
    assert named - told - ours == places | set(VALUES)
    made = outcome_variables()
    assert told <= made
    assert made - told <= {"HPC_SERVE_BATCH_FAILED"}  # written "_FAILED" there


def outcome_variables() -> set[str]:
    """Return what the command of --on-done finds."""
    spec = BatchSpec("b", "in", "out", None, 1, 1, 1)
    return set(pause_rules._variables(PROJECT / "none", spec))


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    files = [target.partition("#")[0] for target in targets if "://" not in target]
    missing = [name for name in files if name and not (page.parent / name).exists()]

    assert missing == []


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_every_anchor_is_a_heading(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    pairs = [target.split("#") for target in targets if "#" in target and "://" not in target]
    missing = [
        f"{name}#{anchor}"
        for name, anchor in pairs
        if anchor not in anchors((page.parent / name) if name else page)
    ]

    assert missing == []


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    outside = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=LINES)
    headings = re.findall(r"^#+ (.+)$", outside, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_no_line_of_a_page_is_too_long(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    long = [
        f"{page.name}:{number}: {len(line)}"
        for number, line in enumerate(lines, 1)
        if len(line) > LONGEST and not re.search(r"https?://\S{60}", line)
    ]

    assert long == []


def test_the_reference_of_the_gateway_lists_every_path() -> None:
    page = (PROJECT / "docs" / "gateway-reference.md").read_text(encoding="utf-8")
    table = page.partition("\n## Paths\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `([A-Z]+)` \| `(\S+)` \|", table, re.MULTILINE)

    assert sorted(listed) == sorted(OPERATIONS)


def test_the_reference_of_the_gateway_lists_every_path_of_the_sidecar() -> None:
    page = (PROJECT / "docs" / "gateway-reference.md").read_text(encoding="utf-8")
    text = page.partition("\n## Paths of the sidecar\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^- `([A-Z]+)`: (.+)$", text, re.MULTILINE)
    listed = {method.encode(): tuple(re.findall(r"`(\S+)`", paths)) for method, paths in lines}

    assert listed == sidecar_handler.PATHS


def test_the_reference_of_the_gateway_lists_every_error_code() -> None:
    page = (PROJECT / "docs" / "gateway-reference.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| \d{3} \| `(\w+)` \|", page, re.MULTILINE))
    sources = (PROJECT / "gateway_lite").rglob("*.py")
    raised = {
        code
        for source in sources
        for code in re.findall(r"\bcode=\"(\w+)\"", source.read_text(encoding="utf-8"))
    }

    assert raised == listed


def test_every_page_is_linked_from_the_readme() -> None:
    missing = [page.name for page in PAGES[1:] if f"](docs/{page.name})" not in README]

    assert missing == []


def test_the_readme_names_every_command() -> None:
    rows = re.findall(r"^\| (`.+?) \|", section("Commands"), re.MULTILINE)
    spans = [span for row in rows for span in re.findall(r"`([^`]+)`", row)]
    named = {span.removeprefix("hpc-serve ").split()[0] for span in spans}

    assert set(COMMANDS) - named == set()


def test_the_readme_submits_and_asks_what_init_writes() -> None:
    text = section("On a cluster")
    gpu = Partition("gpu", default=True, nodes=1, cpus=8, mem_mb=64_000, gpus=1)
    built = [line for line in site_setup.following(site_setup.Facts((gpu,))) if "build" in line]

    assert re.findall(r"hpc-serve submit (?!-)(\S+)", text) == [site_setup.SERVICE]
    assert re.findall(r'"model": "(.+?)"', text) == [site_setup.SERVICE]
    assert site_setup.VLLM_MODEL in text
    assert all(f"    {line}  " in text for line in built)


def test_the_readme_lists_every_exit_code() -> None:
    listed = re.search(r"^Exit codes: (.+?)\. ", README, re.MULTILINE | re.DOTALL)
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, errors.HpcServeError)}

    assert listed is not None
    assert {int(code) for code in re.findall(r"\b\d\b", listed[1])} == codes | {0}


@pytest.mark.parametrize(("page", "line"), sorted(set(typed())))
def test_what_a_page_tells_to_type_exists(page: str, line: str) -> None:
    command: click.Command = root
    words = line.split()[1:]
    while words and isinstance(command, click.Group):
        if words[0].startswith("-"):
            break
        below = command.get_command(click.Context(command), words.pop(0))
        assert below is not None, f"{page}: {line}"
        command = below
    known = {flag for option in command.params for flag in option.opts} | {"--help", "--version"}
    flags = {word.strip("[]").partition("=")[0] for word in words if word.lstrip("[")[:2] == "--"}

    assert flags - known - {"--"} == set(), f"{page}: {line}"


@pytest.mark.parametrize("path", EVERY)
def test_every_flag_is_explained_in_help(path: str) -> None:
    command = EVERY[path]
    # click keeps a command's help option from its first context: one without -h would stay.
    names = root.context_settings["help_option_names"]
    shown = command.get_help(click.Context(command, info_name=path, help_option_names=names))

    assert command.help
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert max(option.opts, key=len) in shown


def test_every_flag_of_the_gateways_program_is_explained() -> None:
    bare = [
        " ".join(a.option_strings) for p in parsers(_parser()) for a in p._actions if not a.help
    ]

    assert [name for name in bare if name] == []


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def test_every_dependency_has_its_reason() -> None:
    text = (PROJECT / "docs" / "decisions.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \|", text.partition("## Dependencies")[2], re.MULTILINE)
    reasons = {name.strip().lower() for row in rows for name in row.split(",")}

    assert {name.lower() for name in dependencies()} - reasons == set()


def dependencies() -> list[str]:
    """Return the packages that pyproject.toml asks for, extras included."""
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    plain = text.partition("\ndependencies = [\n")[2].partition("\n]\n")[0]
    extras = text.partition("\n[project.optional-dependencies]\n")[2].partition("\n[")[0]
    quoted = re.findall(r'"([^"]+)"', plain + extras)
    found = [re.split(r"[<>=~!\[; ]", one)[0] for one in quoted]
    # A list of several lines, one of a single line, and the last of all.
    assert {"submitit", "uvloop", "google-re2", "pyarrow", "matplotlib", "uv"} <= set(found)
    return found


def tracked() -> Iterator[tuple[str, str]]:
    """Yield the name and text of every text file in git."""
    argv = ["git", "ls-files", "-z"]
    listed = subprocess.run(argv, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    for name in listed.rstrip("\0").split("\0"):
        path = PROJECT / name
        data = path.read_bytes() if path.is_file() else b"\0"
        if b"\0" not in data:
            yield name, data.decode()


def test_no_file_names_a_registrys_host() -> None:
    hosts = "|".join(rf"{name}\.{top}" for top, names in REGISTRIES.items() for name in names)
    pattern = re.compile(rf"\b(?:{hosts})\b")

    assert places(pattern, tracked()) == []


def test_no_file_names_a_path_of_a_developers_machine() -> None:
    pattern = re.compile(rf"(?<![\w.$}}])/(?:{'|'.join(FOLDERS)})/")
    # The lab's nodes have a root of their own.
    elsewhere = (pair for pair in tracked() if not pair[0].startswith("tests/lab/"))

    assert places(pattern, elsewhere) == []


def places(pattern: re.Pattern[str], files: Any) -> list[str]:
    """Return where a pattern occurs."""
    return [
        f"{name}:{number}: {line.strip()[:80]}"
        for name, text in files
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
