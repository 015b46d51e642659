"""Models as SavedModel and LiteRT, opened by the programs in `examples/`; they agree with `predict`."""

from pathlib import Path

import pytest
from exported import assert_as_corrected, assert_as_predicted, example, inputs_of, unrolled_model_and_groups

from ptycho_backends.export import checking
from ptycho_backends.tensorflow.backend import TensorFlowBackend


@pytest.fixture(scope="module")
def model_and_groups():
    return unrolled_model_and_groups("tensorflow")


@pytest.mark.slow
def test_saved_model_agrees_with_predict(model_and_groups, tmp_path: Path) -> None:
    model, groups = model_and_groups
    backend = TensorFlowBackend()
    written = backend.export(model, tmp_path / "model.savedmodel", licence="CC0")
    found, metadata = example("open_saved_model.py").predict(written, **inputs_of(model, groups))
    assert_as_predicted(found, backend.predict(model, groups))
    assert metadata["licence"] == "CC0"
    assert metadata["intensity_scale"] == model.intensity_scale


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:(?s).*tf.lite.Interpreter is deprecated:UserWarning")
def test_litert_agrees_with_the_reference(model_and_groups, tmp_path: Path) -> None:
    model, _ = model_and_groups
    written = TensorFlowBackend().export(model, tmp_path / "model.tflite")
    given = checking.sample_canvases(model, groups=4)
    found, metadata = example("open_litert.py").predict(written, **given)
    assert_as_corrected(found, given, model)
    assert metadata["config"]["model"]["N"] == 16
