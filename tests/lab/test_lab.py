"""The lab is what it says: a cluster with its walls, limits and failures."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.lab.slurmlab import CommandError, Lab, LabError
from tests.lab.slurmlab.host import wait_until

if TYPE_CHECKING:
    from pathlib import Path

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"
HOG = """
import time
hoard = b"x" * (600 << 20)
time.sleep(60)
"""


def reaches(lab: Lab, node: str, host: str, port: int) -> bool:
    """Say whether a TCP connection from a node succeeds."""
    argv = ["python3", "-c", CONNECT, host, str(port)]
    return lab.run(node, argv, check=False).returncode == 0


def submit(lab: Lab, *options: str, script: str, user: str = "owner") -> str:
    """Submit a batch script and return the job's number."""
    argv = ["sbatch", "--parsable", *options]
    return lab.run("login", argv, user=user, input=f"#!/bin/sh\n{script}\n").stdout.strip()


def job(lab: Lab, number: str) -> dict[str, str]:
    """Return what slurmctld knows of a job."""
    words = lab.run("login", ["scontrol", "--oneliner", "show", "job", number]).stdout.split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def finished(lab: Lab, number: str, timeout: float = 120) -> dict[str, str]:
    """Wait for the end of a job and return what slurmctld knows of it."""

    def ended() -> bool:
        return job(lab, number)["JobState"] not in {"PENDING", "RUNNING", "COMPLETING"}

    wait_until(ended, f"job {number} has ended", timeout)
    return job(lab, number)


def test_nodes_see_each_other(lab: Lab) -> None:
    """Every node of the cluster resolves and reaches every other one."""
    assert reaches(lab, "login", "c1", 6818)
    assert reaches(lab, "c1", "c2", 6818)
    assert reaches(lab, "c2", "login", 6817)


def test_laptop_reaches_port_22_of_login_and_nothing_else(lab: Lab) -> None:
    """The laptop is off the cluster: one open port, no route to the rest, no Slurm of its own."""
    assert reaches(lab, "laptop", "login", 22)
    assert reaches(lab, "login", "10.99.0.1", 6817)
    assert not reaches(lab, "laptop", "login", 6817)
    assert not reaches(lab, "laptop", "10.77.0.1", 22)
    assert not reaches(lab, "laptop", "10.77.0.11", 6818)
    for program in ("sbatch", "squeue", "apptainer"):
        assert lab.run("laptop", ["which", program], check=False).returncode != 0


def test_compute_nodes_have_no_way_out_but_a_command_can_be_given_one(lab: Lab) -> None:
    """A node has no default route; with the machine's network it sees the machine's links."""
    own = lab.run("c1", ["ip", "route"]).stdout
    machine = lab.run("c1", ["ip", "route"], network="host").stdout

    here = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout

    assert own == "10.77.0.0/24 dev eth0 proto kernel scope link src 10.77.0.11 \n"
    assert machine == here


def test_ssh_from_the_laptop_checks_the_host_key(lab: Lab) -> None:
    """The laptop knows login's key, and refuses to go on when it is another one."""
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
    done = lab.run("laptop", [*ssh, "login", "hostname; id -un; command -v sbatch"])
    assert done.stdout.split() == ["login", "owner", "/usr/bin/sbatch"]

    key = lab.run("laptop", ["cat", ".ssh/id_ed25519.pub"]).stdout.split()[1]
    lab.write_file("/tmp/other", f"login ssh-ed25519 {key}\n", node="laptop")
    refused = lab.run(
        "laptop", [*ssh, "-o", "UserKnownHostsFile=/tmp/other", "login", "true"], check=False
    )
    assert refused.returncode == 255
    assert "Host key verification failed" in refused.stderr


def test_a_cut_link_can_be_restored(lab: Lab) -> None:
    """`cut` takes the laptop off the net, and `restore` brings it back."""
    lab.cut("laptop")
    assert not reaches(lab, "laptop", "login", 22)
    lab.restore("laptop")
    assert reaches(lab, "laptop", "login", 22)


def test_jobs_of_owner_run_on_both_nodes(lab: Lab) -> None:
    """A batch job spans both nodes, as owner, and its log lies on the shared home."""
    number = submit(lab, "-N2", "-o", "both.log", script="srun sh -c 'echo $(hostname) $(id -un)'")

    assert finished(lab, number)["JobState"] == "COMPLETED"
    log = lab.run("c2", ["sort", "both.log"]).stdout
    assert log == "c1 owner\nc2 owner\n"


def test_gpus_are_handed_out(lab: Lab) -> None:
    """Two jobs on one node get different devices; a third GPU there is not to be had."""
    argv = ["srun", "-p", "gpu", "-w", "c1", "--mem=100M", "-N1", "--gpus=1", "-n2", "--overlap"]
    both = lab.run("login", [*argv, "--gpus=h100:2", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"])
    one = lab.run("login", [*argv, "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"])

    assert both.stdout.split() == ["0,1", "0,1"]
    assert one.stdout.split() == ["0", "0"]
    with pytest.raises(CommandError, match="Requested node configuration is not available"):
        lab.run("login", ["srun", "-p", "gpu", "-N1", "--gres=gpu:3", "true"])


def test_apptainer_runs_in_a_job(lab: Lab) -> None:
    """A job of owner runs a container, from a real image, with no privilege."""
    image = lab.base_image("trixie")
    command = f"srun apptainer exec {image} sh -c 'id -un; . /etc/os-release; echo $VERSION_ID'"
    number = submit(
        lab, "-p", "gpu", "--gpus=1", "--mem=1G", "-o", "sif.log", "-e", "sif.err", script=command
    )

    assert finished(lab, number)["JobState"] == "COMPLETED"
    assert lab.run("login", ["cat", "sif.log"]).stdout.split() == ["owner", "13"]


def test_a_job_above_its_memory_is_killed(lab: Lab) -> None:
    """Slurm kills the job; without cgroups it is FAILED by signal 9, with the reason in the log."""
    lab.write_file("/home/owner/hog.py", HOG)
    number = submit(lab, "--mem=200M", "-o", "hog.log", script="python3 hog.py")
    end = finished(lab, number)

    assert (end["JobState"], end["ExitCode"]) == ("FAILED", "0:9")
    assert "exceeded memory limit" in lab.run("login", ["cat", "hog.log"]).stdout


def test_a_job_that_asks_for_too_much_time_never_starts(lab: Lab) -> None:
    """Slurm's default: sbatch takes the job, and it waits for a limit that never changes."""
    number = submit(lab, "-p", "tiny", "-t", "10", script="true")
    wait_until(
        lambda: job(lab, number)["Reason"] == "PartitionTimeLimit", "the reason is known", 120
    )
    lab.run("login", ["scancel", number])


def test_a_requeued_job_runs_again(lab: Lab) -> None:
    """`scontrol requeue` starts a job of the preempt partition a second time."""
    number = submit(lab, "-p", "preempt", "-o", "again.log", script="sleep 100")
    wait_until(lambda: job(lab, number)["JobState"] == "RUNNING", "the job runs", 120)
    lab.run("login", ["scontrol", "requeue", number])
    wait_until(lambda: job(lab, number)["Restarts"] == "1", "the job was requeued", 120)
    lab.run("login", ["scancel", number])
    lab.wait_idle()


def test_no_accounting_by_default(lab: Lab) -> None:
    """Without slurmdbd, sacct says so and fails."""
    done = lab.run("login", ["sacct"], check=False)

    assert done.returncode != 0
    assert "Slurm accounting storage is disabled" in done.stdout + done.stderr


@pytest.mark.usefixtures("accounting")
def test_accounting_can_be_turned_on(lab: Lab) -> None:
    """With slurmdbd, sacct tells how a job ended."""
    number = submit(lab, "-o", "/dev/null", script="exit 3")
    finished(lab, number)
    argv = ["sacct", "-nPX", "-o", "state,exitcode", "-j", number]
    wait_until(lambda: lab.run("login", argv).stdout == "FAILED|3:0\n", "sacct has the job", 120)


def test_accounts_are_apart(lab: Lab) -> None:
    """A neighbour can read neither owner's home nor the environment of owner's processes."""
    lab.write_file("/home/owner/secret", "x")
    for argv in (["cat", "/home/owner/secret"], ["ls", "/home/owner"]):
        with pytest.raises(CommandError, match="Permission denied"):
            lab.run("c1", argv, user="neighbour")


def test_slurmctld_can_be_stopped_and_started(lab: Lab) -> None:
    """With the controller gone, commands fail; its jobs are there again afterwards."""
    number = submit(lab, "-o", "/dev/null", script="sleep 300")
    lab.stop("login", "slurmctld")
    failed = lab.run("login", ["squeue"], check=False, timeout=120)
    lab.start("login", "slurmctld")
    wait_until(lambda: job(lab, number)["JobState"] == "RUNNING", "the job is known again", 120)
    lab.run("login", ["scancel", number])
    lab.wait_idle()

    assert failed.returncode != 0
    assert "Unable to contact slurm controller" in failed.stderr


def test_a_command_that_outlives_its_time_is_killed_with_its_children(lab: Lab) -> None:
    """No process of a timed-out command stays on the node."""
    with pytest.raises(CommandError, match="not done after 1 s"):
        lab.run("c1", ["sh", "-c", "sleep 4321 & sleep 4322; true"], timeout=1)
    find = ["pgrep", "--full", "^sleep 432"]
    wait_until(lambda: not lab.run("c1", find, check=False).stdout, "both are gone", 60)


def test_a_signal_reaches_the_command(lab: Lab) -> None:
    """`terminate` lets a command on a node clean up, and its status comes back."""
    process = lab.popen(
        "c1", ["bash", "-c", "trap 'echo bye; exit 7' TERM; echo up; sleep 60 >&- 2>&- & wait"]
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.terminate()
    rest, _ = process.communicate(timeout=60)

    assert (rest, process.returncode) == ("bye\n", 7)


def test_files_go_in_and_out(lab: Lab, tmp_path: Path) -> None:
    """Files arrive with their owner and mode, and come back byte for byte."""
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 5000)
    lab.copy_in(source, "/home/neighbour/new/folder/file", owner="neighbour", mode="600")
    stat = ["stat", "-c", "%U %a %s", "/home/neighbour/new/folder/file"]
    assert lab.run("c2", stat, user="root").stdout == "neighbour 600 1280000\n"

    lab.copy_out("/home/neighbour/new/folder/file", tmp_path / "back", owner="neighbour")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_what_cannot_be_asked_is_said(lab: Lab) -> None:
    """A wrong node or daemon is answered with the ones there are."""
    with pytest.raises(LabError, match="no node c9; there are login, c1, c2, laptop"):
        lab.run("c9", ["true"])
    with pytest.raises(LabError, match="no daemon crond; there are munged"):
        lab.start("c1", "crond")
