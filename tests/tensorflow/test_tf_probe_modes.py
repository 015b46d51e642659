"""Training with modes, masks and several probes in TensorFlow: all modes move, files come back, nothing is NaN."""

import dataclasses

import numpy as np
import tensorflow as tf

from ptycho_backends.archive.model_file import load_archive
from ptycho_backends.config import ExecutionConfig
from ptycho_backends.tensorflow import physics
from ptycho_backends.tensorflow.backend import TensorFlowBackend
from ptycho_backends.testing.scan_measurements import ScanCase

CASE = ScanCase(positions=10, seed=1, probes=2)
SINGLE = ExecutionConfig(accelerator="cpu", enable_progress_bar=False, logger_backend=None)


def test_every_mode_of_every_probe_is_trained_and_stored(tmp_path):
    backend = TensorFlowBackend()
    config = dataclasses.replace(CASE.config, nepochs=1)
    data = CASE.data()
    model = backend.train(data, config, execution=SINGLE, output_dir=tmp_path)
    fixed = backend.train(data, dataclasses.replace(config, probe_trainable=False), execution=SINGLE)
    probe, before = model.weights["probe"], fixed.weights["probe"]
    assert probe.shape == (2, 2, 64, 64)
    assert (np.abs(probe - before).reshape(4, -1).max(axis=1) > 1e-5).all()
    read = load_archive(tmp_path / "checkpoints" / "last.wts.h5.zip")
    np.testing.assert_array_equal(read.weights["probe"], probe)
    longer = dataclasses.replace(config, nepochs=2)
    resumed = backend.train(data, longer, execution=SINGLE, resume_from=read)
    assert np.isfinite(resumed.history[-1].train_loss)
    # a single scan, whose groups have no number of a probe
    assert np.isfinite(backend.infer(model, CASE.scan(), execution=SINGLE).object).all()


def test_gradient_where_nothing_is_predicted_is_zero():
    for dtype in (tf.float32, tf.float64):
        amplitudes = tf.reshape(tf.constant([0.0, 0.0, 3.0, 4.0, 1e-30, 0.0], dtype), (3, 2, 1, 1))
        with tf.GradientTape() as tape:
            tape.watch(amplitudes)
            total = physics.summed_amplitude(amplitudes)
        gradient = tf.reshape(tape.gradient(total, amplitudes), (-1,)).numpy()
        assert np.isfinite(gradient).all()
        np.testing.assert_allclose(gradient[:4], [0, 0, 0.6, 0.8], rtol=1e-6)
