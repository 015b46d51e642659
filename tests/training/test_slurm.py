"""The variables of a real Slurm, where there is one: tasks of `srun` find their ranks and each other."""

import json
import os
import shutil
import subprocess
import sys

import pytest

SECONDS = 60

PROGRAM = """
import dataclasses, json, socket
from ptycho_backends.config import ExecutionConfig
from ptycho_backends.training.launch import known_cluster, launched, srun_meeting_point

launch = launched(ExecutionConfig(strategy="ddp"), "torch")
cluster = known_cluster()
host, port = cluster.addresses[launch.rank].rsplit(":", 1)
with socket.socket() as mine:
    mine.bind((host, int(port)))
print(json.dumps([dataclasses.asdict(launch), cluster.rank, cluster.addresses, srun_meeting_point()]))
"""


@pytest.fixture(scope="module")
def slurm():
    """Skip where there is no Slurm, or none that answers."""
    if shutil.which("srun") is None:
        pytest.skip("srun not installed")
    ping = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=SECONDS)
    if ping.returncode or " UP" not in ping.stdout:
        pytest.skip(f"no Slurm controller answers: {(ping.stdout + ping.stderr).strip()}")


@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize("distribution", ["block", "cyclic"])
def test_tasks_of_srun_find_each_other(distribution):
    options = ["--ntasks=3", "--overcommit", f"--distribution={distribution}", "--time=2"]
    run = subprocess.run(
        ["srun", *options, sys.executable, "-c", PROGRAM],
        env={name: value for name, value in os.environ.items() if not name.startswith("SLURM_STEP")},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert run.returncode == 0, run.stderr
    tasks = [json.loads(line) for line in run.stdout.splitlines()]
    assert sorted(launch["rank"] for launch, *_ in tasks) == [0, 1, 2]
    for launch, rank, addresses, (host, port) in tasks:
        assert (launch["size"], launch["launcher"]) == (3, "srun")
        assert rank == launch["rank"]
        assert addresses == tasks[0][2]
        assert len(set(addresses)) == 3
        assert addresses[0] == f"{host}:{port}"
