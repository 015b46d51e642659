"""Models as ONNX and `torch.export`, opened by the programs in `examples/`; they agree with `predict`."""

from pathlib import Path

import exported
import numpy as np
import pytest
import torch
from exported import assert_as_corrected, assert_as_predicted, example, inputs_of

from ptycho_backends.export import checking
from ptycho_torch.backend.backend import TorchBackend
from ptycho_torch.backend.export import NetworkAndPhysics


@pytest.fixture(scope="module")
def model_and_groups():
    return exported.unrolled_model_and_groups("torch")


@pytest.fixture
def onnx() -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="the extra `export`")


@pytest.mark.slow
def test_torch_export_agrees_with_predict(model_and_groups, tmp_path: Path) -> None:
    model, groups = model_and_groups
    backend = TorchBackend()
    written = backend.export(model, tmp_path / "model.pt2", licence="CC0")
    found, metadata = example("open_torch_export.py").predict(written, **inputs_of(model, groups))
    assert_as_predicted(found, backend.predict(model, groups))
    assert metadata["licence"] == "CC0"
    assert metadata["intensity_scale"] == model.intensity_scale
    assert metadata["config"]["model"]["n_steps"] == 2


@pytest.mark.slow
@pytest.mark.usefixtures("onnx")
def test_onnx_of_the_network_agrees_with_the_reference(model_and_groups, tmp_path: Path) -> None:
    model, _ = model_and_groups
    written = TorchBackend().export(model, tmp_path / "model.onnx")
    given = checking.sample_canvases(model, groups=4)
    found, metadata = example("open_onnx.py").predict(written, **given)
    assert_as_corrected(found, given, model)
    assert metadata["intensity_scale"] == model.intensity_scale


def test_real_tensors_compute_what_complex_ones_do() -> None:
    """The graph of 'onnx-physics' before it is written; with several steps, rounds and modes."""
    network = {"n_steps": 4, "n_rounds": 2, "n_probe_modes": 2, "probe_mask": True}
    model, _ = exported.model_and_groups("torch", architecture="unrolled", **network)
    inputs = [torch.from_numpy(value).double() for value in checking.sample_inputs(model).values()]
    with torch.no_grad():
        want, got = (NetworkAndPhysics(model, in_reals=real).double()(*inputs) for real in (False, True))
    for name, tensor in want.items():
        np.testing.assert_allclose(got[name], tensor, atol=1e-6 * float(tensor.abs().max()), err_msg=name)


# float32 rounds more in each further step, in the model as in its export
@pytest.mark.slow
@pytest.mark.usefixtures("onnx")
@pytest.mark.parametrize(
    ("N", "network"),
    [(16, {"architecture": "unrolled", "n_steps": 2, "n_rounds": 1}), (64, {"architecture": "cnn"})],
    ids=["unrolled", "cnn"],
)
def test_onnx_with_physics_agrees_with_predict(N: int, network: dict, tmp_path: Path) -> None:
    model, groups = exported.model_and_groups("torch", N, **network)
    backend = TorchBackend()
    written = backend.export(model, tmp_path / "model.physics.onnx")
    found, _ = example("open_onnx.py").predict(written, **inputs_of(model, groups))
    assert_as_predicted(found, backend.predict(model, groups))
