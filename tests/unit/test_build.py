"""What a build of an image is told of this machine's pip and apt."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from hpc.build import debian, pipconf
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

ONE_LINE = """\
deb [signed-by=/k] http://cloud.example/apt cloud-sdk main
deb http://deb.example/debian/ trixie main
"""
DEB822 = """\
Types: deb
URIs: http://sec.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://deb.example/debian
Suites: bookworm bookworm-updates
Components: main
"""


@pytest.mark.parametrize(("name", "text"), [("sources.list", ONE_LINE), ("d.sources", DEB822)])
def test_the_mirror_is_that_of_apt(tmp_path: Path, name: str, text: str) -> None:
    folder = tmp_path if name == "sources.list" else tmp_path / "sources.list.d"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)

    assert debian.mirror(tmp_path) == "http://deb.example/debian"


def test_a_machine_that_is_no_debian_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb http://archive.example/ubuntu jammy main\n")

    with pytest.raises(ConfigError, match="knows no Debian mirror") as caught:
        debian.mirror(tmp_path)

    assert "--mirror" in str(caught.value.hint)


def test_pips_settings_are_joined_as_pip_does(tmp_path: Path) -> None:
    (tmp_path / ".config/pip").mkdir(parents=True)
    (tmp_path / ".config/pip/pip.conf").write_text(
        "[global]\ntimeout = 9\nfind-links =\n    /a\n    /b\n[install]\npre = no\n"
    )
    other = tmp_path / "other.conf"
    other.write_text("[global]\ntimeout = 10\n")
    env = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": str(other), "PIP_NO_INPUT": "1"}

    found = pipconf.read(env)

    assert {key: found[key] for key in ("timeout", "find-links", "pre", "no-input")} == {
        "timeout": "10",
        "find-links": "/a /b",
        "pre": "no",
        "no-input": "1",
    }
    assert "config-file" not in found


def test_a_broken_pip_file_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".pip").mkdir()
    (tmp_path / ".pip/pip.conf").write_text("no section\n")

    assert isinstance(pipconf.read({"HOME": str(tmp_path)}), dict)


def test_folders_that_pip_looks_into_are_shown(tmp_path: Path) -> None:
    for name in ("wheels", "index/simple"):
        (tmp_path / name).mkdir(parents=True)
    settings = {
        "find-links": f"{tmp_path}/wheels {tmp_path}/gone",
        "extra-index-url": f"file://{tmp_path}/index/simple http://index.example/simple",
    }

    assert pipconf.folders(settings) == [f"{tmp_path}/index", f"{tmp_path}/wheels"]


def test_what_pip_is_told_is_private_and_complete(tmp_path: Path) -> None:
    certificate = tmp_path / "ca.pem"
    certificate.write_text("CERT")
    settings = {"cert": str(certificate), "index-url": "http://u:secret@index.example/simple"}

    pipconf.write(tmp_path / "told", settings, "/seen", "/wheels")

    told = (tmp_path / "told/pip.conf").read_text()
    assert "index-url = http://u:secret@index.example/simple\n" in told
    assert "cert = /seen/cert.pem\n" in told
    assert "find-links = /wheels\n" in told
    assert (tmp_path / "told/cert.pem").read_text() == "CERT"
    assert stat.S_IMODE((tmp_path / "told").stat().st_mode) == 0o700
