"""Apptainer definitions: recorded text, what a site may change, what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpc.errors import ConfigError
from hpc.render import DEFINITIONS, definition
from tests.golden.compare import assert_golden

ROOT = Path(__file__).parents[4]
MIRROR = "http://mirror.example/debian"
DEBIAN = [name for name, made in DEFINITIONS.items() if made.suite]
SECTIONS = ("%post", "%environment", "%runscript", "%test", "%labels", "%help")


@pytest.mark.parametrize("name", DEFINITIONS)
def test_recorded_definitions(name: str) -> None:
    text = definition(name).replace(str(ROOT), "CHECKOUT")

    assert_golden(f"{name}.def", text)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_definition_has_every_section_and_names_no_registry(name: str) -> None:
    text = definition(name)

    for section in SECTIONS:
        assert re.search(rf"^{section}\n    \S", text, re.MULTILINE), section
    assert "://" not in text
    assert not re.search(r"^From: [^/\n]*\.[^/\n]*/", text, re.MULTILINE)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_base_image_is_pinned(name: str) -> None:
    bases = re.findall(r"^From: (.+)$", definition(name), re.MULTILINE)

    assert bases
    for base in bases:
        assert re.search(r":(?!latest)\S+$", base), base


@pytest.mark.parametrize("name", DEBIAN)
def test_debian_images_can_be_bootstrapped_from_a_mirror(name: str) -> None:
    head = definition(name, {"bootstrap": "debootstrap", "mirror": MIRROR}).splitlines()[:4]

    assert head[0] == "Bootstrap: debootstrap"
    assert head[1] == f"OSVersion: {DEFINITIONS[name].suite}"
    assert head[2] == f"MirrorURL: {MIRROR}"


def test_a_local_image_can_be_the_start() -> None:
    text = definition("vllm", {"bootstrap": "localimage", "from": "/images/vllm-openai.sif"})

    assert text.startswith("Bootstrap: localimage\nFrom: /images/vllm-openai.sif\n")


def test_a_version_is_changed_in_one_place() -> None:
    text = definition("vllm", {"version": "0.99.1"})

    assert "From: vllm/vllm-openai:v0.99.1" in text
    assert "vllm 0.99.1" in text
    assert "0.32.0" not in text


def test_what_a_build_binds_is_there_to_be_bound_over() -> None:
    text = definition("llamacpp-cpu", folders=["/srv/my wheels"])

    assert "mkdir -p \"${APPTAINER_ROOTFS}\"'/srv/my wheels'" in text


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("nope", {}, "there is no definition 'nope'; allowed: vllm, "),
        ("vllm", {"verson": "1"}, "the definition vllm has no variable 'verson'"),
        ("vllm", {"from": "x\n%post"}, "from of the definition vllm cannot hold a line break"),
        ("vllm", {"bootstrap": "yum"}, "bootstrap is 'yum', not one of docker, localimage, "),
        ("vllm", {"bootstrap": "debootstrap", "mirror": MIRROR}, "starts from a ready image"),
        ("llamacpp-cpu", {"bootstrap": "debootstrap"}, "needs the address of a Debian mirror"),
        ("llamacpp-cpu", {"bootstrap": "localimage"}, "needs an image to start from"),
    ],
)
def test_what_cannot_be_rendered_is_one_clear_error(
    name: str, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        definition(name, settings)


def test_a_bind_with_a_line_break_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot hold a line break"):
        definition("llamacpp-cpu", folders=["/a\nb"])


def test_a_sites_own_definition_wins(tmp_path: Path) -> None:
    (tmp_path / "vllm-cuda.def.j2").write_text("Bootstrap: {{ bootstrap }}\nFrom: mine\n")

    assert definition("vllm", templates=tmp_path) == "Bootstrap: docker\nFrom: mine\n"


def test_the_servers_packages_are_those_that_are_locked() -> None:
    lock = (ROOT / "constraints" / "llamacpp.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([\w.]+)", lock, re.MULTILINE))
    newest = re.findall(r"^fastapi==([\w.]+) ; python_full_version >= '3.11'", lock, re.MULTILINE)
    pinned["fastapi"] = newest[0] if newest else pinned["fastapi"]
    used = DEFINITIONS["llamacpp-cpu"].variables

    for name in ("llama_cpp_python", "fastapi", "huggingface_hub", "prometheus_client", "uvicorn"):
        assert used[name] == pinned[name.replace("_", "-")], name


DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_digest_takes_the_place_of_the_tag(name: str) -> None:
    before = re.findall(r"^From: (.+)$", definition(name), re.MULTILINE)
    text = definition(name, {"digest": DIGEST})
    after = re.findall(r"^From: (.+)$", text, re.MULTILINE)

    assert after == [f"{before[0].partition(':')[0]}@{DIGEST}", *before[1:]]


def test_the_second_base_has_a_digest_of_its_own() -> None:
    text = definition("llamacpp-cuda", {"digest": DIGEST, "digest_runtime": DIGEST})
    bases = re.findall(r"^From: (.+)$", text, re.MULTILINE)

    assert bases == [f"nvidia/cuda@{DIGEST}"] * 2


def test_the_port_of_a_sites_registry_is_no_tag() -> None:
    given = {"from": "registry.example:5000/team/vllm:v1", "digest": DIGEST}

    assert f"\nFrom: registry.example:5000/team/vllm@{DIGEST}\n" in definition("vllm", given)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"digest": "latest"}, "digest is 'latest', not sha256: and 64 hexadecimal digits"),
        ({"digest": DIGEST[:-1]}, "not sha256:"),
        ({"digest": DIGEST, "bootstrap": "localimage", "from": "a.sif"}, "is for bootstrap docker"),
    ],
)
def test_what_is_no_digest_is_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        definition("vllm", settings)
