"""The search for a learning rate on TensorFlow."""

import numpy as np

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.tensorflow.backend import TensorFlowBackend
from ptycho_backends.tensorflow.model import PtychoModel
from ptycho_backends.training.plan import plan_training
from ptycho_backends.training.rate_finder import sweep_rates


def test_a_sweep_finds_where_the_loss_falls():
    network = ModelConfig(N=16, architecture="unrolled", gridsize=1, n_filters_scale=1)
    config = TrainingConfig(model=network, batch_size=4)
    plan = plan_training(simulate_star(16, 20, seed=0), config, "tensorflow")
    how = ExecutionConfig(accelerator="cpu", enable_progress_bar=False)
    sweep = sweep_rates(TensorFlowBackend(), plan, how, lowest=1e-5, highest=1e-1, steps=10)
    assert np.isfinite(sweep.losses).all()
    assert 1e-5 < sweep.suggestion < 1e-1
    assert sweep.losses.min() < sweep.losses[0]
    page = PtychoModel(plan.config.model, plan.start.weights)._repr_html_()
    assert "PtychoModel: unrolled, N=16" in page
