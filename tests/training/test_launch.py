"""The environment of launchers: complete, or left over from other programs."""

import pytest

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.training.launch import launched

SEVERAL = ExecutionConfig(accelerator="cpu", devices=4)
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x",
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
}
SRUN = {"SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NNODES": "2"}


def launch_in(monkeypatch, environment):
    for name in (*TORCHRUN, *SRUN, "TF_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return launched(SEVERAL, "torch")


def test_complete_environments(monkeypatch):
    launch = launch_in(monkeypatch, TORCHRUN)
    assert (launch.rank, launch.size, launch.local_rank, launch.local_size) == (1, 4, 1, 4)
    launch = launch_in(monkeypatch, SRUN)
    assert (launch.rank, launch.size, launch.local_rank, launch.local_size) == (2, 4, 0, 2)


@pytest.mark.parametrize(
    "left",
    [
        {"TORCHELASTIC_RUN_ID": "none"},
        {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3"},
        {"SLURM_NTASKS": "4", "SLURM_NNODES": "1"},
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"},
        {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        {"TF_CONFIG": "  "},
    ],
)
def test_what_other_programs_leave_is_no_launch(left, monkeypatch):
    assert launch_in(monkeypatch, left) is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (SRUN | {"SLURM_NTASKS": "4(x2)"}, r"SLURM_NTASKS: got '4\(x2\)', want a whole number"),
        ({name: value for name, value in TORCHRUN.items() if name != "LOCAL_RANK"}, "LOCAL_RANK: got ''"),
    ],
)
def test_half_a_launch_is_named(changes, text, monkeypatch):
    with pytest.raises(ConfigError, match=text):
        launch_in(monkeypatch, changes)
