"""The search for a learning rate on PyTorch."""

import numpy as np

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import plan_training
from ptycho_backends.training.rate_finder import sweep_rates
from ptycho_torch.backend.backend import TorchBackend


def test_a_sweep_finds_where_the_loss_falls():
    network = ModelConfig(N=16, architecture="unrolled", gridsize=1, n_filters_scale=1)
    config = TrainingConfig(model=network, batch_size=4)
    plan = plan_training(simulate_star(16, 20, seed=0), config, "torch")
    how = ExecutionConfig(accelerator="cpu", enable_progress_bar=False)
    sweep = sweep_rates(TorchBackend(), plan, how, lowest=1e-5, highest=1e-1, steps=10)
    assert np.isfinite(sweep.losses).all()
    assert 1e-5 < sweep.suggestion < 1e-1
    assert sweep.losses.min() < sweep.losses[0]
