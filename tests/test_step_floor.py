"""The floor of a step holds every convolution of the network: one that is missing would make it look slower."""

import importlib
from pathlib import Path

import pytest

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import plan_training

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
@pytest.mark.parametrize("architecture", ["unrolled", "cnn", "attention"])
def test_every_convolution_is_measured(backend, architecture, monkeypatch):
    pytest.importorskip(backend)
    monkeypatch.syspath_prepend(BENCHMARKS)
    floor = importlib.import_module("floor")
    scan = simulate_star(64, 4, n_photons=1e5, seed=0)
    model = ModelConfig(N=64, architecture=architecture, n_filters_scale=1)
    execution = ExecutionConfig(accelerator="cpu")
    plan = plan_training(scan, TrainingConfig(model=model, batch_size=4, n_groups=4), backend, execution)
    convolutions = floor.make_case(backend, plan, execution).convolutions
    kernels = [
        value for name, value in plan.start.weights.items() if name.endswith("kernel") and value.ndim == 4
    ]
    assert len(kernels) > 2
    assert len(convolutions) >= len(kernels)
    # each can be run, and counts
    for layer in (convolutions[0], convolutions[-1]):
        layer.forward()
        layer.both()
        assert 0 < layer.forward_flop < layer.both_flop
