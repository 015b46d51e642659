"""The part of an MLflow model that predicts, without MLflow; tests/training/test_tracking.py has it with MLflow."""

import numpy as np
import pytest
from oracle_backend import OracleBackend

from ptycho_backends.archive.model_file import save_archive
from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.errors import ConfigError, ScanError
from ptycho_backends.export import mlflow_model
from ptycho_backends.export.mlflow_model import _load_pyfunc
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training import mlflow_run

CONFIG = TrainingConfig(model=ModelConfig(N=16, architecture="unrolled", gridsize=1), nepochs=1, nphotons=1e4)
SCAN = simulate_star(16, 12)
INPUTS = {"patterns": np.asarray(SCAN.patterns, np.float32), "positions_px": SCAN.scan_positions_px}


class ImageOfOnes(OracleBackend):
    """Stitches, where the oracle of `unrolled` would refine."""

    def infer(self, model, data, *, execution=None, stitching_size=None, agree_on_phase=None):
        return super().infer(model, data, execution=execution, stitching_size=8, agree_on_phase=False)

    def predict(self, model, data, *, execution=None):
        self.groups = data
        patches = np.full((len(data), 16, 16, 1), 2j, np.complex64)
        return type("Predicted", (), {"object": patches})


@pytest.fixture
def opened(tmp_path, monkeypatch):
    asked = []
    backend = ImageOfOnes()
    monkeypatch.setattr(mlflow_model, "get_backend", lambda name: asked.append(name) or backend)
    model = backend.train(SCAN, CONFIG)
    found = _load_pyfunc(str(save_archive(model, tmp_path / "m.wts.h5.zip")))
    found.asked = asked
    return found


def test_the_module_is_the_one_that_models_name():
    assert mlflow_model.__name__ == mlflow_run.LOADER


def test_an_image_comes_as_real_arrays(opened):
    image = opened.predict(INPUTS)
    assert set(image) == {"amplitude", "phase", "coverage", "origin_px"}
    covered = image["coverage"] > 0
    np.testing.assert_allclose(image["amplitude"][covered], 1.0, rtol=1e-6)
    assert image["amplitude"].shape == image["phase"].shape == image["coverage"].shape
    assert image["amplitude"].dtype == image["phase"].dtype == np.float32
    assert opened.asked == ["oracle"]


def test_patches_come_for_every_position_in_order(opened):
    patches = opened.predict(INPUTS, {"output": "patches", "backend": "mine", "measurement": "intensity"})
    np.testing.assert_array_equal(patches["amplitude"], np.full((12, 16, 16), 2, np.float32))
    np.testing.assert_allclose(patches["phase"], np.pi / 2, rtol=1e-6)
    np.testing.assert_allclose(patches["centres_px"], SCAN.scan_positions_px)
    assert opened.asked == ["mine"]


@pytest.mark.parametrize(
    ("changes", "params", "error", "text"),
    [
        ({}, {"output": "picture"}, ConfigError, "output: got 'picture', want one of 'image', 'patches'"),
        (
            {"positions_px": np.zeros((12, 3))},
            None,
            ConfigError,
            r"positions_px: got shape \(12, 3\), want \(M, 2\)",
        ),
        ({"patterns": np.zeros((11, 16, 16))}, None, ScanError, "11 patterns for 12 positions"),
    ],
)
def test_bad_inputs_are_named(opened, changes, params, error, text):
    with pytest.raises(error, match=text):
        opened.predict({**INPUTS, **changes}, params)


def test_a_missing_input_is_named(opened):
    with pytest.raises(ConfigError, match="positions_px: not given"):
        opened.predict({"patterns": INPUTS["patterns"]})
