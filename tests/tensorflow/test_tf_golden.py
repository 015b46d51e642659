"""The genuine PtychoPINN's recorded outputs, reproduced by this TensorFlow backend."""

import numpy as np
import pytest

from ptycho_backends.config import ExecutionConfig
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
