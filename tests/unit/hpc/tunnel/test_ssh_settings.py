"""The settings of a login by the paramiko transport, from the SSH configuration."""

from __future__ import annotations

import getpass
import socket
from pathlib import Path

import pytest

from hpc.errors import ConfigError
from hpc.tunnel import ssh_config
from hpc.tunnel.login import parse_login
from hpc.tunnel.ssh_settings import SshSettings, settings

HOME = Path("~").expanduser()
ME = getpass.getuser()


def read(tmp_path: Path, text: str, host: str = "login", *options: str) -> SshSettings:
    config = tmp_path / "config"
    config.write_text(text)
    return settings(parse_login(host, config=config, options=options))


def test_the_settings_are_those_of_the_configuration(tmp_path: Path) -> None:
    text = (
        "Host login\n HostName login.site.org\n Port 2222\n User other\n IdentityFile /key\n"
        "Host *\n UserKnownHostsFile /a /b\n GlobalKnownHostsFile /c\n"
    )
    found = read(tmp_path, text)
    assert (found.host, found.port, found.user) == ("login.site.org", 2222, "other")
    assert found.known_as == ("login.site.org", 2222)
    assert found.identities == (Path("/key"),)
    assert (found.user_hosts, found.global_hosts) == ((Path("/a"), Path("/b")), (Path("/c"),))
    given = read(tmp_path, text, "me@login", "Port=22")
    assert (given.user, given.port) == ("me", 22)


def test_the_defaults_are_those_of_ssh(tmp_path: Path) -> None:
    found = read(tmp_path, "")
    assert (found.host, found.port, found.user) == ("login", 22, ME)
    assert found.user_hosts == (HOME / ".ssh/known_hosts", HOME / ".ssh/known_hosts2")
    assert HOME / ".ssh/id_ed25519" in found.identities
    assert (found.agent, found.jump, found.proxy, found.source) == (None, None, None, None)
    assert found.methods == {"publickey", "password", "keyboard-interactive"}
    assert (found.identities_only, found.hashed) == (False, False)
    assert (found.ignored, found.untried) == ((), ())


@pytest.mark.parametrize("key", ["UserKnownHostsFile", "GlobalKnownHostsFile", "RevokedHostKeys"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/k/%h", "/k/real.org"),
        ("/k/%n-%p-%r", "/k/login-2222-you"),
        ("%d/k", f"{HOME}/k"),
        ("~/k_%u", f"{HOME}/k_{ME}"),
        ("${KEYS}/k%%", "/keys/k%"),
        ('"/with space/k"', "/with space/k"),
        ("/k/%k", "/k/alias"),
        ("/%L", "/" + socket.gethostname().split(".", maxsplit=1)[0]),
    ],
)
def test_files_of_host_keys_have_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str, expected: str
) -> None:
    monkeypatch.setenv("KEYS", "/keys")
    text = f"HostName real.org\nPort 2222\nUser you\nHostKeyAlias alias\n{key} {value}\n"
    found = read(tmp_path, text)
    files = {
        "UserKnownHostsFile": found.user_hosts,
        "GlobalKnownHostsFile": found.global_hosts,
        "RevokedHostKeys": found.revoked,
    }[key]
    assert files == (Path(expected),)


@pytest.mark.parametrize("value", ["/k/%z", "/k/%", "${NOT_SET_ANYWHERE}/k"])
def test_a_token_that_nobody_knows_is_named(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match="cannot expand"):
        read(tmp_path, f"UserKnownHostsFile {value}\n")


def test_none_means_no_file(tmp_path: Path) -> None:
    found = read(tmp_path, "UserKnownHostsFile none\nIdentityFile none\nRevokedHostKeys none\n")
    assert (found.user_hosts, found.identities, found.revoked) == ((), (), ())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("none", ""),
        ("SSH_AUTH_SOCK", None),
        ("$MY_AGENT", "/agents/mine"),
        ("${MY_AGENT}.%r", f"/agents/mine.{ME}"),
        ("~/a/agent.sock", f"{HOME}/a/agent.sock"),
        ('"~/Group Containers/agent.sock"', f"{HOME}/Group Containers/agent.sock"),
    ],
)
def test_the_agent_is_the_named_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, expected: str | None
) -> None:
    monkeypatch.setenv("MY_AGENT", "/agents/mine")
    assert read(tmp_path, f"IdentityAgent {value}\n").agent == expected


def test_the_name_of_the_host_key_is_the_alias(tmp_path: Path) -> None:
    text = "HostName 10.0.0.1\nPort 2222\nHostKeyAlias cluster\nHashKnownHosts yes\n"
    found = read(tmp_path, text)
    assert found.known_as == ("cluster", 22)
    assert found.hashed


def test_hosts_on_the_way_have_their_own_settings(tmp_path: Path) -> None:
    text = (
        "Host login\n ProxyJump me@gate:2022,inner\n Port 2222\n HostKeyAlias x\n"
        "Host inner\n HostName 10.0.0.7\n"
    )
    found = read(tmp_path, text, "ada@login", "Port=23", "HostKeyAlias=y")
    assert found.jump is not None
    inner = settings(found.jump)
    assert (inner.host, inner.port, inner.known_as) == ("10.0.0.7", 22, ("10.0.0.7", 22))
    assert inner.jump is not None
    gate = settings(inner.jump)
    assert (gate.user, gate.host, gate.port, gate.jump) == ("me", "gate", 2022, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[::1]:22", (ME, "::1", 22)),
        ("me@[fe80::1%%eth0]:2022", ("me", "fe80::1%eth0", 2022)),
        ("[2001:db8::7]", (ME, "2001:db8::7", 22)),
        ("ssh://you@gate:33/", ("you", "gate", 33)),
        ("me@site.org@gate", ("me@site.org", "gate", 22)),
        ("[gate]:2022", (ME, "gate", 2022)),
        ("10.0.0.1:5", (ME, "10.0.0.1", 5)),
        ("gate:ssh", (ME, "gate", 22)),
        ("gate:", (ME, "gate", 22)),
        ("%r@gate-%h:%p", ("you", "gate-login", 44)),
    ],
)
def test_a_jump_host_is_written_as_for_ssh(
    tmp_path: Path, text: str, expected: tuple[str, str, int]
) -> None:
    config = f"Host login\n User you\n Port 44\n ProxyJump {text}\n"
    jump = read(tmp_path, config).jump
    assert jump is not None
    found = settings(jump)
    assert (found.user, found.host, found.port) == expected


@pytest.mark.parametrize(
    "text", ["::1", "a:b:c", "@gate", "gate:99999", "-oX", "a,,b,", "g:no-such"]
)
def test_a_jump_host_that_ssh_refuses_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"not a (jump host|port)"):
        read(tmp_path, f"ProxyJump {text}\n")


def test_a_proxy_command_has_its_tokens(tmp_path: Path) -> None:
    found = read(tmp_path, 'HostName h.org\nProxyCommand nc -x "a b" %h %p %r%%\n', "me@login")
    assert found.proxy == 'nc -x "a b" h.org 22 me%'
    assert read(tmp_path, "ProxyCommand none\nProxyJump gate\n").jump is None


def test_keywords_without_effect_are_listed(tmp_path: Path) -> None:
    text = (
        "Ciphers aes256-ctr\nKexAlgorithms +x\nProxyUseFdpass no\nGSSAPIAuthentication yes\n"
        "ForwardAgent yes\nPKCS11Provider /x.so\nVerifyHostKeyDNS yes\n"
    )
    found = read(tmp_path, text)
    assert set(found.ignored) == {"ciphers", "kexalgorithms", "verifyhostkeydns"}
    assert set(found.untried) == {"gssapiauthentication", "pkcs11provider"}


def test_methods_that_are_off_are_not_tried(tmp_path: Path) -> None:
    text = "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
    assert read(tmp_path, text).methods == {"publickey"}
    assert read(tmp_path, "PubkeyAuthentication no\n").methods == {
        "password",
        "keyboard-interactive",
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("Port x", "not a port: 'x'"), ("AddressFamily inet5", "allowed are any, inet, inet6")],
)
def test_a_value_that_is_not_allowed_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b", ["a", "b"]),
        ('"a b" c', ["a b", "c"]),
        ("'a b'c", ["a bc"]),
        (r"C:\Users\me\id C:\x", [r"C:\Users\me\id", r"C:\x"]),
        (r"a\ b", ["a b"]),
        (r'"a\"b"', ['a"b']),
        ("a # b", ["a"]),
        ("a#b", ["a#b"]),
        ('"#a"', ["#a"]),
        ('""', [""]),
        ("", []),
    ],
)
def test_the_words_of_a_line(text: str, expected: list[str]) -> None:
    assert ssh_config.words(text) == expected
