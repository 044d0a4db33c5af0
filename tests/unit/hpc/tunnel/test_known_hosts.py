"""Known host keys, read as OpenSSH reads them."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING

import pytest

from hpc.errors import ConfigError
from hpc.tunnel import known_hosts
from hpc.tunnel.known_hosts import judge, lines_about, matches, revoked_keys

if TYPE_CHECKING:
    from pathlib import Path

KIND = "ssh-ed25519"
GOOD, OTHER = b"good key", b"other key"


def text(blob: bytes) -> str:
    return base64.b64encode(blob).decode()


def hashed(name: str) -> str:
    digest = hmac.new(b"salt", name.encode(), hashlib.sha1).digest()
    return f"|1|{text(b'salt')}|{text(digest)}"


@pytest.mark.parametrize(
    ("patterns", "name", "expected"),
    [
        ("login", "login", True),
        ("LOGIN", "login", True),
        ("login", "login.site.org", False),
        ("a,login,b", "login", True),
        ("*.site.org", "login.site.org", True),
        ("*.site.org,!login.site.org", "login.site.org", False),
        ("!login.site.org,*.site.org", "login.site.org", False),
        ("!other,login", "login", True),
        ("!other", "login", False),
        ("login?", "login1", True),
        ("login?", "login", False),
        ("[login]:2222", "[login]:2222", True),
        ("login", "[login]:2222", False),
        ("[log*]:2222", "[login]:2222", True),
        ("*", "[login]:2222", True),
        ("log[io]n", "login", False),
        (hashed("login"), "login", True),
        (hashed("[login]:2222"), "[login]:2222", True),
        (hashed("other"), "login", False),
        ("|1|broken", "login", False),
        ("|2|" + hashed("login")[3:], "login", False),
    ],
)
def test_a_pattern_is_about_the_hosts_that_ssh_means(
    patterns: str, name: str, expected: bool
) -> None:
    assert matches(patterns, name) is expected


@pytest.mark.parametrize(
    ("lines", "verdict"),
    [
        ([f"login {KIND} {text(GOOD)} a comment"], "known"),
        ([f"login\t{KIND}\t{text(GOOD)}"], "known"),
        ([f"login {KIND} {text(OTHER)}"], "changed"),
        ([f"login {KIND} {text(OTHER)}", f"login {KIND} {text(GOOD)}"], "known"),
        ([f"login ssh-rsa {text(OTHER)}"], "changed"),
        ([f"other {KIND} {text(GOOD)}"], "unknown"),
        ([f"# login {KIND} {text(GOOD)}"], "unknown"),
        (["", "login", "login 1024 35 123456"], "unknown"),
        ([f"@revoked login {KIND} {text(GOOD)}"], "revoked"),
        ([f"@revoked * {KIND} {text(GOOD)}"], "revoked"),
        ([f"@revoked\t*\t{KIND} {text(GOOD)}", f"login {KIND} {text(GOOD)}"], "revoked"),
        ([f"login {KIND} {text(GOOD)}", f"@revoked * {KIND} {text(GOOD)}"], "revoked"),
        ([f"@revoked {hashed('login')} {KIND} {text(GOOD)}"], "revoked"),
        ([f"@revoked login {KIND} {text(OTHER)}"], "unknown"),
        ([f"@revoked other {KIND} {text(GOOD)}", f"login {KIND} {text(GOOD)}"], "known"),
        ([f"@revoked *,!login {KIND} {text(GOOD)}", f"login {KIND} {text(GOOD)}"], "known"),
        ([f"@cert-authority * {KIND} {text(OTHER)}"], "authority"),
        ([f"@cert-authority * {KIND} {text(GOOD)}"], "authority"),
        ([f"@cert-authority * {KIND} {text(OTHER)}", f"login {KIND} {text(GOOD)}"], "known"),
        ([f"@other login {KIND} {text(GOOD)}"], "unknown"),
    ],
)
def test_the_verdict_on_a_key(tmp_path: Path, lines: list[str], verdict: str) -> None:
    """Whether the lines are in one file or in several."""
    one = tmp_path / "one"
    one.write_text("\n".join(lines) + "\n")
    several = []
    for number, line in enumerate(lines):
        several.append(tmp_path / f"{number}")
        several[-1].write_text(line + "\r\n")
    for paths in ([one], [tmp_path / "missing", *several]):
        assert judge(lines_about(paths, "login", 22), KIND, GOOD) == verdict


def test_a_revoked_key_is_revoked_at_every_port(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"@revoked login {KIND} {text(GOOD)}\n[login]:2222 {KIND} {text(GOOD)}\n")
    assert judge(lines_about([path], "login", 2222), KIND, GOOD) == "revoked"
    path.write_text(f"login {KIND} {text(GOOD)}\n")


def test_a_line_without_the_port_vouches_for_its_key_and_blames_no_other(tmp_path: Path) -> None:
    """As ssh does: servers at two ports of a host often share the key, and need not."""
    path = tmp_path / "known_hosts"
    path.write_text(f"login {KIND} {text(GOOD)}\n")
    assert judge(lines_about([path], "login", 2222), KIND, GOOD) == "known"
    assert judge(lines_about([path], "login", 2222), KIND, OTHER) == "unknown"
    path.write_text(f"login {KIND} {text(GOOD)}\n[login]:2222 {KIND} {text(OTHER)}\n")
    assert judge(lines_about([path], "login", 2222), KIND, OTHER) == "known"
    assert judge(lines_about([path], "login", 2222), KIND, b"third key") == "changed"


@pytest.mark.parametrize("marker", ["", "@cert-authority "])
def test_a_damaged_line_says_nothing(tmp_path: Path, marker: str) -> None:
    path = tmp_path / "known_hosts"
    path.write_bytes(
        f"{marker}login {KIND} AAAAx\n{marker}* {KIND} é\nlogin {KIND} {text(GOOD)}\n".encode()
        + b"\xff\xfe login\n"
    )
    assert judge(lines_about([path], "login", 22), KIND, GOOD) == "known"


def test_a_damaged_revoked_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"@revoked login {KIND} AAAAx")
    with pytest.raises(ConfigError, match=f"cannot read the known hosts in {path}: 'AAAAx'"):
        lines_about([path], "login", 22)


def test_a_list_of_revoked_keys_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "revoked"
    path.write_text(f"# old keys\n\n{KIND} {text(GOOD)} comment\n")
    assert judge(revoked_keys(path), KIND, GOOD) == "revoked"
    path.write_bytes(known_hosts._BINARY + bytes(32))
    for given in (path, tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigError, match=f"cannot read the revoked host keys in {given}"):
            revoked_keys(given)
