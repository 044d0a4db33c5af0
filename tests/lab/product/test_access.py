"""Every way into a cluster, from a laptop that reaches nothing but the login node's port 22."""

from __future__ import annotations

import os
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.cluster import STATE
from tests.lab.laptop import Tunnel, terminal, tunnel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.cluster import Cluster

CUTS = int(os.environ.get("HPC_SERVE_NETWORK_CUTS", "3"))
pytestmark = [pytest.mark.lab, pytest.mark.timeout(600 + 30 * CUTS)]

CUT_S = 12.0
OTP = """#!/bin/sh
# A code is good once: the lines that are left are those that nobody has used.
read -r said
sed -i "/^$said\\$/{w /run/otp-used
d}" /run/otp
[ -s /run/otp-used ] && [ "$(tail -n 1 /run/otp-used)" = "$said" ]
"""
PAM = """auth requisite pam_exec.so quiet expose_authtok /usr/local/sbin/otp
auth required pam_permit.so
account required pam_permit.so
session required pam_permit.so
"""
CODES = """KbdInteractiveAuthentication yes
UsePAM yes
AuthenticationMethods {methods}
"""


@pytest.fixture(params=["openssh", "paramiko"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def up(cluster: Cluster) -> Iterator[Cluster]:
    """Return the cluster with start-up files that print."""
    before = cluster.shell("login", "cat .bash_profile").stdout
    for file in (".bashrc", ".bash_profile"):
        text = (
            f"echo 'Welcome to {{the cluster}} from {file}'\nexport PATH=/opt/hpc-serve/bin:$PATH\n"
        )
        cluster.lab.write_file(f"/home/owner/{file}", text)
    yield cluster
    cluster.lab.write_file("/home/owner/.bash_profile", before)
    cluster.shell("login", "rm .bashrc")
    cluster.reset()


def refused(cluster: Cluster, *options: str, code: int = 7) -> tuple[str, str]:
    """Return the sentence and the hint with which connect gives up."""
    argv = ["hpc-serve", "connect", *options, "--port=0"]
    done = cluster.lab.run("laptop", argv, check=False, timeout=90)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Welcome")]
    assert done.returncode == code, done.stderr
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("hpc-serve: "), done.stderr
    return lines[0].removeprefix("hpc-serve: "), lines[1].strip()


def test_a_plain_key_among_noise(up: Cluster, transport: str) -> None:
    with (
        up.lab.sshd_settings("Banner /etc/hostname\n"),
        tunnel(up.lab, "owner@login", f"--transport={transport}") as opened,
    ):
        assert opened.models() == "200"
        assert (opened.up["way"].startswith("/")) == (transport == "openssh")


def test_wrong_names_and_keys_are_told(up: Cluster, transport: str) -> None:
    ways = f"--transport={transport}"
    text, hint = refused(up, "nobody@login", ways)
    assert text.startswith("permission denied by nobody@login")
    assert "--identity" in hint
    text, hint = refused(up, "owner@10.99.0.77", "-oConnectTimeout=3", ways)
    assert text.startswith("cannot reach 10.99.0.77")
    text, hint = refused(up, "owner@elsewhere", ways)
    assert text == "cannot find a host named elsewhere"
    text, hint = refused(up, "owner@login", ways, "--remote-command=no-such-program")
    assert text.startswith("cannot run no-such-program on login")
    assert "there as here, from " in hint


def test_a_changed_host_key_is_refused(up: Cluster, transport: str) -> None:
    known = up.lab.run("laptop", ["cat", ".ssh/known_hosts"]).stdout
    other = up.lab.run("laptop", ["cat", ".ssh/id_ed25519.pub"]).stdout.split()[:2]
    path = "/home/owner/.ssh/known_hosts"
    try:
        up.lab.write_file(path, f"login,10.99.0.1 {' '.join(other)}\n", node="laptop")
        text, hint = refused(up, "owner@login", f"--transport={transport}")
        assert text == "the host key of login has changed, so nothing was sent to it"
        assert "ssh-keygen -R" in hint
        up.lab.write_file(path, "", node="laptop")
        text, hint = refused(up, "owner@login", f"--transport={transport}")
        assert text == "the host key of login is not known on this machine"
    finally:
        up.lab.write_file(path, known, node="laptop")


def test_a_new_host_is_shown_with_its_fingerprint(up: Cluster, transport: str) -> None:
    known = up.lab.run("laptop", ["cat", ".ssh/known_hosts"]).stdout
    path = "/home/owner/.ssh/known_hosts"
    key = "/etc/ssh/ssh_host_ed25519_key.pub"
    mark = up.lab.run("login", ["ssh-keygen", "-lf", key]).stdout.split()[1]
    up.lab.write_file(path, "", node="laptop")
    argv = ["hpc-serve", "connect", "owner@login", "--port=0", f"--transport={transport}"]
    try:
        with terminal(up.lab, *argv) as window:
            assert mark in window.until("(yes/no") + window.said
            window.type("yes\r")
            window.until("Ctrl-C closes")
        assert "ssh-ed25519" in up.lab.run("laptop", ["cat", path]).stdout
    finally:
        up.lab.write_file(path, known, node="laptop")


@pytest.mark.parametrize("methods", ["keyboard-interactive", "publickey,keyboard-interactive"])
def test_a_password_with_a_one_time_code(up: Cluster, transport: str, methods: str) -> None:
    """It is asked for once for all that the tunnel does, and again only when that was lost."""
    lab = up.lab
    lab.write_file("/usr/local/sbin/otp", OTP, "root", mode="755")
    lab.write_file("/etc/pam.d/sshd", PAM, "root")
    lab.write_file("/run/otp", "secret111111\nsecret222222\n", "root", mode="600")
    argv = ["hpc-serve", "connect", "owner@login", "--port=0", f"--transport={transport}"]
    with lab.sshd_settings(CODES.format(methods=methods)):
        text, _ = refused(up, "owner@login", f"--transport={transport}")
        assert text.startswith("permission denied by owner@login")
        with terminal(lab, *argv) as window:
            window.until("assword:")
            window.type("secret111111\r")
            window.until("Ctrl-C closes")
            lab.restart_sshd()
            window.until("lost")
            window.until("assword:")
            window.type("secret222222\r")
            window.until("connected to owner@login again")
    assert lab.run("login", ["cat", "/run/otp"], user="root").stdout == ""


def test_a_jump_host(up: Cluster, transport: str) -> None:
    with up.lab.gate():
        direct = up.lab.run(
            "laptop", ["ssh", "-oConnectTimeout=3", "-Fnone", "owner@10.98.0.1"], check=False
        )
        assert direct.returncode == 255
        with tunnel(up.lab, "owner@inner", f"--transport={transport}") as opened:
            assert opened.models() == "200"


@pytest.mark.parametrize("setting", ["AllowTcpForwarding no", "DisableForwarding yes"])
def test_forwarding_forbidden(up: Cluster, transport: str, setting: str) -> None:
    with (
        up.lab.sshd_settings(f"{setting}\n"),
        tunnel(up.lab, "owner@login", f"--transport={transport}") as opened,
    ):
        assert opened.up["way"].endswith("through a relay")
        assert opened.models() == "200"


def test_a_gateway_that_was_killed_comes_back(up: Cluster, transport: str) -> None:
    with tunnel(up.lab, "owner@login", f"--transport={transport}") as opened, opened.asker() as ask:
        assert ask() == "200"
        (gateway,) = up.json("gateway", "status")
        seen = len(opened.events)
        up.shell("login", f"kill -9 {gateway['pid']}")
        opened.wait_for("moved", since=seen)
        assert ask() == "200"


def test_sshd_restarts(up: Cluster, transport: str) -> None:
    with tunnel(up.lab, "owner@login", f"--transport={transport}") as opened, opened.asker() as ask:
        seen = len(opened.events)
        up.lab.restart_sshd()
        opened.wait_for("down", since=seen)
        assert ask() == "200"
        assert opened.wait_for("up", since=seen)["event"] == "up"


def test_a_full_home_is_told(up: Cluster, transport: str) -> None:
    up.hpc("gateway", "stop", check=False)
    mount = f"mkdir -p {STATE} && mount -t tmpfs -o size=4k,uid=2001,mode=700 tmpfs {STATE}"
    up.shell("login", mount, user="root")
    try:
        up.shell("login", f"head -c 4096 /dev/zero > {STATE}/fill", check=False)
        text, hint = refused(up, "owner@login", f"--transport={transport}")
    finally:
        up.shell("login", f"umount {STATE}", user="root")
    assert "the gateway on login did not start" in text
    assert "space" in text.lower()
    assert hint == "on login: hpc-serve gateway ensure"


def test_two_laptops_at_once(up: Cluster) -> None:
    up.hpc("gateway", "stop", check=False)
    other = {"HPC_SERVE_HOME": "/home/owner/second"}
    with (
        tunnel(up.lab, "owner@login", "--transport=openssh") as one,
        tunnel(up.lab, "owner@login", "--transport=paramiko", env=other) as two,
    ):
        assert (one.models(), two.models()) == ("200", "200")
    assert len(up.json("gateway", "status")) == 1


@contextmanager
def gateway_job(cluster: Cluster, node: str) -> Iterator[str]:
    """Run the gateway as a job on a node."""
    run = "/opt/hpc-serve/bin/hpc-serve gateway run --host 0.0.0.0 --port 0"
    argv = ["sbatch", "--parsable", f"--nodelist={node}", "--mem=500", f"--wrap={run}"]
    job = cluster.lab.run("login", [*argv, "--output=/dev/null"]).stdout.strip()
    try:
        found = lambda: any(  # noqa: E731
            row["hostname"] == node and row["state"] == "running"
            for row in cluster.json("gateway", "status", check=False)
        )
        cluster.wait_until(found, f"the gateway runs on {node}")
        yield job
    finally:
        cluster.lab.run("login", ["scancel", job])


def address_of(cluster: Cluster, node: str) -> str:
    """Return the address at which a gateway on a node has to prove itself."""
    return str(cluster.lab.run("login", ["getent", "ahostsv4", node]).stdout.split()[0])


def test_a_gateway_in_a_job_is_followed(up: Cluster, transport: str) -> None:
    up.hpc("gateway", "stop", check=False)
    with gateway_job(up, "c1") as first:
        opened = Tunnel(up.lab, "owner@login", f"--transport={transport}")
        try:
            assert opened.up["way"].startswith(f"{address_of(up, 'c1')}:")
            assert opened.models() == "200"
            with gateway_job(up, "c2"):
                seen = len(opened.events)
                up.lab.run("login", ["scancel", first])
                moved = opened.wait_for("moved", since=seen)
                assert f"{address_of(up, 'c2')}:" in moved["message"]
                assert opened.models() == "200"
        finally:
            opened.close()


def test_network_cuts(up: Cluster, transport: str) -> None:
    """Cuts of random length under requests without a pause; the service is back within seconds."""
    chance = random.Random(4)
    with tunnel(up.lab, "owner@login", f"--transport={transport}") as opened, opened.asker() as ask:
        late: list[tuple[float, float]] = []
        for _ in range(CUTS):
            assert ask() == "200"
            length = chance.uniform(0.1, CUT_S)
            up.lab.cut()
            time.sleep(length)
            up.lab.restore()
            took = opened.resumed(ask)
            if took > opened.resumes_s:
                late.append((length, took))
        assert not late, f"cut for, resumed after: {late}"


def test_the_neighbour_gets_nowhere(up: Cluster) -> None:
    """Gateway, its socket, control socket, tunnel and state directory are closed to others."""
    with tunnel(up.lab, "owner@login", "--transport=openssh") as opened:
        (gateway,) = up.json("gateway", "status")
        attack = neighbours_attack(gateway["port"], opened)
        for node in ("login", "c1", "c2", "laptop"):
            done = up.shell(node, attack, user="neighbour", check=False)
            assert "PRIZE" not in done.stdout, (node, done.stdout)
            if node == "login":
                assert done.stdout.count("401") == 2, done.stdout


def neighbours_attack(port: int, opened: Any) -> str:
    """Return a script that says PRIZE for whatever it gets hold of."""
    key = opened.up["key_file"]
    socket = f"{STATE}/gateways/login/gateway.sock"
    curl = "curl -s -o /dev/null -w '%{http_code}\\n' --max-time 5"
    return "\n".join(
        [
            f"{curl} http://127.0.0.1:{port}/v1/models",
            f"{curl} -H 'Authorization: Bearer guess' http://127.0.0.1:{port}/v1/models",
            f"curl -s --max-time 5 --unix-socket {socket} http://x/healthz && echo PRIZE socket",
            f"ls {STATE} && echo PRIZE state",
            f"cat {STATE}/owner.key {STATE}/keys.yaml {key} && echo PRIZE key",
            "for d in /tmp/hpc-*; do ls $d/* 2>/dev/null && echo PRIZE control; done",
            "for d in /tmp/hpc-*; do ssh -S $d/s -O check x 2>&- && echo PRIZE master; done",
            "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep OPENAI && echo PRIZE env",
            "true",
        ]
    )
