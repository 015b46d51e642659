"""What the tests of exports share: the programs of `examples/`, a small model, agreement with `predict`."""

import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.reference import correction
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import inference_groups, plan_training
from ptycho_backends.values import Prediction, TrainedModel

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TOLERANCE = 1e-5


def example(name: str) -> ModuleType:
    """A program of `examples/` as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model_and_groups(backend: str, N: int = 16, **network: object) -> tuple[TrainedModel, GroupedData]:
    """A model as a training of `backend` starts with it, and the groups of a scan for it."""
    scan = simulate_star(N, 12, seed=2)
    config = ModelConfig(N=N, gridsize=2, **network)  # type: ignore[arg-type]
    model = plan_training(scan, TrainingConfig(model=config, nepochs=1), backend).start
    return model, inference_groups(model, scan)


def unrolled_model_and_groups(backend: str) -> tuple[TrainedModel, GroupedData]:
    """The same, of a network whose last layer is not zero, where no error of the network would show."""
    model, groups = model_and_groups(backend, architecture="unrolled", n_steps=2, n_rounds=1)
    generator = np.random.default_rng(0)
    weights = {
        name: value + 0.05 * generator.normal(size=value.shape).astype(np.float32)
        if "head" in name
        else value
        for name, value in model.weights.items()
    }
    return dataclasses.replace(model, weights=weights), groups


def inputs_of(model: TrainedModel, groups: GroupedData) -> dict[str, np.ndarray]:
    """What a model with its physics takes: `diffraction` and `offsets`."""
    batch = groups.batch(slice(0, len(groups)), intensity_scale=model.intensity_scale)
    offsets = np.moveaxis(batch.relative_offsets_px[:, 0], -1, 1)
    return {"diffraction": batch.diffraction_amplitude, "offsets": offsets}


def assert_as_predicted(found: Mapping[str, np.ndarray], want: Prediction) -> None:
    """Object and amplitude of a model with its physics are those of `predict`."""
    image = found["object_real"] + 1j * found["object_imag"]
    np.testing.assert_allclose(image, want.object[..., 0], atol=TOLERANCE * np.abs(want.object).max())
    bright = np.abs(want.amplitude).max()
    np.testing.assert_allclose(found["predicted_amplitude"], want.amplitude, atol=TOLERANCE * bright)


def assert_as_corrected(
    found: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray], model: TrainedModel
) -> None:
    """The object of the correction alone is the reference's."""
    canvas = given["canvas_real"] + 1j * given["canvas_imag"]
    want = correction.corrected_parts(canvas, given["light"], model.weights)
    np.testing.assert_allclose(found["object_real"] + 1j * found["object_imag"], want, atol=TOLERANCE)
