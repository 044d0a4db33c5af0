"""Apt's settings of this machine, as builds of images get them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hpc.errors import ConfigError
from hpc.images import apt_settings

if TYPE_CHECKING:
    from pathlib import Path

SEEN = "/opt/told"
AUTO = "Acquire::http::Proxy-Auto-Detect"
LIST = "apt's list of sources with their keys"
ONE_LINE = """\
deb [arch=amd64 signed-by=/k/cloud.gpg] http://cloud.example/apt cloud-sdk main
# deb http://old.example/debian/ trixie main
deb [signed-by=/k/own.gpg] http://deb.example/debian/ trixie main
"""
DEB822 = """\
Types: deb
URIs: http://sec.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Enabled: no

# one more
types: deb deb-src
uris: http://deb.example/debian
 http://second.example/debian
# in between
suites: bookworm bookworm-updates
components: main
signed-by: /k/own.gpg
"""


def apt(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sources.list", ONE_LINE),
        ("sources.list.d/d.list", ONE_LINE),
        ("sources.list.d/d.sources", DEB822),
    ],
)
def test_the_mirror_is_that_of_apt(tmp_path: Path, name: str, text: str) -> None:
    root = apt(tmp_path, name, text)
    apt(root, "sources.list.d/a.sources.off", DEB822.replace("deb.example", "off.example"))

    assert apt_settings.mirror(root) == "http://deb.example/debian"


def test_a_machine_that_is_no_debian_says_what_to_set(tmp_path: Path) -> None:
    root = apt(tmp_path, "sources.list", "deb http://archive.example/ubuntu jammy main\n")

    with pytest.raises(ConfigError, match="knows no Debian mirror") as caught:
        apt_settings.mirror(root)

    assert "--mirror" in str(caught.value.hint)


def test_proxies_and_checks_are_carried_with_the_files_they_name(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("CA")
    dump = f"""\
APT::Architecture "amd64";
Acquire "";
Acquire::http "";
Acquire::http::Proxy "http://u:pw@proxy.example:3128";
Acquire::https::deb.example::CAInfo "{tmp_path}/ca.pem";
Acquire::https::SslKey "/gone/key.pem";
{AUTO} "/usr/bin/auto";
Acquire::Check-Date "false";
"""
    result = apt_settings.carried(SEEN, mirror=None, root=tmp_path, dump=dump)

    assert result.files["apt.conf"].decode().splitlines() == [
        'Acquire::http::Proxy "http://u:pw@proxy.example:3128";',
        f'Acquire::https::deb.example::CAInfo "{SEEN}/apt-0.pem";',
        'Acquire::Check-Date "false";',
        'APT::Sandbox::User "root";',
    ]
    assert result.files["apt-0.pem"] == b"CA"
    assert result.left_out == (
        "apt's setting Acquire::https::SslKey /gone/key.pem is left out: there is no such file",
        f"apt's setting {AUTO} is left out: it names a program of this machine",
    )


def test_passwords_of_mirrors_are_carried(tmp_path: Path) -> None:
    apt(tmp_path, "auth.conf", "machine a login b password c\n")
    apt(tmp_path, "auth.conf.d/d.conf", "machine d login e password f")
    apt(tmp_path, "auth.conf.d/off.bak", "machine g")

    result = apt_settings.carried(SEEN, mirror=None, root=tmp_path, dump="")

    assert result.files["apt-auth.conf"].decode().splitlines() == [
        "machine a login b password c",
        "machine d login e password f",
    ]
    assert f'Dir::Etc::netrc "{SEEN}/apt-auth.conf";' in result.files["apt.conf"].decode()


def test_pins_are_named(tmp_path: Path) -> None:
    apt(tmp_path, "preferences", "Package: *")
    apt(tmp_path, "preferences.d/own.pref", "Package: *")
    apt(tmp_path, "preferences.d/off.bak", "Package: *")

    (line,) = apt_settings.carried(SEEN, mirror=None, root=tmp_path, dump="").left_out

    assert line.startswith("apt's choice of versions (preferences, preferences.d/own.pref) is left")


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("/usr/share/keyrings/debian-archive-keyring.gpg", 0),
        ("/k/not-debian-archive.gpg", 1),
        ("/usr/share/keyrings/debian-archive-keyring.gpg,/k/own.gpg", 1),
    ],
)
def test_a_key_of_the_mirrors_own_is_named(tmp_path: Path, key: str, told: int) -> None:
    root = apt(tmp_path, "sources.list", f"deb [signed-by={key}] http://m.example/d sid main\n")

    result = apt_settings.carried(SEEN, mirror="http://m.example/d", root=root, dump="")

    assert len(result.left_out) == told


def test_a_source_of_no_known_form_is_survived(tmp_path: Path) -> None:
    root = apt(tmp_path, "sources.list", "deb http://[pw-x@/d sid main\n")

    (line,) = apt_settings.carried(SEEN, mirror=None, root=root, dump="").left_out

    assert "(an address of no known form)" in line


@pytest.mark.parametrize(
    ("mirror", "lines"),
    [
        (
            None,
            [f"{LIST} (cloud.example/apt, deb.example/debian) is left out: the image has its own"],
        ),
        (
            "http://deb.example/debian",
            [
                f"{LIST} (cloud.example/apt) is left out: the image has the mirror alone",
                "apt's key /k/own.gpg of the mirror is left out: debootstrap trusts Debian's only",
            ],
        ),
    ],
)
def test_sources_and_keys_that_an_image_does_not_get_are_named(
    tmp_path: Path, mirror: str | None, lines: list[str]
) -> None:
    root = apt(tmp_path, "sources.list", ONE_LINE.replace("http://c", "http://user:pw@c"))

    result = apt_settings.carried(SEEN, mirror=mirror, root=root, dump="")

    assert list(result.left_out) == lines
