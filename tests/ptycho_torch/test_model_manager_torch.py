"""`TorchModelManager` and `export`, under the names that callers know."""

import numpy as np
import pytest

from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.errors import ArchiveError
from ptycho_backends.reference.initial_weights import initial_weights
from ptycho_backends.values import TrainedModel
from ptycho_torch.backend.backend import TorchBackend
from ptycho_torch.model_manager_torch import TorchModelManager


@pytest.fixture(scope="module")
def model():
    config = TrainingConfig(model=ModelConfig(n_filters_scale=1, gridsize=2), backend="torch")
    probe = np.ones((64, 64), np.complex64)
    weights = initial_weights(config.model, 3, probe=probe, intensity_scale=31.25)
    return TrainedModel(config=config, weights=weights, intensity_scale=31.25, backend="torch")


def same_weights(first, second):
    return all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)


def test_an_archive_comes_back(model, tmp_path):
    path = TorchModelManager.save(model, tmp_path)
    assert path.name == "wts.h5.zip"
    assert same_weights(TorchModelManager.load(path), model)


def test_an_export_for_ptychopinn_comes_back(model, tmp_path):
    path = TorchBackend().export(model, tmp_path / "legacy.wts.h5.zip", "ptychopinn")
    assert same_weights(TorchModelManager.load(path), model)


def test_an_unknown_format_names_the_known_ones(model, tmp_path):
    with pytest.raises(ValueError, match="got 'nope', want one of onnx"):
        TorchBackend().export(model, tmp_path / "net.nope", "nope")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ArchiveError, match="nothing"):
        TorchModelManager.load(tmp_path / "nothing.ckpt")
