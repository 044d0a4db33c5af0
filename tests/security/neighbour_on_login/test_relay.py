"""Another user of the login node listens at the path that a relay leads to."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

NOBODY = 65534
LISTEN = """
import os, socket, sys
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
os.umask(0)
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
sock.listen()
print("ready", flush=True)
while True:
    client, _ = sock.accept()
    print(client.recv(4096), flush=True)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs a second user")
def test_a_relay_leads_to_no_other_users_socket() -> None:
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        Path(folder).chmod(0o1777)
        path = f"{folder}/s"
        argv = [sys.executable, "-I", "-c", LISTEN, path, str(NOBODY)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as neighbour:
            assert neighbour.stdout is not None
            assert neighbour.stdout.readline() == "ready\n"
            done = subprocess.run(
                [sys.executable, "-m", "hpc", "relay", path],
                input=b"a prompt",
                capture_output=True,
                check=False,
                timeout=60,
            )
            neighbour.kill()
            assert "prompt" not in neighbour.stdout.read()
        assert done.returncode == 7
        assert done.stdout == b""
        assert f"another user listens at {path}".encode() in done.stderr
