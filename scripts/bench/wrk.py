"""Unary load by wrk, which costs the machine less than a client in Python."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.bench.wire import Target

LUA = """\
wrk.method = "POST"
local file = io.open(os.getenv("WRK_BODY"), "rb"); wrk.body = file:read("*a"); file:close()
for line in io.lines(os.getenv("WRK_HEAD")) do
  local name, value = line:match("^([^:]+): ?(.*)$"); wrk.headers[name] = value
end
done = function(sum, lat, _)
  local err = sum.errors.connect + sum.errors.read + sum.errors.write + sum.errors.timeout
  io.write(string.format(
    'JSON{"n":%d,"us":%d,"p50":%.1f,"p90":%.1f,"p99":%.1f,"max":%.1f,"mean":%.1f,' ..
    '"errors":%d,"non200":%d}\\n', sum.requests, sum.duration, lat:percentile(50),
    lat:percentile(90), lat:percentile(99), lat.max, lat.mean, err, sum.errors.status))
end
"""
OURS = ("content-length", "host")
"""Headers that wrk makes itself."""


def unary(target: Target, clients: int, seconds: float) -> dict[str, Any]:
    """Ask for whole answers in a closed loop."""
    with tempfile.TemporaryDirectory(prefix="bench-wrk-") as name:
        folder = Path(name)
        body = target.body()
        lines = target.head(len(body)).decode().strip().split("\r\n")[1:]
        kept = [line for line in lines if not line.lower().startswith(OURS)]
        (folder / "body").write_bytes(body)
        (folder / "head").write_text("\n".join(kept) + "\n")
        (folder / "script.lua").write_text(LUA)
        files = {"WRK_BODY": str(folder / "body"), "WRK_HEAD": str(folder / "head")}
        url = f"http://{target.host}:{target.port}{target.path}"
        argv = ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
        done = subprocess.run(
            [*argv, "-s", str(folder / "script.lua"), url],
            capture_output=True,
            text=True,
            env={**os.environ, **files},
            timeout=seconds + 60,
            check=False,
        )
    return _read(done.stdout, done.stderr)


def _read(out: str, err: str) -> dict[str, Any]:
    found = re.search(r"JSON(\{.*\})", out)
    if not found:
        return {"rps": 0, "n": 0, "errors": 1, "error": (out + err)[-400:]}
    told = json.loads(found.group(1))
    latency = {key: told[key] for key in ("p50", "p90", "p99", "max", "mean")}
    counted = {key: told[key] for key in ("n", "errors", "non200")}
    return {**counted, "rps": round(told["n"] / (told["us"] / 1e6), 1), "lat_us": latency}
