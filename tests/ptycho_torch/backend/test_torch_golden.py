"""The genuine PtychoPINN's recorded outputs, reproduced by torch without TensorFlow."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.values import Batch
from ptycho_torch.backend import network
from ptycho_torch.backend.arrays import tensors_from_weights
from ptycho_torch.backend.backend import TorchBackend
from ptycho_torch.model_manager_torch import TorchModelManager

CPU = ExecutionConfig(accelerator="cpu")


@pytest.fixture(scope="module", params=["ptychopinn_gs1", "ptychopinn_gs2alt"])
def golden(request, shared):
    folder = shared / "golden"
    with np.load(folder / f"{request.param}.npz") as recorded:
        return TorchBackend().load(folder / f"{request.param}.wts.h5.zip"), dict(recorded)


def deviation(got, want):
    return np.linalg.norm((got - want).ravel()) / np.linalg.norm(want.ravel())


@pytest.mark.parametrize("size", [1, 8, 60])
def test_outputs_are_those_recorded_whatever_the_batch(golden, size):
    model, recorded = golden
    parts = [
        TorchBackend().forward(
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


def test_genuine_archives_load_where_tensorflow_keras_and_dill_cannot_be_imported(shared):
    program = f"""
import sys
for name in ("tensorflow", "keras", "dill"):
    sys.modules[name] = None  # any import of it now fails
from ptycho_backends import get_backend
model = get_backend("torch").load({str(shared / "golden" / "ptychopinn_gs1.wts.h5.zip")!r})
print(model)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "TrainedModel(N=64" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("file", "case"),
    [
        ("torch_port_gs1.wts.h5.zip", "torch_port_gs1"),
        ("torch_port_gs2.wts.h5.zip", "torch_port_gs2"),
        ("torch_port_gs2.last.ckpt", "torch_port_gs2"),
    ],
)
def test_patches_of_the_port_are_those_recorded(shared, file, case):
    model = TorchModelManager.load(shared / "golden" / file)
    with np.load(shared / "golden" / f"{case}.npz") as recorded:
        fed, want = torch.tensor(recorded["X"] * np.float32(model.intensity_scale)), recorded["pred_obj"]
    weights = tensors_from_weights(model.weights, torch.float32)
    with torch.inference_mode():
        got = network.object_patches(fed, weights, model.config.model).numpy()
    assert deviation(got, want) < 1e-5
