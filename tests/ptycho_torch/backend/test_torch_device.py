"""Devices by their number, on machines that are made up."""

import pytest
import torch

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError
from ptycho_torch.backend.backend import TorchBackend
from ptycho_torch.backend.device import device
from ptycho_torch.backend.process_group import process_group_of

SECOND = ExecutionConfig(accelerator="cuda:1")


def with_gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_the_device_of_a_number(monkeypatch):
    with_gpus(monkeypatch, 2)
    assert device(SECOND) == torch.device("cuda", 1)
    assert device(ExecutionConfig(accelerator="gpu:0")) == torch.device("cuda", 0)
    assert device(ExecutionConfig(accelerator="cuda")) == torch.device("cuda")


@pytest.mark.parametrize(
    ("count", "message"),
    [(0, "got 'cuda:1', but this machine has none"), (1, "got 'cuda:1', but this machine has 1 of them")],
)
def test_a_number_that_is_not_there_is_refused_before_anything_is_computed(monkeypatch, count, message):
    with_gpus(monkeypatch, count)
    with pytest.raises(ConfigError, match=message):
        TorchBackend().checked(SECOND)


def test_processes_have_a_device_each(monkeypatch):
    known = {
        "TORCHELASTIC_RUN_ID": "1",
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
    }
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="got 'cuda:1' for 2 processes, want 'cuda'"):
        process_group_of(SECOND)
