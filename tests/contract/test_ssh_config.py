"""The SSH configuration, read by our own reader and by the ssh program itself."""

from __future__ import annotations

import getpass
import os
import subprocess
from pathlib import Path

import pytest

from hpc.errors import ConfigError
from hpc.tunnel import ssh_config
from hpc.tunnel.login import parse_login
from tests.fakes.login_node import program

pytestmark = pytest.mark.skipif(program("ssh") is None, reason="ssh is not installed")

ME = getpass.getuser()
HOSTS = ("login", "me@login", "LOGIN", "login.site.org", "other", "gate")
KEYS = (
    *("hostname", "port", "user", "identityfile", "certificatefile", "hostkeyalias", "proxyjump"),
    *("proxycommand", "identityagent", "identitiesonly", "hashknownhosts", "addressfamily"),
)
CONFIGS = (
    "Host login\n Port 33\n User you\nHost *\n Port 44\n IdentityFile ~/k\n",
    "Host=login\nPort=33\n\tUser = you # who\nHostName=%h.site.org\n",
    'Host "login" other # both\n IdentityFile "/k #1" \n IdentityFile \'/a b\'\n Port "33"\n',
    "Host *.site.org !login.site.org\n Port 1\nHost log?n\n Port 2\nHost LOGIN\n Port 3\n",
    "Host !other *\n Port 5\nHost gate,login\n Port 6\n",
    "Match originalhost login,gate\n Port 1\nMatch originalhost *,!other\n Port 2\n",
    "Host login\n HostName real.site.org\nMatch host real.*\n Port 7\nMatch host login\n Port 8\n",
    f"Match user me\n Port 1\nMatch user {ME}\n Port 2\nMatch localuser {ME} !user you\n User x\n",
    "Match !host login originalhost l*,g*\n Port 9\nMatch all\n Port 10\n",
    'Match HOST=login\n Port 9\nMatch host gate exec="true"\n Port 10\n',
    'Match host login exec "test %n:%h:%p:%r = login:login:22:me"\n Port 3\n',
    'Match host login exec "exit 1"\n Port 3\nMatch !exec "exit 1" host gate\n Port 4\n',
    "Host login\n HostName b\nMatch final host b\n Port 3\nMatch final all\n User f\n",
    "Host b\n Port 3\nHost login\n HostName b\nMatch final\n IdentityFile /f\n",
    "Match canonical\n Port 1\nMatch !canonical host login\n Port 2\n",
    "Include one.conf\nPort 99\nHost login\n Include missing *.inc {folder}/two.conf\n User z\n",
    "Host other\n Include {folder}/one.conf\nHost *\n Port 98\n",
    "Host login\n Include {folder}/two.conf\n IdentityFile /after\nHost *\n IdentityFile /all\n",
    "Include {folder}/nested.conf\nHost *\n User late\n",
    "ProxyJump a@h:33,[::1]:22,ssh://b@i:44\nProxyCommand never\n",
    'Host login\n ProxyCommand nc "%h" %p # all of it\nHost other\n ProxyJump gate\n',
    "Host gate\n ProxyJump none\nHost *\n ProxyJump gate\n",
    "IdentityAgent none\nIdentitiesOnly yes\nCertificateFile ~/c\nCertificateFile /d\n",
    "identityagent ~/.1password/agent.sock\nHOSTKEYALIAS the-cluster\nhashKnownHosts yes\n",
    "  # a comment\n\n\tPort\t33\r\n\tUser\tyou\r\n",
    "IdentityFile /a\nIdentityFile /b\nIdentityFile /a\nHost login\n IdentityFile /c\n",
    "CanonicalizeHostname yes\nCanonicalDomains nowhere.invalid\nHost login\n Port 3\n",
    "CanonicalizeHostname yes\nMatch canonical host login\n Port 4\nMatch final\n User c\n",
    "AddressFamily inet6\nHost login\n AddressFamily inet\n",
    "Host l\\ogin\n Port 5\nHost [l]ogin\n Port 6\nHost lo*in\n Port 7\nHost **\n Port 8\n",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ssh")
    (folder / "one.conf").write_text("Port 21\nHost login\n User one\n")
    (folder / "two.conf").write_text(
        "IdentityFile /two\nHost other\n Port 22\nHost login\n Port 23\nMatch host gate\n Port 24\n"
    )
    (folder / "exec.sub").write_text(f'Match exec "touch {folder}/ran"\n Port 1\n')
    (folder / "nested.conf").write_text(f"Host l*\n Include {folder}/t*.conf\n Port 25\n")
    return folder


def by_ssh(config: Path, host: str, *options: str) -> dict[str, list[str]]:
    argv = ["ssh", "-G", "-F", str(config), *(f"-o{each}" for each in options), "--", host]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[str]] = {}
    for line in told.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value)
    return found


def by_us(config: Path, host: str, *options: str) -> dict[str, list[str]]:
    login = parse_login(host, config=config, options=options)
    found = ssh_config.read(login)
    values = ssh_config.tokens(found, login)
    return found | {"hostname": [values["h"]], "port": [values["p"]], "user": [values["r"]]}


@pytest.mark.parametrize("text", CONFIGS)
def test_the_reader_finds_what_ssh_finds(folder: Path, text: str) -> None:
    config = folder / "config"
    config.write_text(text.replace("{folder}", str(folder)))
    defaults = by_ssh(Path(os.devnull), "nobody@nowhere.invalid")
    for host in HOSTS:
        told, found = by_ssh(config, host), by_us(config, host)
        for key in KEYS:
            expected = told.get(key, [])
            if key not in found:  # ssh tells its defaults
                assert expected == defaults.get(key, []), (host, key)
            elif found[key] not in (["none"], ["no"]) or expected:
                ours = [_as_ssh_prints(key, value) for value in found[key]]
                assert ours == expected, (host, key)


def test_an_unknown_criterion_of_another_host_is_no_obstacle(folder: Path) -> None:
    config = folder / "config"
    config.write_text("Match tagged x host nobody\n Port 3\nMatch host nobody version 9\n Port 4\n")
    assert by_us(config, "login")["port"] == ["22"]


def test_no_command_runs_for_another_host(folder: Path) -> None:
    """A file within the section of another host; ssh runs its commands, and forgets the result."""
    config = folder / "config"
    config.write_text(
        f'Host nobody\n Include {folder}/exec.sub\nMatch host nobody exec "touch {folder}/ran"\n'
        "Host *\n Port 4\n"
    )
    assert by_us(config, "login")["port"] == ["4"]
    assert not (folder / "ran").exists()


def _as_ssh_prints(key: str, value: str) -> str:
    if key == "identityagent":
        return str(Path(value).expanduser()) if "/" in value else value
    return value.replace("ssh://", "") if key == "proxyjump" else value


def test_options_come_before_the_files(folder: Path) -> None:
    config = folder / "config"
    config.write_text("Port 1\nIdentityFile /file\nUser file\n")
    options = ("Port=2", "IdentityFile=/given", "HostName=%h.org")
    told, found = by_ssh(config, "login", *options), by_us(config, "login", *options)
    assert [found[key] for key in KEYS[:4]] == [told[key] for key in KEYS[:4]]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Port\n", "a keyword without a value in the SSH configuration {config}, line 1"),
        ('User "me\n', "a quote is not closed in '\"me', in {config}, line 1"),
        ("Match tagged x\n Port 3\n", "does not know Match tagged, in {config}, line 1"),
        ("\nMatch host\n", "Match host has no value in {config}, line 2"),
        ("Include {config}\n", "too many includes within each other"),
        ("IdentityAgent\n", "a keyword without a value"),
    ],
)
def test_a_line_that_nobody_can_follow_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    config = tmp_path / "config"
    config.write_text(text.replace("{config}", str(config)))
    with pytest.raises(ConfigError) as caught:
        ssh_config.read(parse_login("login", config=config))
    assert sentence.replace("{config}", str(config)) in str(caught.value)


def test_a_configuration_that_others_can_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands would be run."""
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tmp_path / ".ssh/config"
    config.parent.mkdir()
    config.write_text(f'Match exec "touch {tmp_path}/ran"\n Port 3\n')
    config.chmod(0o666)
    with pytest.raises(ConfigError, match="other users can write to the SSH configuration"):
        ssh_config.read(parse_login("login"))
    assert not (tmp_path / "ran").exists()
    config.chmod(0o600)
    assert ssh_config.read(parse_login("login"))["port"] == ["3"]
    assert (tmp_path / "ran").exists()
