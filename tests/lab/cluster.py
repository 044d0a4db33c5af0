"""What `owner` does on the lab's login node, as functions."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

COMPUTE = ("c1", "c2")
STATE = "/home/owner/.local/state/hpc-serve"
PYTHON = "/opt/hpc-serve/bin/python"


@dataclass(frozen=True)
class Cluster:
    """The lab, seen by a user.

    Args:
        lab: the lab.
    """

    lab: Any

    def hpc(self, *argv: str, check: bool = True, timeout: float = 120, **options: Any) -> Any:
        """Run `hpc-serve` on the login node as owner."""
        return self.lab.run("login", ["hpc-serve", *argv], check=check, timeout=timeout, **options)

    def json(self, *argv: str, **options: Any) -> Any:
        """Run `hpc-serve ... --json` on the login node and return what it printed."""
        return json.loads(self.hpc(*argv, "--json", **options).stdout)

    def refused(self, *argv: str, code: int) -> str:
        """Run a command that must fail, and return its one sentence.

        The sentence may be followed by a hint, and preceded by lines of progress in brackets.
        """
        done: subprocess.CompletedProcess[str] = self.hpc(*argv, check=False, timeout=180)
        lines = [line for line in done.stderr.splitlines() if not line.startswith("[")]
        assert done.returncode == code, done.stderr
        assert lines[0].startswith("hpc-serve: "), done.stderr
        assert len(lines) <= 2, done.stderr
        return lines[0].removeprefix("hpc-serve: ")

    def shell(self, node: str, script: str, **options: Any) -> Any:
        """Run a shell script on a node."""
        return self.lab.run(node, ["bash", "-c", script], **options)

    def replicas(self, name: str) -> list[dict[str, Any]]:
        """Return what `status --json` says of a service's replicas."""
        found: list[dict[str, Any]] = self.json("status", name)["replicas"]
        return found

    def wait_until(self, holds: Any, what: str, timeout: float = 180) -> None:
        """Wait until a function returns something true."""
        deadline = time.monotonic() + timeout
        while not holds():
            assert time.monotonic() < deadline, f"never: {what}\n{self.lab.report()}"
            time.sleep(0.3)

    @contextmanager
    def tunnel(self, *options: str) -> Iterator[dict[str, str]]:
        """Yield the variables that `hpc-serve connect` on the laptop prints, while it runs."""
        argv = ["hpc-serve", "connect", "owner@login", "--env", *options]
        process = self.lab.popen("laptop", argv)
        try:
            env: dict[str, str] = {}
            while len(env) < 2:
                line = process.stdout.readline()
                assert line, f"connect ended: {process.communicate()}"
                if line.startswith("export "):
                    key, _, value = line.removeprefix("export ").strip().partition("=")
                    env[key] = value.strip("'")
            yield env
        finally:
            process.terminate()
            process.communicate(timeout=60)

    def on_laptop(self, script: str, env: dict[str, str], *argv: str, timeout: float = 120) -> str:
        """Run a Python script on the laptop and return what it printed."""
        done = self.lab.run("laptop", [PYTHON, "-c", script, *argv], env=env, timeout=timeout)
        return str(done.stdout)

    def leftovers(self) -> list[str]:
        """Return what of ours is still there on any node: processes, sockets, secrets, jobs."""
        found: list[str] = []
        pattern = "[h]pc-serve|[g]ateway_lite|[s]ubmitit|[l]lama-server|[v]llm"
        for node in ("login", *COMPUTE):
            ours = f"ps -eo user:20,args | grep -E '^owner .*({pattern})'"
            script = f"{ours}; ls -d /tmp/hpc-serve-* 2>/dev/null"
            found += [f"{node}: {line}" for line in self._lines(node, script)]
        found += self._lines("login", f"find {STATE} -name secret -o -name '*.sock'")
        found += self._lines("login", "squeue --noheader --user owner")
        return found

    def _lines(self, node: str, script: str) -> list[str]:
        out = self.shell(node, script, user="root", check=False).stdout
        return [line for line in out.splitlines() if line.strip()]

    def reset(self) -> None:
        """End every service and the gateway of owner, whatever state they are in."""
        self.hpc("stop", "--all", check=False, timeout=180)
        self.hpc("gateway", "stop", check=False)
        self.shell("login", "scancel --user=owner", check=False)  # workers of batches
        records = (f"{STATE}/{name}" for name in ("batches", "services", "keys.yaml", "owner.key"))
        self.lab.wait_idle()  # a job that ends writes what would be half removed
        self.shell("login", f"rm -rf {' '.join(records)}")
