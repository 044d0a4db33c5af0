"""What the tunnel decides without a network."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hpc
from hpc.errors import ConfigError, TunnelError
from hpc.processes import by_pid
from hpc.processes.programs import Result
from hpc.tunnel import discovery, openssh, records
from hpc.tunnel import errors as tunnel_errors
from hpc.tunnel.errors import PortTaken, Unreachable
from hpc.tunnel.login import Login, parse_login
from tests.fakes.login_node import free_port

REPLY = {
    "host": "127.0.0.1",
    "port": 8081,
    "key": "sk-1",
    "version": "0.1.0",
    "proof_secret": "a" * 64,
}
LOGIN = Login(host="login", user="me")


@pytest.mark.parametrize(
    ("text", "user", "host"),
    [
        ("me@login.site.org", "me", "login.site.org"),
        ("cluster", None, "cluster"),
        ("me@site.org@jump", "me@site.org", "jump"),
        ("a.b-c@10.0.0.1", "a.b-c", "10.0.0.1"),
        ("me@::1", "me", "::1"),
        ("fe80::1%eth0", None, "fe80::1%eth0"),
    ],
)
def test_a_destination_has_a_user_and_a_host(text: str, user: str | None, host: str) -> None:
    login = parse_login(text)
    assert (login.user, login.host) == (user, host)
    assert str(login) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "me@",
        "@login",
        "-oProxyCommand=x",
        "me@-x",
        "-l@login",
        "a b",
        "ssh://login",
        "l:22",
        "a:22",
    ],
)
def test_a_destination_that_ssh_could_misread_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a login node"):
        parse_login(text)


def test_options_are_read_as_ssh_reads_them() -> None:
    login = parse_login("login", options=("Port=2222", "ProxyJump me@gate", "User = you"))
    assert login.options == (("Port", "2222"), ("ProxyJump", "me@gate"), ("User", "you"))


@pytest.mark.parametrize("text", ["", "Port", "=22", "-p=22", "Port="])
def test_an_option_without_a_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not an SSH option"):
        parse_login("login", options=(text,))


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"there is no identity file {tmp_path}/id"):
        parse_login("login", identity=tmp_path / "id")


def test_an_unknown_transport_lists_those_allowed() -> None:
    with pytest.raises(ConfigError, match="allowed are openssh, paramiko"):
        hpc.connect("login", transport="telnet")  # type: ignore[arg-type]


@pytest.mark.parametrize(("interactive", "strict"), [(True, "ask"), (False, "yes")])
def test_no_option_of_the_user_weakens_host_keys(interactive: bool, strict: str) -> None:
    login = parse_login("login", options=("StrictHostKeyChecking=no", "ConnectTimeout=99"))
    argv = openssh.master(login, Path("s"), Path("log"), interactive=interactive)
    assert _first(argv, "StrictHostKeyChecking") == strict
    assert _first(argv, "ConnectTimeout") == "99"
    assert _first(argv, "BatchMode") == ("no" if interactive else "yes")
    assert argv[-2:] == ["--", "login"]


@pytest.mark.parametrize(
    ("log", "sentence", "may_pass"),
    [
        ("me@login: Permission denied (publickey).", "permission denied by me@login", False),
        ("Received disconnect: Too many authentication failures", "permission denied", False),
        (
            """@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
Host key for login has changed and you have requested strict checking.
Host key verification failed.""",
            "the host key of login has changed",
            False,
        ),
        (
            """No ED25519 host key is known for login and you have requested strict checking.
Host key verification failed.""",
            "the host key of login is not known",
            False,
        ),
        (
            """@       WARNING: REVOKED HOST KEY DETECTED!               @
The ED25519 host key for login is marked as revoked.
Host key verification failed.""",
            "the host key of login is marked as revoked",
            False,
        ),
        (
            "ssh: Could not resolve hostname login: Name or service not known",
            "cannot find a host named login",
            True,
        ),
        (
            "ssh: connect to host login port 22: Connection timed out",
            "cannot reach login: Connection timed out",
            True,
        ),
        (
            "Connection closed by UNKNOWN port 65535",
            "cannot reach login: Connection closed by UNKNOWN port 65535",
            True,
        ),
        ("", "cannot reach login: the connection was closed", True),
    ],
)
def test_what_ssh_says_becomes_one_sentence(log: str, sentence: str, may_pass: bool) -> None:
    failure = tunnel_errors.from_ssh(LOGIN, log)
    assert str(failure).startswith(sentence)
    assert "\n" not in str(failure)
    assert failure.hint
    assert isinstance(failure, Unreachable) is may_pass


def test_a_refused_port_is_tried_before_it_is_called_taken() -> None:
    port = free_port()
    assert (
        str(tunnel_errors.port_refused(port)) == f"port {port} of this machine could not be opened"
    )
    assert issubclass(PortTaken, TunnelError)


@given(noise=st.lists(st.text()), after=st.lists(st.text(alphabet="ab{}[]: \"'\n")))
def test_the_answer_is_found_in_any_noise(noise: list[str], after: list[str]) -> None:
    text = "\n".join([*noise, json.dumps(REPLY), *after])
    found = discovery.parse_reply(text)
    assert found == discovery.RemoteGateway(**REPLY)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "before",
    [
        "Welcome",
        "motd {x} ",
        '{"a": 1}',
        '{"a": ',
        "\x1b[0m",
        "\r",
        '"',
        "{",
        "loading module x... ",
    ],
)
@pytest.mark.parametrize("after", ["", " ", "bye", "}", '{"a": 1}', "\x1b[0m"])
def test_the_answer_is_found_behind_text_without_a_line_break(before: str, after: str) -> None:
    found = discovery.parse_reply(f"noise\n{before}{json.dumps(REPLY)}{after}\nlogout\n")
    assert found == discovery.RemoteGateway(**REPLY)  # type: ignore[arg-type]


def test_many_braces_before_the_answer_cost_little() -> None:
    assert discovery.parse_reply('{"' * 500_000) is None


def test_version_and_error_are_found_behind_text_without_a_line_break() -> None:
    told = Result((), 0, "Welcomehpc-serve, version 0.0.9\n", "")
    assert discovery._version(told) == "0.0.9"
    failed = Result((), 8, "", "tput: no terminalhpc-serve: no free port\n")
    failure = discovery._explain(LOGIN, failed, "hpc-serve")
    assert str(failure) == "the gateway on login did not start: no free port"


@pytest.mark.parametrize(
    "line",
    ["", "{", "{}", '{"port": 1, "host": "h"}', '{"port": "x", "host": "h", "key": "k"}', "[1]"],
)
def test_what_is_no_answer_is_not_taken_for_one(line: str) -> None:
    assert discovery.parse_reply(line) is None


def test_the_remote_line_survives_one_shell_unchanged() -> None:
    words = "source '/my env/bin/activate' && hpc-serve"
    bash, flags, script = shlex.split(discovery.command_line(f"{words} gateway ensure --json"))
    assert (bash, flags) == ("bash", "-lc")
    assert script.endswith(f"{words} gateway ensure --json")


def test_the_holder_of_a_port_is_named_while_it_lives(tmp_path: Path) -> None:
    def record(pid: int) -> records.TunnelRecord:
        process = by_pid.identity(pid) or ""
        return records.TunnelRecord("me@login", 8081, pid, "0.1.0", process=process)

    def holder(pid: int) -> str | None:
        records.save(tmp_path, record(pid), "sk-1")
        return records.holder(tmp_path, 8081)

    parent = os.getppid()
    assert holder(parent) == f"hpc-serve connect me@login (process {parent})"
    assert holder(2**22 + 1) is None
    assert holder(os.getpid()) is None
    records.drop(tmp_path, 8081)
    assert not list((tmp_path / "connections").iterdir())


def test_a_remote_sentence_cannot_drive_the_terminal() -> None:
    result = Result((), 8, "", "noise\nhpc-serve: no port\x1b]0;title\x07\n")
    failure = discovery._explain(LOGIN, result, "hpc-serve")
    assert str(failure) == "the gateway on login did not start: no port"
    assert discovery.parse_reply(json.dumps(REPLY | {"key": "\x1b[2J"})) is None


def _first(argv: list[str], keyword: str) -> str:
    return next(a.split("=", 1)[1] for a in argv if a.startswith(f"{keyword}="))
