"""The environment of launchers: complete, or left over from other programs."""

import pytest

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.training.launch import (
    SRUN as OF_SRUN,
)
from ptycho_backends.training.launch import (
    TF_CONFIG,
    expand_nodes,
    known_cluster,
    launched,
    srun_meeting_point,
)

SEVERAL = ExecutionConfig(accelerator="cpu", devices=4)
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x",
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
}
# The batch script of Slurm 22.05 has these, although no `srun` started it.
BATCH = {
    "SLURM_JOB_ID": "4711",
    "SLURM_NTASKS": "3",
    "SLURM_NNODES": "2",
    "SLURM_NODELIST": "node[1-2],node5",
    "SLURM_TASKS_PER_NODE": "2,1",
    "SLURM_NODEID": "0",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
# Task of a step on two of the job's three nodes; --distribution=cyclic numbers the second node's first task 1.
SRUN = BATCH | {
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NODELIST": "node[2,5]",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "1",
}


def enter(monkeypatch, environment):
    for name in (*TORCHRUN, *SRUN, "TF_CONFIG", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def launch_in(monkeypatch, environment):
    enter(monkeypatch, environment)
    return launched(SEVERAL, "torch")


def without(environment, *names):
    return {name: value for name, value in environment.items() if name not in names}


def test_complete_environments(monkeypatch):
    launch = launch_in(monkeypatch, TORCHRUN)
    assert (launch.rank, launch.size, launch.local_rank, launch.local_size) == (1, 4, 1, 4)
    launch = launch_in(monkeypatch, SRUN)
    assert (launch.rank, launch.size, launch.local_rank, launch.local_size) == (2, 3, 0, 1)
    launch = launch_in(monkeypatch, SRUN | {"SLURM_NODEID": "0", "SLURM_PROCID": "2", "SLURM_LOCALID": "1"})
    assert (launch.rank, launch.size, launch.local_rank, launch.local_size) == (1, 3, 1, 2)


@pytest.mark.parametrize(
    "left",
    [
        {"TORCHELASTIC_RUN_ID": "none"},
        {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3"},
        BATCH,
        without(SRUN, "SLURM_STEP_ID"),
        without(SRUN, "SLURM_PROCID"),
        SRUN
        | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_STEP_NODELIST": "node5"},
        {"TF_CONFIG": "  "},
    ],
)
def test_what_other_programs_leave_is_no_launch(left, monkeypatch):
    assert launch_in(monkeypatch, left) is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            SRUN | {"SLURM_STEP_NUM_TASKS": "4(x2)"},
            r"SLURM_STEP_NUM_TASKS: got '4\(x2\)', want a whole number",
        ),
        (without(SRUN, "SLURM_LOCALID"), "SLURM_LOCALID: got '', want a whole number"),
        (
            without(SRUN, "SLURM_STEP_TASKS_PER_NODE"),
            "SLURM_STEP_TASKS_PER_NODE: got '', want the tasks of each",
        ),
        (SRUN | {"SLURM_LOCALID": "1"}, r"SLURM_NODEID, SLURM_LOCALID: got 1, 1, want a task of .*'2,1'"),
        ({name: value for name, value in TORCHRUN.items() if name != "LOCAL_RANK"}, "LOCAL_RANK: got ''"),
    ],
)
def test_half_a_launch_is_named(changes, text, monkeypatch):
    with pytest.raises(ConfigError, match=text):
        launch_in(monkeypatch, changes)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("gpu5", ["gpu5"]),
        ("node[1-2]", ["node1", "node2"]),
        ("node[01-03,7],gpu5", ["node01", "node02", "node03", "node7", "gpu5"]),
        ("n[098-101]-ib.hpc,a", ["n098-ib.hpc", "n099-ib.hpc", "n100-ib.hpc", "n101-ib.hpc", "a"]),
        ("r[1-2]n[3,5]", ["r1n3", "r1n5", "r2n3", "r2n5"]),
        ("[1-2]", ["1", "2"]),
    ],
)
def test_lists_of_nodes(text, names):
    assert expand_nodes(text) == names


@pytest.mark.parametrize(
    "text", ["", "node[1-2", "node1-2]", "a,,b", "a b", "node[]", "node[1-x]", "node[-1]", "n[[1]]"]
)
def test_a_list_of_nodes_that_is_not_understood_is_named(text):
    with pytest.raises(ConfigError) as caught:
        expand_nodes(text)
    assert f"SLURM_STEP_NODELIST: got {text!r}, want names of nodes like" in str(caught.value)


def test_the_tasks_of_srun_know_where_they_are(monkeypatch):
    enter(monkeypatch, SRUN)
    cluster = known_cluster()
    # job 4711, step 2: block 913 of 1000
    assert cluster.addresses == ["node2:29608", "node2:29609", "node5:29608"]
    assert (cluster.rank, cluster.launcher) == (2, OF_SRUN)
    assert srun_meeting_point() == ("node2", 29608)
    monkeypatch.setenv("SLURM_STEP_ID", "3")
    assert srun_meeting_point() == ("node2", 15224)
    monkeypatch.setenv("MASTER_ADDR", "node2-ib")
    assert srun_meeting_point() == ("node2-ib", 15224)
    monkeypatch.setenv("MASTER_PORT", "1234")
    assert srun_meeting_point() == ("node2-ib", 1234)
    enter(monkeypatch, BATCH)
    assert known_cluster() is None


def test_nodes_and_tasks_must_agree(monkeypatch):
    enter(monkeypatch, SRUN | {"SLURM_STEP_NODELIST": "node[2-4]"})
    with pytest.raises(ConfigError, match=r"SLURM_STEP_NODELIST: got 3 nodes .*, want the 2 of .*'2,1'"):
        known_cluster()


def test_tasks_of_srun_work_together_only_where_the_strategy_states_it(monkeypatch):
    """With TensorFlow several devices are those of one process."""
    enter(monkeypatch, SRUN)
    for changes, of_torch, of_tensorflow in (
        ({}, False, False),
        ({"devices": 2}, True, False),
        ({"strategy": "ddp"}, True, False),
        ({"strategy": "mirrored", "devices": 2}, True, False),
        ({"strategy": "multi_worker_mirrored"}, True, True),
        ({"strategy": "single_device"}, False, False),
    ):
        execution = ExecutionConfig(accelerator="cpu", **changes)
        assert (launched(execution, "torch") is not None) == of_torch, changes
        assert (launched(execution, "tensorflow") is not None) == of_tensorflow, changes


def test_a_tf_config_counts_before_srun(monkeypatch):
    several = '{"cluster": {"worker": ["a:1", "a:2"]}, "task": {"type": "worker", "index": 1}}'
    alone = '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}'
    execution = ExecutionConfig(accelerator="cpu", strategy="multi_worker_mirrored")
    enter(monkeypatch, SRUN | {"TF_CONFIG": several})
    assert known_cluster().addresses == ["a:1", "a:2"]
    assert launched(execution, "tensorflow").launcher == TF_CONFIG
    assert launched(execution, "torch").launcher == OF_SRUN
    enter(monkeypatch, SRUN | {"TF_CONFIG": alone})
    assert launched(execution, "tensorflow") is None
    assert known_cluster().addresses == ["a:1"]
