"""The benchmark measures our own gateway, with and without a replica, and says what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from scripts.bench import report

OURS = ("ours", "ours-replica", "ours-replica-tls")
PROJECT = Path(__file__).resolve().parents[3]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmark."""
    argv = [sys.executable, str(PROJECT / "scripts" / "bench_gateway"), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=280, check=False)


def test_it_measures_ours_and_keeps_what_it_found(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    quick = ["--rounds=1", "--secs=0.3", "--redo=0", "--no-pin", "--cells=u16,s64"]
    what = [f"--only={','.join(OURS)}", "--batteries=check,perf", "--base=ours-replica"]
    done = bench(*quick, *what, f"--out={file}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())

    for name in OURS:
        assert found["check"][name]["unary"]["same"]
        assert found["check"][name]["sse"]["same"]
        assert found["check"][name]["sse"]["frames"] == 200
        assert found["perf"]["u16"][name][0]["n"] > 0
        assert found["perf"]["s64"][name][0]["cpu_us"] > 0
        assert report.Costs(found["perf"]).bad(name) == 0
    assert bench(f"--show={file}", "--base=ours-replica").stdout.strip() in done.stdout


def test_a_peer_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    env_free = ["--only=litellm", "--batteries=check", f"--out={file}"]
    argv = [sys.executable, str(PROJECT / "scripts" / "bench_gateway"), *env_free]
    env = {"PATH": "/nowhere", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=280, env=env, check=False)

    assert done.returncode == 0, done.stderr
    assert "see --install" in json.loads(file.read_text())["failed"]["litellm"]


def test_an_unknown_name_is_refused() -> None:
    done = bench("--only=apache")

    assert done.returncode == 2
    assert "'apache' is not one of ours, ours-replica, ours-replica-tls, nginx" in done.stderr
