"""One step of an installation, made visible: a moving line, its time, and its output in a log.

Needs the standard library only, as it runs before anything is installed.
Usage: steps.py --log FILE [--usually SECONDS] [--of N] [--otherwise TEXT] LABEL -- COMMAND...
"""

from __future__ import annotations

import argparse
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

TICK_S = 0.2
QUIET_S = 15.0
"""Seconds between two lines where no terminal can redraw one."""
BAR = 20
LAST_LINES = 10
COLLECTING = 0.7
"""Share of pip's time until all is collected; of the rest it says nothing."""

_COUNTED = re.compile(r"^\s*\[(\d+)/(\d+)\]", re.MULTILINE)
_COLLECTED = re.compile(r"^(?:Collecting |Requirement already satisfied|Ignoring )", re.MULTILINE)
_NOISE = re.compile(r"^\s*$|^WARNING: Location .* is ignored|^\[notice\]")
_TELLING = re.compile(r"(?:^|\W)(?:error:|CMake Error|No space left)", re.IGNORECASE)


@dataclass(slots=True)
class Display:
    """Lines on standard error about a step.

    Attributes:
        label: what is done.
        usually: seconds that it takes as a rule, or None.
        redraws: standard error is a terminal.
    """

    label: str
    usually: int | None
    redraws: bool
    began: float = field(default_factory=time.monotonic)
    said: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        """Announce the step."""
        rule = f" (usually {self.usually} s)" if self.usually else ""
        if self.redraws:
            self.move(None)
        else:
            print(f"  {self.label}{rule} ...", file=sys.stderr, flush=True)

    def move(self, done: float | None) -> None:
        """Show the seconds that have passed, and the part that is done, from 0 to 1."""
        now = time.monotonic()
        if not self.redraws and now - self.said < QUIET_S:
            return
        self.said = now
        rule = f" of usually {self.usually} s" if self.usually else ""
        line = f"  {self.label}: {now - self.began:.0f} s{rule}"
        if done is not None:
            full = round(done * BAR)
            line += f" [{'#' * full}{'.' * (BAR - full)}] {done:.0%}"
        head, end = ("\r\033[K", "") if self.redraws else ("", "\n")
        print(head + line, end=end, file=sys.stderr, flush=True)

    def end(self, outcome: str = "") -> None:
        """Leave one line with the time that it took."""
        head = "\r\033[K" if self.redraws else ""
        took = time.monotonic() - self.began
        print(
            f"{head}  {self.label}: {took:.1f} s{outcome and ', '}{outcome}",
            file=sys.stderr,
            flush=True,
        )


@dataclass(slots=True)
class Progress:
    """The part of a step that is done, read from its log as that grows.

    Attributes:
        log: the file.
        at: bytes that were read.
        of: packages that pip has to collect, or None.
    """

    log: Path
    at: int
    of: int | None = None
    collected: int = 0
    done: float | None = None

    def read(self) -> float | None:
        """Read on, and return a number from 0 to 1, or None where nothing has been counted yet."""
        with self.log.open("rb") as file:
            file.seek(self.at)
            new = file.read()
        # A line that is still being written is left to the next time.
        whole = new[: new.rfind(b"\n") + 1]
        self.at += len(whole)
        text = whole.decode(errors="replace")
        if counted := _COUNTED.findall(text):
            now, of = map(int, counted[-1])
            self.done = now / max(1, of)
        elif self.of and (collected := len(_COLLECTED.findall(text))):
            self.collected += collected
            self.done = COLLECTING * min(1.0, self.collected / self.of)
        return self.done


def last_lines(log: Path, start: int) -> list[str]:
    """Lines that tell why a step failed: from the first error on, else the last."""
    text = log.read_bytes()[start:].decode(errors="replace")
    lines = [line.rstrip() for line in text.splitlines() if not _NOISE.search(line)]
    first = next((at for at, line in enumerate(lines) if _TELLING.search(line)), -LAST_LINES)
    return lines[first:][:LAST_LINES]


def run(command: list[str], log: Path, display: Display, of: int | None) -> tuple[int, int]:
    """Run a command with its output in the log.

    Returns:
        its exit status, 128 and the signal's number where one killed it, and where in the log its
        output begins.
    """
    with log.open("ab") as output:
        output.write(f"$ {shlex.join(command)}\n".encode())
        output.flush()
        start = output.tell()
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )

    def hand_on(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    # A terminal's Ctrl-C reaches the child by itself; what `kill` sends is handed on.
    signal.signal(signal.SIGTERM, hand_on)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    progress = Progress(log, start, of)
    display.begin()
    while True:
        try:
            status = child.wait(TICK_S)
        except subprocess.TimeoutExpired:
            display.move(progress.read())
            continue
        return (status if status >= 0 else 128 - status), start


def main() -> int:
    """Run the command, show how it goes, and return its exit status."""
    parser = argparse.ArgumentParser(prog="steps.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--log", required=True, type=Path, help="file that its output is added to")
    parser.add_argument("--usually", type=int, help="seconds that it takes as a rule")
    parser.add_argument("--of", type=int, help="packages that pip has to collect")
    parser.add_argument("--otherwise", metavar="TEXT", help="what a failure means, if no error")
    parser.add_argument("label", help="what is done")
    parser.add_argument("command", nargs="+", help="after --")
    options = parser.parse_args()
    options.log.parent.mkdir(parents=True, exist_ok=True)
    display = Display(options.label, options.usually, redraws=sys.stderr.isatty())
    status, start = run(options.command, options.log, display, options.of)
    if status == 0 or options.otherwise is not None:
        display.end(options.otherwise or "" if status else "")
        return status
    display.end(f"failed with status {status}; its output is in {options.log}:")
    for line in last_lines(options.log, start):
        print(f"    {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
