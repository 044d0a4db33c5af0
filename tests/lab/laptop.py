"""`hpc-serve connect` on the lab's laptop, watched by its events or on a terminal of its own."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_S = 60.0
ASK = """
import http.client, json, sys, time
host, port = "127.0.0.1", int(sys.argv[1])
key = open(sys.argv[2]).read().strip()
print("ready", flush=True)
for line in sys.stdin:
    link = http.client.HTTPConnection(host, port, timeout=float(line))
    try:
        link.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
        print(link.getresponse().status, flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
    finally:
        link.close()
"""


class Tunnel:
    """A tunnel that prints its events as JSON.

    ``took_s`` are the seconds that its start took, with its logins: the measure of this machine.

    Args:
        lab: the lab.
        options: arguments of `hpc-serve connect`.
    """

    def __init__(self, lab: Any, *options: str, env: dict[str, str] | None = None) -> None:
        self._lab = lab
        argv = ["hpc-serve", "connect", *options, "--json", "--port=0"]
        began = time.monotonic()
        self.process = lab.popen("laptop", argv, env=env)
        self.events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.up = self.wait_for("up")
        except BaseException:
            self.process.kill_all()
            raise
        self.took_s = time.monotonic() - began
        self.port = self.up["base_url"].split(":")[2].split("/")[0]

    def wait_for(self, *kinds: str, since: int = 0, timeout: float = WAIT_S) -> dict[str, Any]:
        """Return the first event of a kind among those after the first so many."""
        deadline = time.monotonic() + timeout
        while True:
            for event in self.events[since:]:
                if event["event"] in kinds:
                    return event
            ended = not self._reader.is_alive()
            said = self.process.stderr.read() if ended else ""
            assert not ended, f"connect ended: {said} {self.events}"
            assert time.monotonic() < deadline, f"no {kinds} after {self.events}"
            time.sleep(0.05)

    @contextmanager
    def asker(self) -> Iterator[Any]:
        """Yield a function that asks for the models once, on a connection of its own."""
        script = ["/opt/hpc-serve/bin/python", "-c", ASK, self.port, self.up["key_file"]]
        process = self._lab.popen("laptop", script, stdin=-1)

        def ask(timeout: float = 90) -> str:
            process.stdin.write(f"{timeout}\n")
            process.stdin.flush()
            return str(process.stdout.readline().strip())

        try:
            assert process.stdout.readline() == "ready\n"
            yield ask
        finally:
            process.kill_all()

    def resumed(self, ask: Any) -> float:
        """Return the seconds until a request is answered.

        Args:
            ask: of ``asker``.
        """
        began = time.monotonic()
        while ask(2.0 + self.took_s) != "200":
            assert time.monotonic() - began < 2 * WAIT_S
        return time.monotonic() - began

    @property
    def resumes_s(self) -> float:
        """Seconds within which it is there again after a cut, on this machine as loaded now.

        An attempt of 4 s and a pause of 3 s, then the logins of a start, twice if one fails. TCP
        alone would be silent for as long again as the cut.
        """
        return 7.0 + 4 * self.took_s

    def models(self) -> str:
        """Return the status of one request."""
        with self.asker() as ask:
            return str(ask())

    def close(self) -> None:
        """End it as Ctrl-C does."""
        self.process.send_signal(2)
        self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        self.process.kill_all()

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.startswith("{"):
                self.events.append(json.loads(line))


@contextmanager
def tunnel(lab: Any, *options: str, env: dict[str, str] | None = None) -> Iterator[Tunnel]:
    """Run a tunnel that is up."""
    opened = Tunnel(lab, *options, env=env)
    try:
        yield opened
    finally:
        opened.close()


class Terminal:
    """A command on the laptop with a terminal of its own, and somebody who types.

    Args:
        lab: the lab.
        argv: the command.
    """

    def __init__(self, lab: Any, *argv: str) -> None:
        self._ours, theirs = pty.openpty()
        command = ["setsid", "--ctty", "--wait", *argv]
        ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        self.process = lab.popen("laptop", command, **ends)
        os.close(theirs)
        self.said = ""

    def until(self, text: str, timeout: float = WAIT_S) -> str:
        """Return what was printed up to a text, and forget it."""
        deadline = time.monotonic() + timeout
        while text not in self.said:
            ready, _, _ = select.select([self._ours], [], [], 0.2)
            if ready:
                try:
                    self.said += os.read(self._ours, 4096).decode(errors="replace")
                except OSError:  # the other end is closed
                    assert text in self.said, f"ended without {text!r}: {self.said}"
            assert time.monotonic() < deadline, f"no {text!r} in {self.said!r}"
        before, _, self.said = self.said.partition(text)
        return before

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self._ours, text.encode())

    def close(self) -> None:
        """Press Ctrl-C, and see it end."""
        try:
            self.type("\x03")
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(WAIT_S)
        finally:
            self.process.kill_all()
            os.close(self._ours)


@contextmanager
def terminal(lab: Any, *argv: str) -> Iterator[Terminal]:
    """Run a command on a terminal."""
    opened = Terminal(lab, *argv)
    try:
        yield opened
    finally:
        opened.close()
