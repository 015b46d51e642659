"""Two devices of one process do together the work of one: the same weights, history and image."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import dataclasses
from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.grouping import group_scan
from ptycho_backends.simulate import simulate_star
from ptycho_backends.tensorflow.backend import TensorFlowBackend
from ptycho_backends.testing.agreement import deviation

groups = group_scan(simulate_star(64, 11, n_photons=1e5, seed=3), n_groups=11, seed=0)
alone = ExecutionConfig(
    accelerator="cpu", enable_progress_bar=False, logger_backend=None, precision="64-true",
    gradient_clip_val=0.5,
)
together = dataclasses.replace(alone, devices=2)
backend = TensorFlowBackend()

# 9 groups in batches of 4, 4 and 1: the last leaves one device with nothing
def trained(batch_size, execution):
    network = ModelConfig(
        N=64, n_filters_scale=1, model_type="supervised", architecture="attention", batch_norm=True,
        cbam_encoder=False, use_shared_decoder=True,
    )
    config = TrainingConfig(
        model=network, batch_size=batch_size, nepochs=1, nphotons=1e5, validation_share=0.2, seed=5,
        probe_trainable=True,
    )
    return backend.train(groups, config, execution=execution)

got, want = trained(2, together), trained(4, alone)
for kind in ("first_moments", "second_moments"):
    one, other = getattr(got.training_state, kind), getattr(want.training_state, kind)
    worst = max((deviation(one[name], other[name]), name) for name in other if other[name].any())
    assert worst[0] < 1e-9, (kind, worst)
for name in want.weights:
    assert deviation(got.weights[name], want.weights[name]) < 1e-6, name
assert got.training_state.step == want.training_state.step == 3
for name in ("train_loss", "val_loss"):
    one, other = (getattr(model.history[0], name) for model in (got, want))
    assert abs(one / other - 1) < 1e-9, (name, one, other)

image, expected = (backend.infer(got, groups, execution=run) for run in (together, alone))
assert deviation(image.object, expected.object) < 1e-6
assert image.object_patches.shape == (11, 64, 64, 1)

print("all the same")
"""


@pytest.mark.slow
def test_two_devices_train_as_one():
    """In a process of its own: a processor is divided into devices only before anything is computed."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert run.returncode == 0, run.stderr
    assert "all the same" in run.stdout
