"""Training with modes, masks and several probes in PyTorch: all modes move, files come back, nothing is NaN."""

import dataclasses

import numpy as np
import torch

from ptycho_backends.archive.lightning_checkpoint import load_checkpoint
from ptycho_backends.archive.model_file import load_archive
from ptycho_backends.config import ExecutionConfig
from ptycho_backends.testing.scan_measurements import ScanCase
from ptycho_torch.backend import physics
from ptycho_torch.backend.backend import TorchBackend

CASE = ScanCase(positions=10, seed=1, probes=2)
SINGLE = ExecutionConfig(accelerator="cpu", enable_progress_bar=False, logger_backend=None)


def test_every_mode_of_every_probe_is_trained_and_stored(tmp_path):
    config = dataclasses.replace(CASE.config, nepochs=1)
    data = CASE.data()
    model = TorchBackend().train(data, config, execution=SINGLE, output_dir=tmp_path)
    start = TorchBackend().train(data, dataclasses.replace(config, probe_trainable=False), execution=SINGLE)
    probe, before = model.weights["probe"], start.weights["probe"]
    assert probe.shape == (2, 2, 64, 64)
    assert (np.abs(probe - before).reshape(4, -1).max(axis=1) > 1e-5).all()
    (checkpoint,) = (tmp_path / "checkpoints").glob("*.ckpt")
    for file in (checkpoint, tmp_path / "checkpoints" / "last.wts.h5.zip"):
        read = load_checkpoint(file) if file.suffix == ".ckpt" else load_archive(file)
        np.testing.assert_array_equal(read.weights["probe"], probe)
        assert read.training_state.second_moments["probe"].shape == probe.shape
        longer = dataclasses.replace(config, nepochs=2)
        resumed = TorchBackend().train(data, longer, execution=SINGLE, resume_from=read)
        assert len(resumed.history) == 2
        assert np.isfinite(resumed.history[-1].train_loss)


def test_gradient_where_nothing_is_predicted_is_zero():
    for dtype in (torch.float32, torch.float64):
        amplitudes = torch.tensor([0.0, 0.0, 3.0, 4.0, 1e-30, 0.0], dtype=dtype)
        amplitudes = amplitudes.reshape(3, 2, 1, 1).requires_grad_()
        total = physics.summed_amplitude(amplitudes)
        total.sum().backward()
        gradient = amplitudes.grad.flatten()
        assert torch.isfinite(gradient).all()
        np.testing.assert_allclose(gradient[:4], [0, 0, 0.6, 0.8], rtol=1e-6)
