"""A scan and a model to measure with. Each benchmark asserts its result too; without `--benchmark-enable`
it runs once, as a test."""

import sys
from pathlib import Path

import numpy as np
import pytest

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.preparation import TrainingPlan, plan_training
from ptycho_backends.registry import get_backend, installed_backends
from ptycho_backends.scan import Scan

sys.path.insert(0, str(Path(__file__).parent))  # where floor.py is


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


@pytest.fixture(params=[(1, 1), (2, 2)], ids=["f1-g1", "f2-g2"])
def plan(request) -> TrainingPlan:
    filters, gridsize = request.param
    config = TrainingConfig(
        model=ModelConfig(N=64, n_filters_scale=filters, gridsize=gridsize), n_groups=64, batch_size=16
    )
    return plan_training(random_scan(64), config, "torch")
