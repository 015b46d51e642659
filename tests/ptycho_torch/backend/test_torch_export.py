"""Models as ONNX and `torch.export`, opened by the programs in `examples/`; they agree with `predict`."""

import dataclasses
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.export import checking
from ptycho_backends.reference import correction
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import inference_groups, plan_training
from ptycho_backends.values import TrainedModel
from ptycho_torch.backend.backend import TorchBackend
from ptycho_torch.backend.export import NetworkAndPhysics

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
TOLERANCE = 1e-5


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model_and_groups() -> tuple[TrainedModel, GroupedData]:
    scan = simulate_star(16, 12, seed=2)
    network = ModelConfig(N=16, architecture="unrolled", gridsize=2, n_steps=2, n_rounds=1)
    model = plan_training(scan, TrainingConfig(model=network, nepochs=1), "torch").start
    generator = np.random.default_rng(0)
    # the last layer starts at zero, where no error of the network would show
    weights = {
        name: value + 0.05 * generator.normal(size=value.shape).astype(np.float32)
        if "head" in name
        else value
        for name, value in model.weights.items()
    }
    return dataclasses.replace(model, weights=weights), inference_groups(model, scan)


def inputs_of(model: TrainedModel, groups: GroupedData) -> dict[str, np.ndarray]:
    batch = groups.batch(slice(0, len(groups)), intensity_scale=model.intensity_scale)
    offsets = np.moveaxis(batch.relative_offsets_px[:, 0], -1, 1)
    return {"diffraction": batch.diffraction_amplitude, "offsets": offsets}


@pytest.mark.slow
def test_torch_export_agrees_with_predict(model_and_groups, tmp_path: Path) -> None:
    model, groups = model_and_groups
    backend = TorchBackend()
    written = backend.export(model, tmp_path / "model.pt2", licence="CC0")
    found, metadata = example("open_torch_export.py").predict(written, **inputs_of(model, groups))
    want = backend.predict(model, groups)
    image = found["object_real"] + 1j * found["object_imag"]
    np.testing.assert_allclose(image, want.object[..., 0], atol=TOLERANCE * np.abs(want.object).max())
    bright = np.abs(want.amplitude).max()
    np.testing.assert_allclose(found["predicted_amplitude"], want.amplitude, atol=TOLERANCE * bright)
    assert metadata["licence"] == "CC0"
    assert metadata["intensity_scale"] == model.intensity_scale
    assert metadata["config"]["model"]["n_steps"] == 2


@pytest.mark.slow
def test_onnx_of_the_network_agrees_with_the_reference(model_and_groups, tmp_path: Path) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="the extra `export`")
    model, _ = model_and_groups
    written = TorchBackend().export(model, tmp_path / "model.onnx")
    given = checking.sample_canvases(model, groups=4)
    found, metadata = example("open_onnx.py").predict(written, **given)
    canvas = given["canvas_real"] + 1j * given["canvas_imag"]
    want = correction.corrected_parts(canvas, given["light"], model.weights)
    np.testing.assert_allclose(found["object_real"] + 1j * found["object_imag"], want, atol=TOLERANCE)
    assert metadata["intensity_scale"] == model.intensity_scale


def test_real_tensors_compute_what_complex_ones_do() -> None:
    """The graph of 'onnx-physics' before it is written; with several steps, rounds and modes."""
    scan = simulate_star(16, 12, seed=2)
    network = ModelConfig(
        N=16, architecture="unrolled", gridsize=2, n_steps=4, n_rounds=2, n_probe_modes=2, probe_mask=True
    )
    model = plan_training(scan, TrainingConfig(model=network, nepochs=1), "torch").start
    inputs = [torch.from_numpy(value).double() for value in checking.sample_inputs(model).values()]
    with torch.no_grad():
        want, got = (NetworkAndPhysics(model, in_reals=real).double()(*inputs) for real in (False, True))
    for name, tensor in want.items():
        np.testing.assert_allclose(got[name], tensor, atol=1e-6 * float(tensor.abs().max()), err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "N"), [("unrolled", 16), ("cnn", 64)])
def test_onnx_with_physics_agrees_with_predict(architecture: str, N: int, tmp_path: Path) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="the extra `export`")
    scan = simulate_star(N, 12, seed=2)
    # float32 rounds more in each further step, in the model as in its export
    steps = {"n_steps": 2, "n_rounds": 1} if architecture == "unrolled" else {}
    network = ModelConfig(N=N, architecture=architecture, gridsize=2, **steps)
    model = plan_training(scan, TrainingConfig(model=network, nepochs=1), "torch").start
    groups = inference_groups(model, scan)
    backend = TorchBackend()
    written = backend.export(model, tmp_path / "model.physics.onnx")
    found, _ = example("open_onnx.py").predict(written, **inputs_of(model, groups))
    want = backend.predict(model, groups)
    image = found["object_real"] + 1j * found["object_imag"]
    np.testing.assert_allclose(image, want.object[..., 0], atol=TOLERANCE * np.abs(want.object).max())
    bright = np.abs(want.amplitude).max()
    np.testing.assert_allclose(found["predicted_amplitude"], want.amplitude, atol=TOLERANCE * bright)
