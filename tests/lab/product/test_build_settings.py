"""Settings of pip and apt on the building machine reach a real build, and stay out of the image."""

from __future__ import annotations

import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.lab.slurmlab import images, project
from tests.lab.slurmlab.node import Bind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.cluster import Cluster
    from tests.lab.slurmlab import Lab
    from tests.lab.slurmlab.node import Node

HOME = "/home/owner"
PIP_CONF = f"""\
[global]
no-index = true
index-url = http://u:pw-index@127.0.0.1:9/simple
find-links = {HOME}/my%20wheels file://{HOME}/my%20wheels
keyring-provider = import
[install]
constraint = {HOME}/pins/outer.txt
"""
APT_CONF = """\
Acquire::http::Proxy "http://u:pw-proxy@127.0.0.1:9";
Acquire::https::CAInfo "/etc/apt/own-ca.pem";
"""
SOURCES = "deb [signed-by=/etc/apt/own.gpg] http://third.example/apt stable main\n"
TEMPLATE = """\
{% extends "base.def.j2" %}
{% import "parts.j2" as parts %}
{% block post %}
{{ parts.apt_settings(build_folder) }}
{{ parts.pip_settings(build_folder) }}
    python3 -m venv /engine
    /engine/bin/pip install demo
    apt-config dump > /apt
    eval $(apt-config shell ca Acquire::https::CAInfo)
    cat "$ca" >> /apt
    grep -c '[p]w-netrc' "$NETRC" > /seen
    env | grep PIP_ >> /seen
    ! touch "{{ build_folder }}/written" || exit 9
    ! touch "/home/owner/my wheels/written" || exit 9
{% endblock %}
{% block test %}
    test -e /seen
{% endblock %}
"""


def package(folder: Path, version: str) -> None:
    """Make a package of one file."""
    info = f"demo-{version}.dist-info"
    with zipfile.ZipFile(folder / f"demo-{version}-py3-none-any.whl", "w") as file:
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: demo\nVersion: {version}\n"
        )
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@contextmanager
def machine(lab: Lab, folder: Path) -> Iterator[Node]:
    """Run a building machine with settings of its own and of its user."""
    binds = [
        Bind(lab.folder / "opt/hpc-serve", project.PREFIX),
        Bind(lab.images, images.FOLDER),
        Bind(folder, f"{HOME}/my wheels"),
    ]
    files = {
        f"{HOME}/.config/pip/pip.conf": PIP_CONF,
        f"{HOME}/pins/outer.txt": "-c inner.txt\n",
        f"{HOME}/pins/inner.txt": "demo<2\n",
        f"{HOME}/.netrc": "machine h.example login u password pw-netrc\n",
        f"{HOME}/templates/llamacpp-debian.def.j2": TEMPLATE,
        f"{HOME}/.config/hpc-serve/site.yaml": f"templates: {HOME}/templates\n",
        "/etc/apt/apt.conf.d/99own": APT_CONF,
        "/etc/apt/own-ca.pem": "OWN CA\n",
        "/etc/apt/auth.conf.d/own.conf": "machine h.example login u password pw-auth\n",
        "/etc/apt/sources.list.d/own.list": SOURCES,
    }
    with lab.workshop("build-settings", binds) as node:
        for path, text in files.items():
            user = "owner" if path.startswith(HOME) else "root"
            script = 'mkdir -p "${0%/*}" && cat > "$0"'
            node.run(["sh", "-c", script, path], user=user, input=text)
        yield node


def test_a_build_gets_a_constraint_file_and_leaves_no_setting_behind(
    cluster: Cluster, tmp_path: Path
) -> None:
    lab = cluster.lab
    base = lab.base_image("trixie")
    for version in ("1.0", "2.0"):
        package(tmp_path, version)
    tmp_path.chmod(0o755)

    with machine(lab, tmp_path) as node:
        argv = ["hpc-serve", "build", "llamacpp-debian", "--bootstrap", "localimage"]
        rest = ["--from", base, "--output", "/tmp/made.sif", "--", *images.FAST]
        said = node.run([*argv, *rest], timeout=600)
        # Without the home, which Apptainer would show over the image's own folder.
        inside = ["env", "-C", "/tmp", "apptainer", "exec", "--no-home", "/tmp/made.sif"]
        version = node.run([*inside, "/engine/bin/pip", "list", "--format=freeze"]).stdout
        apt = node.run([*inside, "cat", "/apt"]).stdout
        seen = node.run([*inside, "cat", "/seen"]).stdout
        left = node.run([*inside, "ls", "-A", "/opt/hpc-serve-build", f"{HOME}/my wheels"]).stdout
        search = ["grep", "-rlI", "-e", "pw-", "/etc", "/opt", "/engine", "/home", "/root", "/var"]
        secrets = node.run([*inside, *search], check=False).stdout
        log = node.run(["cat", "/tmp/made.build.log", "/tmp/made.def"]).stdout

    assert "demo==1.0\n" in version, "the constraint has no effect"
    assert 'Acquire::http::Proxy "http://u:pw-proxy@127.0.0.1:9";' in apt
    assert apt.endswith("OWN CA\n")
    assert seen.splitlines()[0] == "1"
    assert "PIP_CONFIG_FILE=/opt/hpc-serve-build/pip.conf" in seen
    assert "PIP_CONSTRAINT" not in seen
    assert left.split() == ["/home/owner/my", "wheels:", "/opt/hpc-serve-build:"]
    assert secrets == ""
    assert "pw-" not in log + said.stdout + said.stderr
    for line in (
        "pip's setting keyring-provider is left out: it names a program of this machine",
        "third.example/apt) is left out: the image has its own",
    ):
        assert said.stderr.count(line) == 1
        assert log.count(line) == 1
