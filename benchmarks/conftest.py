"""A scan and a model to measure with. Each benchmark asserts its result too; without `--benchmark-enable`
it runs once, as a test, and the large ones not at all."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.registry import get_backend, installed_backends
from ptycho_backends.scans.scan import Scan
from ptycho_backends.testing.parity import versions
from ptycho_backends.training.plan import TrainingPlan, plan_training

sys.path.insert(0, str(Path(__file__).parent))  # where floor.py is

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "large: for measuring, not for testing")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("benchmark_enable"):
        for item in items:
            if item.get_closest_marker("large"):
                item.add_marker(pytest.mark.skip(reason="large: only with --benchmark-enable"))


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Add versions, numbers of threads and the names of the GPUs to a stored run."""
    found, threads, accelerators = versions(), {name: os.environ.get(name) for name in THREADS}, []
    threads["cores allowed"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    if find_spec("torch") is not None:
        import torch

        found["cuda"], threads["torch"] = torch.version.cuda or "none", torch.get_num_threads()
        accelerators = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    elif find_spec("tensorflow") is not None:
        import tensorflow as tf

        found["cuda"] = tf.sysconfig.get_build_info().get("cuda_version", "none")
        gpus = tf.config.list_physical_devices("GPU")
        accelerators = [tf.config.experimental.get_device_details(gpu)["device_name"] for gpu in gpus]
    machine_info.update(versions=found, threads=threads, accelerators=accelerators)


def random_scan(count: int, N: int = 64) -> Scan:
    """Positions of a dense scan; the patterns are noise, which costs as much as a measurement."""
    generator = np.random.default_rng(0)
    side = 5.0 * np.sqrt(count)
    x, y = generator.uniform(0, side, (2, count))
    return Scan(x, y, generator.integers(0, 30, (count, N, N), dtype=np.uint16))


@pytest.fixture
def make_scan():
    return random_scan


@pytest.fixture(params=installed_backends())
def backend(request):
    return get_backend(request.param)


@pytest.fixture
def execution() -> ExecutionConfig:
    return ExecutionConfig(enable_progress_bar=False, logger_backend=None, enable_checkpointing=False)


@pytest.fixture(
    params=[
        pytest.param((1, 1, 64, 16), id="f1-g1"),
        pytest.param((2, 2, 64, 16), id="f2-g2"),
        pytest.param((1, 3, 64, 16), id="f1-g3", marks=pytest.mark.large),
        pytest.param((1, 1, 128, 16), id="f1-g1-N128", marks=pytest.mark.large),
        pytest.param((1, 2, 128, 8), id="f1-g2-N128", marks=pytest.mark.large),
        pytest.param((1, 1, 256, 4), id="f1-g1-N256", marks=pytest.mark.large),
    ]
)
def plan(request) -> TrainingPlan:
    """A model of `n_filters_scale` and `gridsize` (g), N (default 64), and its groups in batches."""
    filters, gridsize, N, batch = request.param
    config = TrainingConfig(
        model=ModelConfig(N=N, n_filters_scale=filters, gridsize=gridsize),
        n_groups=64,
        neighbor_count=max(4, gridsize**2),
        batch_size=batch,
    )
    return plan_training(random_scan(64, N), config, "torch")
