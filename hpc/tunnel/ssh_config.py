"""The SSH configuration of a host, read in the way of the ssh program, without an ssh program.

paramiko's own reader passes over ``Include`` and most tokens in silence. ``ssh -G`` prints lists of
files without their quotes, leaves the tokens of keys and agents, and asks for the home of the
account instead of ``HOME``; the tests compare with it.

Source: ssh_config(5) of OpenSSH 9.
"""

from __future__ import annotations

import getpass
import glob
import hashlib
import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from hpc.errors import ConfigError
from hpc.processes import programs
from hpc.tunnel import known_hosts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hpc.tunnel.login import Login

Options = dict[str, list[str]]
"""The arguments of each keyword, in lower case."""
USER_CONFIG, USER_FOLDER = "~/.ssh/config", "~/.ssh"
SYSTEM_FOLDER = "/etc/ssh"
DEPTH_MAX = 16
REPEATED = ("identityfile", "certificatefile")
"""Keywords whose values add up; of all others the first value counts."""
_EITHER = ("proxyjump", "proxycommand")
"""Keywords of which the first excludes the other."""
COMMANDS = ("proxycommand", "knownhostscommand", "remotecommand", "localcommand")
"""Keywords with the rest of the line as one argument, quotes included."""
_LINE = re.compile(r"\s*(?P<key>[A-Za-z0-9]+)(?:\s*=\s*|\s+)(?P<rest>.*?)\s*", re.DOTALL)
_PIECE = r"""(?:"(?:\\["'\\]|[^"])*"|'(?:\\["'\\]|[^'])*'|\\["'\\ ]|[^\s"'])"""
_WORDS = re.compile(rf"\s*(?:#.*|({_PIECE}+))", re.DOTALL)
_UNQUOTED = re.compile(r""""((?:\\["'\\]|[^"])*)"|'((?:\\["'\\]|[^'])*)'|\\(["'\\ ])""", re.DOTALL)
_TOKEN = re.compile(r"%(.?)|\$\{([^}]*)\}", re.DOTALL)
_ALONE = ("all", "canonical", "final")


def read(login: Login) -> Options:
    """Return the options for a host: given options first, then the user's, then the machine's.

    Raises:
        ConfigError: a file cannot be read, or has a line that nobody can follow.
    """
    reader = _Reader(login)
    reader.read_all()
    name = _canonical(reader.options, login.host)
    if name is not None or reader.wants_final:
        reader.again(name)
        reader.read_all()
    return reader.options


def expand(text: str, values: Mapping[str, str]) -> str:
    """Return a text with tokens (``%h``) and variables (``${NAME}``) replaced.

    Raises:
        ConfigError: a token is none of the known, or a variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        token, name = match[1], match[2]
        known: Mapping[str, str] = os.environ if token is None else {"%": "%", **values}
        key = name if token is None else token
        if key not in known:
            allowed = ", ".join(f"%{letter}" for letter in sorted(values))
            hint = "set the variable" if token is None else f"allowed are %%, {allowed}"
            raise ConfigError(f"cannot expand {match[0]} in {text!r} of the SSH options", hint=hint)
        return known[key]

    return _TOKEN.sub(value, text)


def tokens(options: Options, login: Login) -> dict[str, str]:
    """Return the values of the tokens of ssh_config(5) for a host."""
    host = host_name(options, login.host)
    local, user = socket.gethostname(), getpass.getuser()
    remote = login.user or _first(options, "user") or user
    port, jump = _first(options, "port") or "22", _first(options, "proxyjump") or ""
    jump = "" if jump.lower() == "none" else jump
    named = {"h": host, "n": login.host, "p": port, "r": remote, "u": user, "j": jump}
    mixed = hashlib.sha1(f"{local}{host}{port}{remote}{jump}".encode(), usedforsecurity=False)
    return named | {
        "C": mixed.hexdigest(),
        "d": _home("~"),
        "i": str(os.getuid()) if hasattr(os, "getuid") else user,
        "k": _first(options, "hostkeyalias") or login.host,
        "L": local.partition(".")[0],
        "l": local,
    }


def host_name(options: Options, host: str) -> str:
    """Return the name or address of a host for the network."""
    return expand(_first(options, "hostname") or "%h", {"h": host}).lower()


def words(text: str) -> list[str]:
    """Return the arguments of a line, without quotes and comment.

    Raises:
        ConfigError: a quote is not closed.
    """
    found, at = [], 0
    while at < len(text.rstrip()):
        match = _WORDS.match(text, at)
        if match is None:
            raise ConfigError(f"a quote is not closed in {text!r}")
        if match[1] is None:
            break
        at = match.end()
        found.append(_UNQUOTED.sub(_unquoted, match[1]))
    return found


def _unquoted(match: re.Match[str]) -> str:
    if match[3] is not None:
        return match[3]
    inner = match[1] if match[1] is not None else match[2]
    return re.sub(r"""\\(["'\\])""", r"\1", inner)


def _first(options: Options, key: str) -> str | None:
    values = options.get(key)
    return values[0] if values else None


class _Reader:
    """The options of a host so far.

    Args:
        login: account and host.
    """

    def __init__(self, login: Login) -> None:
        self.options: Options = {}
        self.wants_final = False
        self._login = login
        self._host = login.host
        self._final = False
        self._canonical = False

    def read_all(self) -> None:
        """Read the given options, then the files."""
        for key, value in self._login.options:
            self._take(key.lower(), value, "--ssh-option")
        if self._login.config is not None:
            self._file(self._login.config, USER_FOLDER)
            return
        self._file(Path(_home(USER_CONFIG)), USER_FOLDER, private=True)
        self._file(Path(SYSTEM_FOLDER) / "ssh_config", SYSTEM_FOLDER)

    def again(self, canonical: str | None) -> None:
        """Prepare the second reading, with patterns for the name from the first reading."""
        self._host = canonical or host_name(self.options, self._host)
        self._final, self._canonical = True, canonical is not None
        self.options["hostname"] = [self._host.replace("%", "%%")]

    def _file(
        self, path: Path, folder: str, *, private: bool = False, outer: bool = True, depth: int = 0
    ) -> None:
        if depth > DEPTH_MAX:
            raise ConfigError(f"too many includes within each other, up to {path}")
        active = outer
        for where, key, rest in _lines(path, private=private):
            if key == "include":
                for each in self._included(rest, folder, where):
                    self._file(each, folder, private=private, outer=active, depth=depth + 1)
            elif key == "host":
                active = outer and _host_matches(_words(rest, where), self._host)
            elif key == "match":
                active = outer and self._matches(_words(rest, where), where)
            elif active:
                self._take(key, rest, where)

    def _take(self, key: str, rest: str, where: str) -> None:
        values = [rest] if key in COMMANDS else _words(rest, where)
        if not values:
            raise ConfigError(f"{key} has no value in {where}")
        if key in _EITHER and any(each in self.options for each in _EITHER):
            return
        before = self.options.setdefault(key, [])
        if key in REPEATED:
            before += [value for value in values if value not in before]
        elif not before:
            before += values

    def _included(self, rest: str, folder: str, where: str) -> Iterator[Path]:
        for pattern in _words(rest, where):
            path = _home(expand(pattern, tokens(self.options, self._login)))
            # As a text: glob's order is that of the names, as ssh's.
            found = sorted(glob.glob(os.path.join(_home(folder), path)))  # noqa: PTH118, PTH207
            yield from map(Path, found)

    def _matches(self, criteria: list[str], where: str) -> bool:
        """Return whether all criteria of a section hold, up to the first false criterion.

        The last matters to commands, whose effects are the user's.
        """
        parts = [part for word in criteria for part in _criterion(word)]
        holds, unknown = True, []
        while parts:
            name = parts.pop(0).lower()
            negated, kind = name.startswith("!"), name.removeprefix("!")
            if kind not in _ALONE and not parts:
                raise ConfigError(f"Match {kind} has no value in {where}")
            value = "" if kind in _ALONE else parts.pop(0)
            if kind in (*_ALONE, *_COMPARED, "exec"):
                holds = holds and self._holds(kind, value) is not negated
            else:
                unknown.append(kind)
        if holds and unknown:
            raise ConfigError(
                f"the paramiko transport does not know Match {unknown[0]}, in {where}",
                hint="use --transport openssh",
            )
        return holds

    def _holds(self, kind: str, value: str) -> bool:
        if kind in _ALONE:
            self.wants_final = self.wants_final or kind == "final"
            return {"all": True, "canonical": self._canonical, "final": self._final}[kind]
        if kind == "exec":
            return _succeeds(expand(value, tokens(self.options, self._login)))
        user = self._login.user or _first(self.options, "user") or getpass.getuser()
        name = {
            "host": host_name(self.options, self._host),
            "originalhost": self._login.host,
            "user": user,
            "localuser": getpass.getuser(),
        }[kind]
        return known_hosts.matches_any(value, name)


_COMPARED = ("host", "originalhost", "user", "localuser")


def _criterion(word: str) -> list[str]:
    """Return a criterion of Match in two parts, if written together: ``host=NAME``."""
    name, equals, value = word.partition("=")
    known = name.lower().removeprefix("!") in (*_COMPARED, "exec")
    return [name, value] if equals and known else [word]


def _host_matches(patterns: Sequence[str], host: str) -> bool:
    """Return whether a section is about a host: some pattern matches, and no negated pattern."""
    if any(p.startswith("!") and known_hosts.glob(p[1:], host, exact=True) for p in patterns):
        return False
    return any(known_hosts.glob(p, host, exact=True) for p in patterns)


def _succeeds(command: str) -> bool:
    """Return whether a command of the configuration, run by the user's shell, succeeds."""
    return programs.run(shell(command), timeout_s=None, check=False).returncode == 0


def shell(command: str, *, alone: bool = False) -> list[str]:
    """Return program and arguments for a command of the configuration, as ssh runs commands.

    Args:
        command: the command line.
        alone: whether the command takes the place of the shell, so that the end reaches it.
    """
    if os.name == "nt":
        return ["cmd", "/c", command]
    return [os.environ.get("SHELL") or "/bin/sh", "-c", f"exec {command}" if alone else command]


def _canonical(options: Options, host: str) -> str | None:
    """Return the whole name of a host by CanonicalizeHostname, or None without the option."""
    wanted = (_first(options, "canonicalizehostname") or "no").lower()
    behind = any(
        (_first(options, key) or "none") != "none" for key in ("proxyjump", "proxycommand")
    )
    if wanted not in ("yes", "true", "always") or (behind and wanted != "always"):
        return None
    name = host_name(options, host)
    dots_max = int(_first(options, "canonicalizemaxdots") or 1)
    if name.endswith(".") or name.count(".") > dots_max or _is_address(name):
        return name
    for domain in options.get("canonicaldomains", []):
        if _resolves(f"{name}.{domain}"):
            return f"{name}.{domain}"
    if (_first(options, "canonicalizefallbacklocal") or "yes").lower() in ("no", "false"):
        raise ConfigError(f"no domain of CanonicalDomains has a host {name}")
    return name


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _resolves(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None))
    except (OSError, UnicodeError):
        return False


def _words(rest: str, where: str) -> list[str]:
    try:
        return words(rest)
    except ConfigError as error:
        raise ConfigError(f"{error}, in {where}") from error


def _lines(path: Path, *, private: bool) -> Iterator[tuple[str, str, str]]:
    """Yield place, keyword and rest of each line; a missing file has none."""
    try:
        if private:
            _check_owner(path)
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise ConfigError(f"cannot read the SSH configuration {path}: {error.strerror}") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        where = f"{path}, line {number}"
        if match is None:
            raise ConfigError(f"a keyword without a value in the SSH configuration {where}")
        yield where, match["key"].lower(), match["rest"]


def _check_owner(path: Path) -> None:
    """Refuse a configuration under the control of other users, as ssh does: commands are run."""
    if not hasattr(os, "getuid"):
        return
    seen = path.stat()
    if seen.st_uid not in (0, os.getuid()) or seen.st_mode & 0o022:
        raise ConfigError(
            f"other users can write to the SSH configuration {path}", hint=f"chmod go-w {path}"
        )


def _home(path: str) -> str:
    return os.path.expanduser(path)  # noqa: PTH111 - patterns and texts, not only paths
