"""Training a network with attention and batch normalisation: running values, checkpoints, mixed precision."""

import dataclasses

import numpy as np
import pytest

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.reference.initial_weights import is_running_value
from ptycho_backends.tensorflow.backend import TensorFlowBackend
from ptycho_backends.testing.cases import Case
from ptycho_backends.testing.measurements import SINGLE
from ptycho_backends.testing.scan_measurements import ScanCase
from ptycho_backends.training.plan import new_model

SCAN = ScanCase(positions=9, attention=True, seed=4)
CASE = Case(
    architecture="attention", cbam_encoder=True, eca_encoder=True, spatial_decoder=True, batch_norm=True,
    gridsize=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def backend():
    return TensorFlowBackend()


@pytest.fixture(scope="module")
def trained(backend, tmp_path_factory):
    """Two epochs in one go, with the files they leave."""
    folder = tmp_path_factory.mktemp("run")
    execution = dataclasses.replace(SINGLE, checkpoint_save_top_k=-1)
    return backend.train(SCAN.scan(), SCAN.config, execution=execution, output_dir=folder), folder


@pytest.mark.slow
def test_running_values_follow_the_batches_and_no_optimiser(backend, trained):
    model, _ = trained
    first = new_model(SCAN.scan(), model.config, backend.name).weights
    running = [name for name in first if is_running_value(name)]
    assert running
    for name in running:
        assert not np.array_equal(model.weights[name], first[name]), name
        assert name not in model.training_state.first_moments
    assert "encoder/block0/conv0/norm/gamma" in model.training_state.first_moments


@pytest.mark.slow
def test_resuming_any_checkpoint_is_as_if_nothing_had_happened(backend, trained):
    model, folder = trained
    (best,) = (folder / "checkpoints").glob("best-epoch=1-*")
    start = backend.load(best)
    assert len(start.history) == 1
    resumed = backend.train(SCAN.scan(), SCAN.config, execution=SINGLE, resume_from=start)
    for name, value in model.weights.items():
        assert np.array_equal(resumed.weights[name], value), name
    assert resumed.history[-1].val_loss == model.history[-1].val_loss


def test_low_precision_is_near(backend):
    want = backend.forward(CASE.config.model, CASE.weights, CASE.batch, execution=SINGLE).object
    mixed = ExecutionConfig(precision="bf16-mixed", accelerator="cpu")
    got = backend.forward(CASE.config.model, CASE.weights, CASE.batch, execution=mixed).object
    assert 1e-5 < np.linalg.norm(got - want) / np.linalg.norm(want) < 3e-2
    gradients = backend.gradients(CASE.config, CASE.weights, CASE.batch, execution=mixed)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@pytest.mark.slow
def test_it_is_not_exported_for_a_package_that_lacks_it(backend, trained, tmp_path):
    with pytest.raises(ConfigError, match="architecture: got 'attention'"):
        backend.export(trained[0], tmp_path / "wts.h5.zip", "ptychopinn")
