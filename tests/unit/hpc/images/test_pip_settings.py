"""Pip's settings of this machine, as builds and nodes get them: whole, or left out in one line."""

from __future__ import annotations

import configparser
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc.images import carried as carrying
from hpc.images import package_links, pip_files, pip_settings

if TYPE_CHECKING:
    from hpc.images.carried import Carried

SEEN = "/opt/told"


def carry(home: Path, conf: str | None = None, *, seen_as: str = SEEN, **environ: str) -> Carried:
    """Carry the settings of a machine whose only files of pip are those of a home."""
    if conf is not None:
        (home / ".pip").mkdir(parents=True, exist_ok=True)
        (home / ".pip/pip.conf").write_text(conf)
    nowhere = str(home / "nowhere")
    env = {"HOME": str(home), "XDG_CONFIG_DIRS": nowhere, **environ}
    return pip_settings.carried(env, seen_as=seen_as, prefix=nowhere, etc=Path(nowhere))


def told(result: Carried, section: str = "global") -> dict[str, str]:
    parser = configparser.RawConfigParser()
    parser.read_string(result.files["pip.conf"].decode())
    return dict(parser.items(section)) if parser.has_section(section) else {}


def folder(path: Path, *names: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).write_text("")
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_files_win_in_pips_order(tmp_path: Path) -> None:
    env = {"HOME": f"{tmp_path}/home", "XDG_CONFIG_DIRS": f"{tmp_path}/x1:{tmp_path}/x2"}
    order = ["x1/pip", "x2/pip", "etc", "home/.pip", "home/.config/pip", "venv"]
    for number, name in enumerate(order):
        later = "".join(f"at{at} = {number}\n" for at in range(number, len(order)))
        write(tmp_path / name / "pip.conf", f"[global]\nlast = {name}\n{later}")

    def read(environ: dict[str, str]) -> pip_files.Sections:
        return pip_files.read(environ, prefix=f"{tmp_path}/venv", etc=tmp_path / "etc").sections

    found = read(env)["global"]
    chosen = write(tmp_path / "own.conf", "[global]\nlast = own\n")
    own = read({**env, "PIP_CONFIG_FILE": str(chosen)})["global"]
    none = read({**env, "PIP_CONFIG_FILE": os.devnull, "PIP_PRE": "1"})

    assert found["last"] == "venv"
    assert [found[f"at{at}"] for at in range(6)] == ["0", "1", "2", "3", "4", "5"]
    assert own["last"] == "own"
    assert own["at4"] == "2", "the user's files do not count beside one of PIP_CONFIG_FILE"
    assert none == {pip_files.VARIABLES: {"config-file": os.devnull, "pre": "1"}}


def test_variables_win_over_sections_and_empty_values_cancel() -> None:
    merged = pip_settings.merged(
        {
            "global": {"timeout": "5", "pre": "", "no-binary": "a"},
            "install": {"default-timeout": "6", "no-binary": "b", "retries": "2"},
            "wheel": {"only-binary": ":all:"},
            "list": {"format": "json"},
            pip_files.VARIABLES: {"default-timeout": "7", "no-binary": "c", "retries": ""},
        }
    )

    assert merged == {
        "global": {"timeout": "7", "no-binary": "a,c"},
        "install": {"retries": "2", "no-binary": "b,c"},
        "download": {},
        "wheel": {"only-binary": ":all:", "no-binary": "c"},
    }


def test_a_file_of_pip_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    result = carry(tmp_path, "no section\n", PIP_RETRIES="3")

    assert told(result) == {"retries": "3"}
    assert result.left_out == (
        f"pip's file {tmp_path}/.pip/pip.conf is left out: it is no file of sections and settings",
    )


def test_files_of_constraints_and_certificates_are_copied(tmp_path: Path) -> None:
    write(tmp_path / "pins.txt", "a<2\n")
    write(tmp_path / "ca.pem", "CA")
    write(tmp_path / "me.pem", "KEY")
    conf = f"[global]\nconstraint =\n  {tmp_path}/pins.txt\n  http://h.example/c.txt\n"
    conf += f"[install]\nrequirement = file://{tmp_path}/pins.txt\n"

    result = carry(tmp_path, conf, PIP_CERT="~/ca.pem", PIP_CLIENT_CERT=f"{tmp_path}/me.pem")

    assert told(result) == {
        "constraint": f"{SEEN}/requirements-0.txt http://h.example/c.txt",
        "cert": f"{SEEN}/cert.pem",
        "client-cert": f"{SEEN}/client-cert.pem",
    }
    assert told(result, "install") == {"requirement": f"{SEEN}/requirements-0.txt"}
    assert {name: text for name, text in result.files.items() if name != "pip.conf"} == {
        "requirements-0.txt": b"a<2\n",
        "cert.pem": b"CA",
        "client-cert.pem": b"KEY",
    }
    assert result.left_out == ()


def test_what_a_constraint_file_names_comes_with_it(tmp_path: Path) -> None:
    folder(tmp_path / "wheel s", "x-1-py3-none-any.whl")
    folder(tmp_path / "src")
    write(tmp_path / "deep/more.txt", "-r ../pins.txt\nb==1 \\\n  --hash=sha256:00\n")
    write(
        tmp_path / "pins.txt",
        f"""\
# a comment
a<${{CAP}}  # why
-c deep/more.txt
--find-links='wheel s' --pre
x @ file://{tmp_path}/wheel%20s/x-1-py3-none-any.whl ; python_version > "3"
-e {tmp_path}/src
-e git+https://h.example/r#egg=r
--constraint gone.txt
""",
    )

    result = carry(tmp_path, f"[global]\nconstraint = {tmp_path}/pins.txt\n", CAP="2")

    shown = f"file://{tmp_path}/wheel%20s"
    assert result.files["requirements-0.txt"].decode().splitlines() == [
        "a<2",
        f"--constraint {SEEN}/requirements-1.txt",
        f"--find-links {shown} --pre",
        f'x @ {shown}/x-1-py3-none-any.whl ; python_version > "3"',
        "--editable 'git+https://h.example/r#egg=r'",
    ]
    assert result.files["requirements-1.txt"].decode().splitlines() == [
        f"--requirement {SEEN}/requirements-0.txt",
        "b==1   --hash=sha256:00",
    ]
    assert result.folders == (f"{tmp_path}/wheel s",)
    about = f"pip's setting constraint {tmp_path}/pins.txt"
    assert result.left_out == (
        f"{about}: -e {tmp_path}/src is left out: it is a folder of sources",
        f"{about} {tmp_path}/gone.txt is left out: there is no such file",
    )


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("keyring-provider", "subprocess", "it names a program of this machine"),
        ("use-feature", "truststore", "may not know it"),
        ("target", "/t", "it has its meaning on this machine only"),
        ("constraint", "/gone.txt", "there is no such file"),
        ("cert", "/", "it is a folder, where a file is meant"),
        ("find-links", "/gone", "there is no such place"),
        ("index-url", "file://server/simple", "names a file of another machine"),
        ("find-links", "/usr", "it would hide files of the image"),
        ("find-links", "/opt", "it would hide files of the image"),
        ("find-links", "{home}/a,b", "a comma, a colon"),
        ("find-links", "{home}/a:b", "a comma, a colon"),
    ],
)
def test_each_setting_that_is_not_carried_has_one_line(
    tmp_path: Path, key: str, value: str, reason: str
) -> None:
    folder(tmp_path / "a,b")
    folder(tmp_path / "a:b")

    result = carry(tmp_path, f"[global]\n{key} = {value.format(home=tmp_path)}\n")

    assert told(result) == {}
    assert len(result.left_out) == 1
    assert f"pip's setting {key}" in result.left_out[0]
    assert reason in result.left_out[0]


def test_settings_without_effect_on_a_build_are_left_out_silently(tmp_path: Path) -> None:
    result = carry(tmp_path, "[global]\ncache-dir = /c\nlog = /l\n", PIP_REQUIRE_VIRTUALENV="1")

    assert told(result) == {}
    assert result.left_out == ()


def test_secrets_stay_in_files_of_their_owner(tmp_path: Path) -> None:
    write(tmp_path / "passwords", "machine h.example login u password pw-netrc\n")
    conf = "[global]\nindex-url = http://u:pw-index@h.example/simple\n"
    conf += "find-links = ssh//u:pw-links@h.example/gone\nproxy = http://u:pw-proxy@p:3128\n"

    result = carry(tmp_path, conf, NETRC=f"{tmp_path}/passwords")
    carrying.write(tmp_path / "told", result)

    assert told(result)["index-url"] == "http://h.example/simple"
    assert told(result)["proxy"] == "http://u:pw-proxy@p:3128"
    assert b"pw-netrc" in result.files["netrc"]
    assert b"machine h.example login u password pw-index\n" in result.files["netrc"]
    assert len(result.left_out) == 1
    assert "pw-" not in str(result.left_out)
    assert stat.S_IMODE((tmp_path / "told").stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "told").iterdir()}
    assert modes == {0o600}


def test_the_homes_netrc_is_carried_unless_another_is_named(tmp_path: Path) -> None:
    write(tmp_path / ".netrc", "machine a login b password c\n")

    assert carry(tmp_path).files["netrc"] == b"machine a login b password c\n"
    assert "netrc" not in carry(tmp_path, NETRC=f"{tmp_path}/gone").files


def test_a_file_left_out_is_noted_for_each_setting_that_names_it(tmp_path: Path) -> None:
    result = carry(tmp_path, "[global]\nconstraint = /gone.txt\nrequirement = /gone.txt\n")

    assert [line.split()[2] for line in result.left_out] == ["constraint", "requirement"]


def test_a_bundle_that_a_variable_names_counts_where_no_setting_does(tmp_path: Path) -> None:
    write(tmp_path / "ca.pem", "BUNDLE")
    write(tmp_path / "own.pem", "OWN")
    variable = {"REQUESTS_CA_BUNDLE": f"{tmp_path}/ca.pem"}

    assert carry(tmp_path, **variable).files["cert.pem"] == b"BUNDLE"
    own = carry(tmp_path, **variable, PIP_CERT=f"{tmp_path}/own.pem")
    assert own.files["cert.pem"] == b"OWN"


def test_folders_are_named_as_addresses_so_that_spaces_do_no_harm(tmp_path: Path) -> None:
    folder(tmp_path / "my wheels")
    folder(tmp_path / "other")
    conf = f"[global]\nfind-links = file://{tmp_path}/my%20wheels ~/other\n"

    result = carry(tmp_path, conf)

    assert told(result)["find-links"] == f"file://{tmp_path}/my%20wheels file://{tmp_path}/other"
    assert result.folders == (f"{tmp_path}/my wheels", f"{tmp_path}/other")


def test_folders_that_links_lead_to_are_shown_as_well(tmp_path: Path) -> None:
    page = '<a href="../../files/a.whl">a</a><a href="{pool}/b.whl#sha256=0">b</a>'
    pool = folder(tmp_path / "pool", "b.whl", "c.whl")
    write(tmp_path / "i/simple/a/index.html", page.format(pool=pool.as_uri()))
    folder(tmp_path / "i/files", "a.whl")
    folder(tmp_path / "i/private")
    write(tmp_path / "far/b/index.html", "")
    (tmp_path / "i/simple/b").symlink_to(tmp_path / "far/b")
    flat = folder(tmp_path / "flat")
    (tmp_path / "hop").mkdir()
    (tmp_path / "hop/c.whl").symlink_to(pool / "c.whl")
    (flat / "c.whl").symlink_to("../hop/c.whl")
    conf = f"[global]\nextra-index-url = file://{tmp_path}/i/simple\n"

    index = carry(tmp_path, conf)
    links = carry(tmp_path, PIP_FIND_LINKS=str(flat), PIP_EXTRA_INDEX_URL="http://h.example/s")

    assert index.folders == tuple(f"{tmp_path}/{n}" for n in ("far", "i/files", "i/simple", "pool"))
    assert links.folders == tuple(f"{tmp_path}/{n}" for n in ("flat", "hop", "pool"))
    assert told(links)["extra-index-url"] == "http://h.example/s"


def test_many_folders_of_files_are_shown_as_the_one_above_them(tmp_path: Path) -> None:
    links = "".join(f'<a href="../../p/{n}/x.whl">x</a>' for n in range(20))
    write(tmp_path / "simple/x/index.html", f'<base href="">{links}')

    found = package_links.of_index(tmp_path / "simple")

    assert found == [tmp_path / "simple", tmp_path / "p"]


def test_further_folders_of_packages_are_added_to_every_list(tmp_path: Path) -> None:
    wheels = folder(tmp_path / "w")
    write(tmp_path / ".pip/pip.conf", f"[install]\nfind-links = {wheels}\n")
    env = {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": f"{tmp_path}/no"}
    result = pip_settings.carried(
        env, seen_as=SEEN, find_links=["/more"], prefix="/nowhere", etc=tmp_path
    )

    assert told(result)["find-links"] == "/more"
    assert told(result, "install")["find-links"] == f"file://{wheels} /more"


def test_places_that_cannot_be_looked_at_are_named(tmp_path: Path) -> None:
    """A name that is too long raises as a closed folder does, for root too."""
    far = f"{tmp_path}/{'x' * 300}"
    conf = f"[global]\nfind-links = {far}\nconstraint = {far}\n[install]\ncert = {far}\n"

    result = carry(tmp_path, conf, NETRC=far)

    assert told(result) == told(result, "install") == {}
    assert [line.rpartition(": ")[2] for line in result.left_out] == ["it cannot be read"] * 3


NAMES = st.sampled_from(["w", "my wheels", "a,b", "ü", "deep/w", "gone", "it's", "x%20y"])
KINDS = {
    "find-links": ["{p}", "file://{u}", "~/{n}", "http://h.example/{u}"],
    "index-url": ["file://{u}", "{p}", "https://u:pw@h.example/simple"],
    "extra-index-url": ["file://{u} https://h.example/simple", "\n  file://{u}\n  {p}"],
    "constraint": ["{p}.txt", "file://{u}.txt", "{p}.txt https://h.example/c.txt"],
    "requirement": ["{p}.txt"],
    "cert": ["{p}.txt", "~/{n}.txt"],
    "client-cert": ["{p}.txt"],
    "no-binary": [":all:", "a,b"],
    "timeout": ["5"],
    "trusted-host": ["h.example\n  i.example"],
    "keyring-provider": ["import"],
    "cache-dir": ["{p}"],
    "target": ["{p}"],
    "no-such-option": ["1"],
}
SETTING = st.sampled_from(sorted(KINDS)).flatmap(
    lambda key: st.tuples(st.just(key), st.sampled_from(KINDS[key]), NAMES)
)
SECTION = st.lists(SETTING, max_size=5, unique_by=lambda setting: setting[0])
CONFIGURATIONS = st.fixed_dictionaries(
    dict.fromkeys(("global", "install", "download", "list"), SECTION)
)


def filled(home: Path, pattern: str, name: str) -> str:
    path = home / name
    return pattern.format(p=path, u=path.as_uri()[7:], n=name)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    for name in ("w", "my wheels", "a,b", "ü", "deep/w", "it's", "x%20y"):
        folder(home / name, "p-1-py3-none-any.whl")
        write(home / f"{name}.txt", "-c w.txt\np<2\n-f 'my wheels'\n")
    return home


def places(text: str) -> list[Path]:
    """Return the local paths that words of a text name."""
    words = [word.strip("'\"") for word in text.split()]
    found = [package_links.local_path(word) for word in words if word.startswith("file:")]
    return [path for path in found if path] + [Path(word) for word in words if word[0] == "/"]


@given(
    sections=CONFIGURATIONS,
    variables=st.lists(SETTING, max_size=3, unique_by=lambda setting: setting[0]),
)
@settings(deadline=None)
def test_nothing_is_named_that_is_not_there_and_nothing_vanishes(
    machine: Path, sections: dict[str, list[tuple[str, str, str]]], variables: list[Any]
) -> None:
    meant = {name: {k: filled(machine, p, n) for k, p, n in s} for name, s in sections.items()}
    conf = "".join(
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in section.items())
        for name, section in meant.items()
    )
    env = {f"PIP_{k.upper().replace('-', '_')}": filled(machine, p, n) for k, p, n in variables}

    result = carry(machine, conf, **env)
    texts = [text.decode() for name, text in result.files.items() if name.endswith((".txt", "f"))]

    for path in (path for text in texts for path in places(text)):
        inside = path.is_relative_to(SEEN) and path.name in result.files
        assert inside or any(path.is_relative_to(shown) for shown in result.folders), path
    assert all(Path(shown).is_dir() for shown in result.folders)
    for name, section in meant.items():
        for key in section if name != "list" else ():
            kept = key in told(result) or key in told(result, name)
            noted = any(f"pip's setting {key}" in line for line in result.left_out)
            assert kept or noted or key in pip_settings.WITHOUT_EFFECT, key
    assert "pw" not in " ".join(result.left_out)


@given(sections=CONFIGURATIONS)
@settings(deadline=None, max_examples=50)
def test_what_was_carried_can_be_carried_on_without_loss(
    machine: Path, tmp_path_factory: pytest.TempPathFactory, sections: dict[str, Any]
) -> None:
    meant = {name: {k: filled(machine, p, n) for k, p, n in s} for name, s in sections.items()}
    seen = tmp_path_factory.mktemp("seen") / "told"
    first = carry(machine, pip_settings.text(flat(meant)), seen_as=str(seen))
    carrying.write(seen, first)

    again = carry(
        tmp_path_factory.mktemp("empty"), PIP_CONFIG_FILE=f"{seen}/pip.conf", seen_as=str(seen)
    )

    assert again.left_out == ()
    assert again.folders == first.folders
    assert again.files["pip.conf"] == first.files["pip.conf"]


def flat(sections: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    return {
        name: {key: " ".join(value.split()) for key, value in section.items()}
        for name, section in sections.items()
    }
