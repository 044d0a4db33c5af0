"""Logins by paramiko with the keys, agents and ways that ssh takes too, against a real sshd."""

from __future__ import annotations

import contextlib
import getpass
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from hpc.errors import ConfigError, TunnelError
from hpc.tunnel import open_link, prompts
from tests.fakes.login_node import LoginNode, processes_with, program, shared_node, until
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAYS = ("openssh", "paramiko")
WORD = "open sesame"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginNode]:
    for node in shared_node(tmp_path_factory):
        _add_keys(node)
        yield node


@pytest.fixture
def config(node: LoginNode) -> Iterator[Path]:
    node.known()
    yield node.folder / "own_config"
    node.known()


def keygen(*arguments: str) -> None:
    subprocess.run(["ssh-keygen", "-q", *arguments], check=True, stdin=subprocess.DEVNULL)


def _add_keys(node: LoginNode) -> None:
    """Make keys of all kinds and forms, which the node accepts."""
    keys = {
        "ed25519": ("-t", "ed25519"),
        "rsa": ("-t", "rsa", "-b", "2048"),
        "ecdsa": ("-t", "ecdsa"),
        "rsa.pem": ("-t", "rsa", "-b", "2048", "-m", "PEM"),
        "ecdsa.pem": ("-t", "ecdsa", "-m", "PEM"),
        "rsa.pkcs8": ("-t", "rsa", "-b", "2048", "-m", "PKCS8"),
        "ecdsa.pkcs8": ("-t", "ecdsa", "-m", "PKCS8"),
    }
    for name, arguments in keys.items():
        keygen(*arguments, "-N", "", "-f", str(node.folder / name))
    _write_pkcs8(node.folder / "ed25519", node.folder / "ed25519.pkcs8")
    for name in ("ed25519", "rsa.pem", "ecdsa.pkcs8"):
        locked = node.folder / f"{name}.locked"
        locked.write_bytes((node.folder / name).read_bytes())
        locked.chmod(0o600)
        keygen("-p", "-P", "", "-N", WORD, *keys[name][-2:], "-f", str(locked))
    keygen("-t", "ed25519", "-N", "", "-f", str(node.folder / "authority"))
    keygen("-t", "ed25519", "-N", "", "-f", str(node.folder / "certified"))
    sign = ("-I", "me", "-n", getpass.getuser())
    keygen("-s", str(node.folder / "authority"), *sign, str(node.folder / "certified.pub"))
    accepted = [(node.folder / f"{name}.pub").read_text() for name in ("user", *keys)]
    authority = (node.folder / "authority.pub").read_text()
    accepted.append(f"cert-authority {authority}")
    (node.folder / "authorized_keys").write_text("".join(accepted))


def _write_pkcs8(source: Path, target: Path) -> None:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    key = serialization.load_ssh_private_key(source.read_bytes(), None)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    target.write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    target.chmod(0o600)


def enter(node: LoginNode, config: Path, text: str, host: str = "cluster", **more: object) -> str:
    """Log in by paramiko with a configuration, and return the name of the key that was taken."""
    config.write_text(text)
    before = len(node.said())
    more = {"identity": None, "options": (), "config": config, "user": None} | more
    login = node.login(host=host, **more)
    link = open_link(login, transport="paramiko", interactive=False)
    try:
        assert link.run("echo here", timeout_s=PATIENCE_S).stdout == "here\n"
        assert not link.notes
    finally:
        link.close()
    return node.said()[before:]


def section(node: LoginNode, *lines: str, identity: str | None = "user") -> str:
    common = [f"{key} {value}" for key, value in node.options]
    keys = [f"IdentityFile {node.folder / identity}"] if identity else []
    return "Host cluster\n" + "".join(f" {line}\n" for line in (*lines, *keys, *common))


@pytest.mark.parametrize(
    "name",
    [
        *("ed25519", "rsa", "ecdsa", "rsa.pem", "ecdsa.pem"),
        *("rsa.pkcs8", "ecdsa.pkcs8", "ed25519.pkcs8"),
    ],
)
def test_a_key_in_each_form_of_ssh_is_used(node: LoginNode, config: Path, name: str) -> None:
    assert "Accepted publickey" in enter(node, config, section(node, identity=name))


@pytest.mark.parametrize("name", ["ed25519.locked", "rsa.pem.locked", "ecdsa.pkcs8.locked"])
def test_a_passphrase_is_asked_for(
    node: LoginNode, config: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(section(node, identity=name))
    login = node.login(host="cluster", identity=None, options=(), config=config)
    with pytest.raises(TunnelError, match="permission denied") as caught:
        open_link(login, transport="paramiko", interactive=False)
    assert f"{name} has a passphrase" in str(caught.value.hint)
    words = iter(["wrong", WORD])
    monkeypatch.setattr(prompts, "ask", lambda _text, *, echo: next(words) if not echo else "")
    open_link(login, transport="paramiko", interactive=True).close()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("PuTTY-User-Key-File-3: ssh-ed25519\n", "is in PuTTY's form: export it"),
        ("garbage\n", "is in no known form (OpenSSH, PEM, PKCS8)"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "is in no known form"),
        ("---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\n", "is in no known form"),
        ("{public}", "is a public key, whose private key no agent holds"),
        ("", "is in no known form"),
    ],
)
def test_a_file_that_is_no_usable_key_is_told(
    node: LoginNode, config: Path, content: str, told: str
) -> None:
    public = (node.folder / "stranger.pub").read_text()
    (node.folder / "odd").write_text(content.replace("{public}", public))
    with pytest.raises(TunnelError, match="permission denied by cluster") as caught:
        enter(node, config, section(node, identity="odd"))
    assert f"the key {node.folder / 'odd'} {told}" in str(caught.value.hint)
    text = section(node, f"IdentityFile {node.folder / 'odd'}")  # then the good one
    assert "Accepted publickey" in enter(node, config, text)


def test_certificates_are_shown(node: LoginNode, config: Path) -> None:
    """That of the key's own name, and one named by CertificateFile."""
    assert "ED25519-CERT" in enter(node, config, section(node, identity="certified"))
    own = node.folder / "certified-cert.pub"
    other = node.folder / "elsewhere.pub"
    own.rename(other)
    try:
        with pytest.raises(TunnelError, match="permission denied"):
            enter(node, config, section(node, identity="certified"))
        text = section(node, f"CertificateFile {other}", identity="certified")
        assert "ED25519-CERT" in enter(node, config, text)
    finally:
        other.rename(own)


@contextlib.contextmanager
def agent(folder: Path, *keys: Path) -> Iterator[Path]:
    """Run an ssh-agent with some keys."""
    path = folder / "agent.sock"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL) as held:
        try:
            until(path.exists, "the agent listens")
            for key in keys:
                env = os.environ | {"SSH_AUTH_SOCK": str(path)}
                subprocess.run(["ssh-add", "-q", str(key)], check=True, env=env)
            yield path
        finally:
            held.terminate()


@pytest.mark.skipif(program("ssh-agent") is None, reason="ssh-agent is not installed")
def test_the_named_agent_is_asked(
    node: LoginNode, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = node.folder / "agents"
    folder.mkdir()
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    keys = [node.folder / name for name in ("stranger", "rsa", "ecdsa")]
    with agent(folder, *keys) as path:
        text = section(node, f"IdentityAgent {path}", identity=None)
        assert ": RSA " in enter(node, config, text)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        assert ": RSA " in enter(node, config, section(node, identity=None))
        # A named key comes first, by its public half too, and alone with IdentitiesOnly.
        named = (f"IdentityFile {node.folder / 'ecdsa'}.pub", "IdentitiesOnly yes")
        assert ": ECDSA " in enter(node, config, section(node, *named, identity=None))
        assert ": ECDSA " in enter(node, config, section(node, named[0], identity=None))
        public = node.folder / "ecdsa.pub"
        assert ": ECDSA " in enter(node, config, section(node, identity=None), identity=public)
        for line in ("IdentityAgent none", "IdentityAgent /nowhere"):
            with pytest.raises(TunnelError, match="permission denied"):
                enter(node, config, section(node, line, f"IdentityFile {public}", identity=None))
        only = section(node, "IdentitiesOnly yes", identity="stranger")
        with pytest.raises(TunnelError, match="permission denied"):
            enter(node, config, only)


def test_included_sections_and_matches_count(node: LoginNode, config: Path) -> None:
    (node.folder / "more.inc").write_text(section(node))
    assert "Accepted" in enter(node, config, f"Include {node.folder}/*.inc\nPort 1\n")
    text = section(node).replace("Host cluster", 'Match originalhost cluster exec "test %n = x"')
    with pytest.raises(TunnelError):
        enter(node, config, f"HostName 127.0.0.1\n{text}\nMatch all\n Port 1\n")
    text = section(node).replace("Host cluster", 'Match originalhost c* exec "test %n = cluster"')
    assert "Accepted" in enter(node, config, text)


def test_the_host_is_known_by_its_alias_and_in_files_with_tokens(
    node: LoginNode, config: Path
) -> None:
    known = node.folder / "known_hosts"
    key = known.read_text().partition(" ")[2]
    known.write_text("")
    (node.folder / "known-the-cluster").write_text(f"the-cluster {key}")
    lines = (f"UserKnownHostsFile {node.folder}/known-%k", "HostKeyAlias the-cluster")
    assert "Accepted" in enter(node, config, section(node, *lines))
    with pytest.raises(TunnelError, match="the host key of cluster is not known"):
        enter(node, config, section(node, lines[0], "HostKeyAlias another"))
    known.write_text(f"[127.*]:*,!other {key}")
    assert "Accepted" in enter(node, config, section(node))
    known.write_text(f"127.0.0.1 {key}")  # as ssh: a line without the port
    assert "Accepted" in enter(node, config, section(node))


def test_an_accepted_key_is_written_as_ssh_would(
    node: LoginNode, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside an authority's line too, on a line of its own, and hashed where that is wished."""
    known = node.folder / "known_hosts"
    authority = (node.folder / "authority.pub").read_text().strip()
    known.write_text(f"@cert-authority * {authority}")  # no line end
    config.write_text(section(node, "HashKnownHosts yes"))
    login = node.login(host="cluster", identity=None, options=(), config=config)
    with pytest.raises(TunnelError, match="vouched for by a certificate authority") as caught:
        open_link(login, transport="paramiko", interactive=False)
    assert "answer yes" in str(caught.value.hint)
    monkeypatch.setattr(prompts, "ask", lambda _text, *, echo: "yes" if echo else "")
    open_link(login, transport="paramiko", interactive=True).close()
    first, second = known.read_text().splitlines()
    assert first.startswith("@cert-authority")
    assert second.startswith("|1|")
    assert "127.0.0.1" not in second
    for way in WAYS:
        open_link(login, transport=way, interactive=False).close()  # type: ignore[arg-type]


@pytest.mark.parametrize("jump", ["[127.0.0.1]:{port}", "{me}@127.0.0.1:{port}", "ssh://gate"])
def test_a_jump_host_is_written_as_for_ssh(node: LoginNode, config: Path, jump: str) -> None:
    line = f"ProxyJump {jump.format(port=node.port, me=getpass.getuser())}"
    common = section(node).replace("Host cluster", "Host gate 127.0.0.1")
    said = enter(node, config, section(node, line) + common)
    assert said.count("Accepted publickey") == 2


def test_a_jump_host_behind_itself_is_told(node: LoginNode, config: Path) -> None:
    with pytest.raises(ConfigError, match="the jump host gate is to be reached through itself"):
        enter(node, config, "Host *\n ProxyJump gate\n")
    with pytest.raises(ConfigError, match="is to be reached through itself"):
        enter(node, config, "Host cluster\n ProxyJump a\nHost a\n ProxyJump b\nHost b\nProxyJump a")


PROXY = """
import os, socket, sys, threading
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as far:
    def up():
        while data := os.read(0, 65536):
            far.sendall(data)
    threading.Thread(target=up, daemon=True).start()
    while data := far.recv(65536):
        os.write(1, data)
"""


def test_a_proxy_command_is_run_and_ends(node: LoginNode, config: Path) -> None:
    script = node.folder / "proxy with space.py"
    script.write_text(PROXY)
    line = f'ProxyCommand {sys.executable} "{script}" %h %p'
    assert "Accepted" in enter(node, config, section(node, line))
    until(lambda: not processes_with(script.name), "the program has ended")
    with pytest.raises(TunnelError, match=r"cannot reach cluster: .+ by its ProxyCommand"):
        enter(node, config, section(node, "ProxyCommand exit 1"))


def test_keywords_without_effect_are_told(node: LoginNode, config: Path) -> None:
    config.write_text(section(node, "KexAlgorithms +x", "VerifyHostKeyDNS yes"))
    login = node.login(host="cluster", identity=None, options=(), config=config)
    link = open_link(login, transport="paramiko", interactive=False)
    link.close()
    (note,) = link.notes
    assert "does not follow kexalgorithms, verifyhostkeydns of the SSH configuration" in note
    text = section(node, "GSSAPIAuthentication yes", identity="stranger")
    with pytest.raises(TunnelError, match="permission denied") as caught:
        enter(node, config, text)
    assert "not tried: gssapiauthentication" in str(caught.value.hint)
