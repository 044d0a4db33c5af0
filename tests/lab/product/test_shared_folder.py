"""Jobs of real Slurm from a folder that others write to, and a member of one's own group."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.lab.cluster import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3000)]

SHARED = "/home/owner/shared"
LOG = "/tmp/planted"
PLANT = f"""
mkdir -p {SHARED}/hpc {SHARED}/submitit && chmod 1777 {SHARED}
for name in hpc/__init__ submitit/__init__ sitecustomize runpy yaml; do
    echo "open('{LOG}', 'a').write(__name__)" >{SHARED}/$name.py
done
"""
TINY = {
    "name": "tiny",
    "backend": "llamacpp",
    "model": "/home/owner/models/demo-f16.gguf",
    "container": "none",
    "python": "/no/python",
    "resources": {"partition": "cpu", "mem": "200M", "time": 5, "extra": {"export": "NONE"}},
}


def test_a_job_without_variables_imports_nothing_of_others(clean: Cluster) -> None:
    models = {"version": 1, "models": [TINY]}
    clean.lab.write_file("/home/owner/none.yaml", json.dumps(models))
    clean.shell("login", PLANT)
    clean.shell("login", f"cd {SHARED} && hpc-serve submit tiny --models ../none.yaml")
    clean.wait_until(
        lambda: {one["phase"] for one in clean.replicas("tiny")} <= {"FAILED"}, "the job failed"
    )
    log = clean.hpc("logs", "tiny", check=False).stdout
    assert "/no/python" in log + str(clean.replicas("tiny"))  # the task itself ran
    for node in ("login", "c1", "c2"):
        assert clean.shell(node, f"cat {LOG}", check=False).stdout == ""
    clean.hpc("stop", "tiny")
    clean.shell("login", f"rm -rf {SHARED} none.yaml")


def test_a_member_of_the_group_does_not_swap_the_state_of_a_queued_job(clean: Cluster) -> None:
    """The swapped folder would hold another pickle, and pickles run."""
    held = {**TINY, "resources": {"partition": "cpu", "mem": "200M", "time": 5}}
    held["resources"] = {**TINY["resources"], "extra": {"hold": ""}}  # type: ignore[dict-item]
    models = {"version": 1, "models": [held]}
    clean.lab.write_file("/home/owner/held.yaml", json.dumps(models))
    home = "/home/owner/second"
    submit = f"env HOME={home} hpc-serve submit tiny --models /home/owner/held.yaml"
    clean.shell("login", f"umask 002; mkdir {home} && chmod 750 {home}; {submit}")
    member = ["setpriv", "--reuid=2002", "--regid=2001", "--clear-groups"]
    for path in (".local", ".local/state", ".local/state/hpc-serve"):
        words = [*member, "mv", f"{home}/{path}", f"{home}/{path}.gone"]
        done = clean.lab.run("login", words, user="root", check=False)
        assert "Permission denied" in done.stderr
    # As another program may have made it: refused at once, with the repair.
    clean.shell("login", f"chmod 775 {home}/.local")
    done = clean.shell("login", f"env HOME={home} hpc-serve ls", check=False)
    assert f"chmod g-w {home}/.local" in done.stderr
    # The job looks too, which was submitted before.
    clean.shell("login", "scontrol release $(squeue -h -o %A -u owner)")
    clean.wait_until(
        lambda: not clean.shell("login", "squeue -h -u owner").stdout.strip(), "the job is over"
    )
    logs = clean.shell("login", f"cat {home}/.local/state/hpc-serve/services/tiny/jobs/*_log.err")
    assert "the job's task is not run" in logs.stdout
    clean.shell("login", f"rm -rf {home} held.yaml")
