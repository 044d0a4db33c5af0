"""The impostor as a program of another user, and what it got."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.contract.gateway.programs import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = Path(__file__).parents[2] / "fakes/impostor.py"
NOBODY = 65534
PROMPT = "my secret prompt"


@dataclass
class Impostor:
    """A running impostor."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def got(self) -> bytes:
        """All bytes that it got, with its own marks."""
        return self.log.read_bytes()

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.got.split()[1])

    @property
    def connections(self) -> int:
        """How many connections it got."""
        return self.got.count(b"connection\n")

    def learned_nothing(self, *secrets: str) -> bool:
        """Return whether it got challenges at most."""
        text = self.got.lower()
        words = ("authorization", "bearer", "hs-", "hb-", PROMPT, "post /", "/v1/", *secrets)
        return not any(word.lower().encode() in text for word in words)


@contextlib.contextmanager
def impostor(folder: Path, mode: str, address: str = "0", *words: str) -> Iterator[Impostor]:
    """Run an impostor, as the user nobody where that is possible.

    Args:
        folder: place of its log.
        mode: its mode.
        address: its port or path; a port in use is waited for.
        words: further words of its command line.
    """
    log = folder / f"impostor-{len(list(folder.glob('impostor-*')))}"
    user = str(NOBODY) if os.geteuid() == 0 else ""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), mode, address, *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            cwd="/",
            env={**os.environ, "IMPOSTOR_USER": user},
        )
        made = Impostor(process, log)
        try:
            wait_until(lambda: made.got.startswith(b"ready") or process.poll() is not None)
            assert process.poll() is None
            yield made
        finally:
            process.kill()
            process.wait()
