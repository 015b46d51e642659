"""The genuine PtychoPINN's recorded outputs, reproduced by this TensorFlow backend."""

import numpy as np
import pytest
import tensorflow as tf

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.tensorflow import network
from ptycho_backends.tensorflow.arrays import tensors_from_weights
from ptycho_backends.tensorflow.backend import TensorFlowBackend
from ptycho_backends.values import Batch

CPU = ExecutionConfig(accelerator="cpu")


@pytest.fixture(scope="module", params=["ptychopinn_gs1", "ptychopinn_gs2alt"])
def golden(request, shared):
    folder = shared / "golden"
    with np.load(folder / f"{request.param}.npz") as recorded:
        return TensorFlowBackend().load(folder / f"{request.param}.wts.h5.zip"), dict(recorded)


def deviation(got, want):
    return np.linalg.norm((got - want).ravel()) / np.linalg.norm(want.ravel())


@pytest.mark.parametrize("size", [8, 60])
def test_outputs_are_those_recorded_whatever_the_batch(golden, size):
    model, recorded = golden
    parts = [
        TensorFlowBackend().forward(
            model.config.model,
            model.weights,
            Batch(recorded["X_fed"][i : i + size], recorded["positions_fed"][i : i + size], 1.0),
            execution=CPU,
        )
        for i in range(0, 60, size)
    ]
    assert deviation(np.concatenate([part.object for part in parts]), recorded["object_all"]) < 1e-5
    for output in ("object", "amplitude", "intensity"):
        first = np.concatenate([getattr(part, output) for part in parts])[:8]
        assert deviation(first, recorded[f"{output}_first8"]) < 1e-5, output


@pytest.mark.parametrize(
    ("file", "case"),
    [
        ("torch_port_gs1.wts.h5.zip", "torch_port_gs1"),
        ("torch_port_gs2.wts.h5.zip", "torch_port_gs2"),
        ("torch_port_gs2.last.ckpt", "torch_port_gs2"),
    ],
)
def test_patches_of_the_port_are_those_recorded(shared, file, case):
    model = TensorFlowBackend().load(shared / "golden" / file)
    with np.load(shared / "golden" / f"{case}.npz") as recorded:
        fed = recorded["X"].transpose(0, 2, 3, 1) * np.float32(model.intensity_scale)
        want = recorded["pred_obj"].transpose(0, 2, 3, 1)
    weights = tensors_from_weights(model.weights, tf.float32)
    got = network.object_patches(tf.constant(fed), weights, model.config.model).numpy()
    assert deviation(got, want) < 1e-5
