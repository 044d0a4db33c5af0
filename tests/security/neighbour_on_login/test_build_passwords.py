"""Passwords of pip and apt during and after a build: no argument, definition, note or leftover."""

from __future__ import annotations

import base64
import contextlib
import io
import netrc
import os
import re
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from hpc.errors import ConfigError
from hpc.images import apt_settings, pip_settings
from hpc.images import carried as carrying
from hpc.render import definition
from tests.waits import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from hpc.images.carried import Carried

PROJECT = Path(__file__).parents[3]
SEEN = "/opt/told"
PASSWORDS = ["pw-plain", "pw-a@b:c/d", "pw-#;'", 'pw-"q\\b', '"pw- spaced', "pw-ü"]
TOKEN = ("pw-token", "")
BACKEND = """
import pathlib, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "demo-1-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as file:
        info = "demo-1.dist-info/"
        file.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: demo\\nVersion: 1\\n")
        file.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        file.writestr(info + "RECORD", "")
    return name
"""
TOML = '[build-system]\nrequires = ["needed"]\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def carry(home: Path, conf: str = "", **environ: str) -> Carried:
    """Return the settings of a home's user as a build sees them."""
    (home / ".pip").mkdir(parents=True, exist_ok=True)
    (home / ".pip/pip.conf").write_text(conf)
    nowhere = str(home / "nowhere")
    env = {"HOME": str(home), "XDG_CONFIG_DIRS": nowhere, **environ}
    return pip_settings.carried(env, seen_as=SEEN, prefix=nowhere, etc=Path(nowhere))


def sdist() -> bytes:
    """Return a package of sources that needs another one for its build."""
    made = io.BytesIO()
    about = "Metadata-Version: 2.1\nName: demo\nVersion: 1\n"
    with tarfile.open(fileobj=made, mode="w:gz") as file:
        parts = {"PKG-INFO": about, "pyproject.toml": TOML, "backend.py": BACKEND}
        for name, text in parts.items():
            member = tarfile.TarInfo(f"demo-1/{name}")
            member.size = len(text)
            file.addfile(member, io.BytesIO(text.encode()))
    return made.getvalue()


def wheel() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        info = "needed-1.dist-info/"
        file.writestr(f"{info}METADATA", "Metadata-Version: 2.1\nName: needed\nVersion: 1\n")
        file.writestr(f"{info}WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr(f"{info}RECORD", "")
    return made.getvalue()


class Index(ThreadingHTTPServer):
    """An index behind a password, which looks at all arguments as it is asked.

    Args:
        login: user and password.
    """

    def __init__(self, login: tuple[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        # requests encodes what is text in Latin-1, as browsers did.
        self.wanted = base64.b64encode(":".join(login).encode("latin-1")).decode()
        self.files = {"demo-1.tar.gz": sdist(), "needed-1-py3-none-any.whl": wheel()}
        self.arguments: list[str] = []
        self.asked: list[str] = []


class Answer(BaseHTTPRequestHandler):
    """Pages and packages."""

    server: Index

    def do_GET(self) -> None:
        """Answer, after a look at /proc as any user may take."""
        self.server.asked.append(self.path)
        self.server.arguments += [
            found for path in Path("/proc").glob("[0-9]*/cmdline") if (found := _read(path))
        ]
        name = self.path.rpartition("/")[2]
        project = self.path.strip("/").rpartition("/")[2]
        if self.headers["Authorization"] != f"Basic {self.server.wanted}":
            self._send(401, b"")
        elif name in self.server.files:
            self._send(200, self.server.files[name])
        else:
            (file,) = (one for one in self.server.files if one.startswith(project))
            self._send(200, f'<a href="/files/{file}">{file}</a>'.encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@pytest.mark.parametrize("place", ["index", "in a file"])
@pytest.mark.parametrize("login", [*(("user", word) for word in PASSWORDS), TOKEN])
def test_pip_finds_a_password_and_tells_its_processes_none(
    tmp_path: Path, login: tuple[str, str], place: str
) -> None:
    """Real pip builds a package that needs another one: it starts itself for that."""
    server = Index(login)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    user, password = (quote(word, safe="") for word in login)
    start = f"http://{user}:{password}" if password else f"http://{user}"
    address = f"{start}@127.0.0.1:{server.server_port}/simple"
    pins = tmp_path / "pins.txt"
    pins.write_text(f"--index-url {address}\n" if place != "index" else "")
    key = f"index-url = {address}" if place == "index" else "no-binary = nothing"
    told = carry(tmp_path, f"[global]\n{key}\n[wheel]\nrequirement = {pins}\n")
    seen = tmp_path / "told"
    carrying.write(seen, told)
    for file in seen.iterdir():
        file.write_bytes(file.read_bytes().replace(SEEN.encode(), bytes(seen)))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "demo", "--no-deps", "-v", "-w", tmp_path],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path / "empty"),
                "PIP_CONFIG_FILE": f"{seen}/pip.conf",
                "NETRC": f"{seen}/netrc",
                "PIP_NO_CACHE_DIR": "1",
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=4 * PATIENCE_S,
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    secret = quote(login[1] or login[0], safe="")
    assert (tmp_path / "demo-1-py3-none-any.whl").exists(), done.stdout + done.stderr
    assert any("needed" in path for path in server.asked)
    assert any("--ignore-installed" in line for line in server.arguments), "pip starts no other"
    assert not [line for line in server.arguments if secret in line or "pw-" in line]
    assert told.left_out == ()


def test_a_second_login_at_a_host_stays_where_it_is_and_is_told(tmp_path: Path) -> None:
    one, two = "https://a:pw-a@h.example/a", "https://b:pw-b@H.example:8443/b"
    told = carry(tmp_path, f"[global]\nindex-url = {one}\nextra-index-url = {one} {two}\n")
    text = told.files["pip.conf"].decode()
    assert "index-url = https://h.example/a\n" in text
    assert f"extra-index-url = https://h.example/a {two}\n" in text
    assert told.files["netrc"] == b"machine h.example login a password pw-a\n"
    (line,) = told.left_out
    assert "stays in an address, which other users see" in line
    assert "pw-" not in line


@pytest.mark.parametrize(
    "own",
    [
        "machine h.example login old password pw-old",
        "macdef init\ncd x\nmachine h.example login m password n",
        "macdef init\ncd x\n\nmachine g.example login g password pw-g\n",
        "this is none",
    ],
)
def test_the_users_file_of_passwords_hides_no_password(tmp_path: Path, own: str) -> None:
    (tmp_path / "mine").write_text(own)
    conf = "[global]\nindex-url = https://u:pw-u@h.example/simple\n"
    told = carry(tmp_path, conf, NETRC="~/mine")
    carrying.write(tmp_path / "told", told)
    found = netrc.netrc(str(tmp_path / "told/netrc"))
    login = found.authenticators("h.example")
    assert login is not None
    assert (login[0], login[2]) == ("u", "pw-u")
    assert (found.authenticators("g.example") is not None) == ("pw-g" in own)


@pytest.mark.parametrize(
    "address",
    [
        "http://u:pw-x@deb.example/debian",
        "https://pw-token@deb.example/debian",
        "http://u:p%40pw-x@deb.example",
        "HTTP://u:a@pw-x@deb.example/debian",
    ],
)
def test_an_address_with_a_password_is_no_part_of_a_definition(
    tmp_path: Path, address: str
) -> None:
    (tmp_path / "sources.list").write_text(f"deb {address} bookworm main\n")
    found = {"bootstrap": "debootstrap", "mirror": apt_settings.mirror(tmp_path)}
    for settings in (found, {"from": address.replace("http", "docker")}):
        with pytest.raises(ConfigError) as caught:
            definition("vllm-cpu", settings)
        assert "has a name or password in an address" in str(caught.value)
        assert "pw-" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("image", ["debian@sha256:0123", "docker.example:5000/a/b:v1@sha256:ab"])
def test_a_digest_is_no_password(image: str) -> None:
    assert f"From: {image}\n" in definition("vllm-cpu", {"from": image})


@pytest.mark.parametrize(
    "place",
    [
        "ftp://u:pw-x@h.example/c.txt",
        "ftp://u:pw-x\N{NO-BREAK SPACE}pw-y@h.example/c.txt",
        "ftp:/u:pw-x@h.example",
        "file://h.example/pw-x@y",
        "//u:pw-x@h.example/c.txt",
        "s3://bucket/x?token=pw-x",
    ],
)
def test_no_note_tells_a_part_of_a_password(tmp_path: Path, place: str) -> None:
    for key in ("constraint", "find-links", "cert"):
        told = carry(tmp_path, f"[global]\n{key} = {place}\n")
        assert "pw-" not in " ".join(told.left_out), key


def test_a_link_in_anothers_folder_shows_no_own_file(tmp_path: Path) -> None:
    """The owner of a shared folder of packages chooses what links it has."""
    home, shared = tmp_path / "home", tmp_path / "shared"
    for folder in (shared, home / ".ssh", home / ".config/x", home / "wheels"):
        folder.mkdir(parents=True)
    (home / ".ssh/id").write_text("KEY")
    (shared / "a-1-py3-none-any.whl").symlink_to(home / ".ssh/id")
    (shared / "b.html").write_text(f'<a href="file://{home}/.config/x/b-1.whl">b</a>')
    (shared / "c.html").write_text(f'<a href="file://{home}/c-1.whl">c</a>')
    (shared / "d-1-py3-none-any.whl").symlink_to(home / "wheels/d-1-py3-none-any.whl")
    for number in range(9):  # many, of which the common parent would be shown
        (shared / f"e{number}.html").write_text(f'<a href="file://{home}/e{number}/e-1.whl">e</a>')
        (home / f"e{number}").mkdir()

    told = carry(home, f"[global]\nfind-links = {shared}\n")

    assert told.folders == (str(shared),)
    assert any("a link leads to your own files" in line for line in told.left_out)
    named = carry(home, f"[global]\nfind-links = {home}/wheels {home}/.ssh\n")
    assert named.folders == (f"{home}/.ssh", f"{home}/wheels")


def test_a_pipe_in_anothers_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "page.html")
    os.mkfifo(tmp_path / "pins.txt")
    conf = f"[global]\nfind-links = {tmp_path}\nconstraint = {tmp_path}/pins.txt\n"
    conf += "cert = /dev/null\n"
    told = carry(tmp_path / "home", conf)
    (line,) = told.left_out
    assert line.endswith("pins.txt is left out: it cannot be read")
    assert told.files["cert.pem"] == b""


BUILD = """
import os, sys
from hpc.images.build import BuildImage
os.umask(0)
BuildImage("llamacpp-debian", sys.argv[1], program=sys.argv[2], force=True)()
"""
FAKE = """#!/bin/sh
for word; do previous=$image image=$definition definition=$word; done
[ ! -e {quick} ] || exec cp "$definition" "$image"
echo begun $$
exec sleep 600
"""


@pytest.fixture
def builder(tmp_path: Path) -> list[str]:
    program = tmp_path / "apptainer"
    program.write_text(FAKE.format(quick=tmp_path / "quick"))
    program.chmod(0o755)
    return [sys.executable, "-c", BUILD, str(tmp_path / "images/x.sif"), str(program)]


def environment(home: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(PROJECT),
        "PIP_INDEX_URL": "https://u:pw-index@h.example/simple",
    }


def copies(folder: Path) -> list[Path]:
    """Return the files with a password below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if b"pw-" in path.read_bytes()]


def begun(folder: Path) -> Path | None:
    """Return the log of a build that waits for its end, or None."""
    log = folder / "images/x.build.log"
    return log if log.exists() and re.search(r"begun \d+\n", log.read_text()) else None


def runs(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for does not."""
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_no_copy_outlives_a_build_however_it_ends(
    tmp_path: Path, builder: list[str], end: signal.Signals
) -> None:
    """Closed terminals and cancelled jobs included; what SIGKILL leaves goes with the next one."""
    with subprocess.Popen(builder, env=environment(tmp_path), start_new_session=True) as building:
        try:
            log = wait_until(lambda: begun(tmp_path))
            kept = copies(tmp_path / "images")
            modes = [stat.S_IMODE(path.stat().st_mode) for path in (*kept, kept[0].parent)]
            (top,) = (tmp_path / "images").glob(".build-*")
            modes.append(stat.S_IMODE(top.stat().st_mode))
            apptainer = int(re.findall(r"begun (\d+)", log.read_text())[0])
            building.send_signal(end)
            assert building.wait(PATIENCE_S) != 0
        finally:
            building.kill()
    assert modes == [0o600, 0o700, 0o700]
    wait_until(lambda: not runs(apptainer))
    assert bool(copies(tmp_path / "images")) == (end == signal.SIGKILL)
    (tmp_path / "quick").touch()
    subprocess.run(builder, env=environment(tmp_path), check=True)
    assert not copies(tmp_path / "images")
    assert not list((tmp_path / "images").glob(".build-*"))


def test_a_build_in_progress_is_not_taken_for_a_dead_one(
    tmp_path: Path, builder: list[str]
) -> None:
    with subprocess.Popen(builder, env=environment(tmp_path), start_new_session=True) as building:
        try:
            wait_until(lambda: begun(tmp_path))
            (tmp_path / "quick").touch()
            other = [*builder[:3], str(tmp_path / "images/y.sif"), builder[4]]
            subprocess.run(other, env=environment(tmp_path), check=True)
            assert copies(tmp_path / "images")
        finally:
            building.kill()
