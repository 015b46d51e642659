"""The network `unrolled` in TensorFlow: its tape ends before the last correction; batches of any number of groups."""

import dataclasses

import numpy as np
import tensorflow as tf

from ptycho_backends.tensorflow import unrolled
from ptycho_backends.tensorflow.arrays import channels_first, tensors_from_batch
from ptycho_backends.tensorflow.backend import TensorFlowBackend
from ptycho_backends.tensorflow.model import PtychoModel
from ptycho_backends.testing.cases import Case
from ptycho_backends.testing.measurements import SINGLE

CASE = Case(architecture="unrolled", N=16, gridsize=2, n_steps=2, n_rounds=2, masked=True, seed=1)


def test_the_tape_ends_before_the_last_correction():
    model = PtychoModel(CASE.config.model, CASE.weights)
    batch = tensors_from_batch(CASE.batch)
    measured = CASE.intensity_scale * channels_first(batch["diffraction"])
    with tf.GradientTape(persistent=True) as tape:
        steps = unrolled.before_last_correction(
            measured, batch["offsets"], model.tensors, CASE.config.model, batch["valid_pixels"]
        )
        canvas = tf.abs(unrolled.after_last_correction(steps, model.tensors, CASE.config.model))
        before = [tf.abs(one) for one in steps]
    names = ("probe", "log_scale", "decoder/head/kernel")
    weights = [model.tensors[name] for name in names]
    for one in before:
        assert tape.gradient(one, weights) == [None, None, None]
    found = dict(zip(names, tape.gradient(canvas, weights), strict=True))
    assert found["log_scale"] is None
    assert float(tf.norm(found["probe"])) > 0
    assert float(tf.norm(found["decoder/head/kernel"])) > 0


def test_one_graph_serves_batches_of_any_size():
    backend, whole = TensorFlowBackend(), dataclasses.replace(CASE, groups=3)
    want = backend.forward(whole.config.model, whole.weights, whole.batch, execution=SINGLE).object
    part = dataclasses.replace(
        whole.batch,
        diffraction_amplitude=whole.batch.diffraction_amplitude[:1],
        relative_offsets_px=whole.batch.relative_offsets_px[:1],
        valid_pixels=whole.batch.valid_pixels[:1],
        object_patches=None,
        object_at_centre=None,
    )
    got = backend.forward(whole.config.model, whole.weights, part, execution=SINGLE).object
    assert np.linalg.norm(got - want[:1]) < 1e-4 * np.linalg.norm(want[:1])
