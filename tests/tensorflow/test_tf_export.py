"""Models as SavedModel and LiteRT, opened by the programs in `examples/`; they agree with `predict`."""

import dataclasses
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.export import checking
from ptycho_backends.reference import correction
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.tensorflow.backend import TensorFlowBackend
from ptycho_backends.training.plan import inference_groups, plan_training

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TOLERANCE = 1e-5


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model_and_groups():
    scan = simulate_star(16, 12, seed=2)
    network = ModelConfig(N=16, architecture="unrolled", gridsize=2, n_steps=2, n_rounds=1)
    model = plan_training(scan, TrainingConfig(model=network, nepochs=1), "tensorflow").start
    generator = np.random.default_rng(0)
    # the last layer starts at zero, where no error of the network would show
    weights = {
        name: value + 0.05 * generator.normal(size=value.shape).astype(np.float32)
        if "head" in name
        else value
        for name, value in model.weights.items()
    }
    return dataclasses.replace(model, weights=weights), inference_groups(model, scan)


@pytest.mark.slow
def test_saved_model_agrees_with_predict(model_and_groups, tmp_path: Path) -> None:
    model, groups = model_and_groups
    backend = TensorFlowBackend()
    written = backend.export(model, tmp_path / "model.savedmodel", licence="CC0")
    batch = groups.batch(slice(0, len(groups)), intensity_scale=model.intensity_scale)
    offsets = np.moveaxis(batch.relative_offsets_px[:, 0], -1, 1)
    found, metadata = example("open_saved_model.py").predict(
        written, diffraction=batch.diffraction_amplitude, offsets=offsets
    )
    want = backend.predict(model, groups)
    image = found["object_real"] + 1j * found["object_imag"]
    np.testing.assert_allclose(image, want.object[..., 0], atol=TOLERANCE * np.abs(want.object).max())
    bright = np.abs(want.amplitude).max()
    np.testing.assert_allclose(found["predicted_amplitude"], want.amplitude, atol=TOLERANCE * bright)
    assert metadata["licence"] == "CC0"
    assert metadata["intensity_scale"] == model.intensity_scale


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:(?s).*tf.lite.Interpreter is deprecated:UserWarning")
def test_litert_agrees_with_the_reference(model_and_groups, tmp_path: Path) -> None:
    model, _ = model_and_groups
    written = TensorFlowBackend().export(model, tmp_path / "model.tflite")
    given = checking.sample_canvases(model, groups=4)
    found, metadata = example("open_litert.py").predict(written, **given)
    canvas = given["canvas_real"] + 1j * given["canvas_imag"]
    want = correction.corrected_parts(canvas, given["light"], model.weights)
    np.testing.assert_allclose(found["object_real"] + 1j * found["object_imag"], want, atol=TOLERANCE)
    assert metadata["config"]["model"]["N"] == 16
