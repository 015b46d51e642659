"""Archives: written by one backend, read by every one, the same bits and the same image."""

import dataclasses

import numpy as np
import pytest

from ptycho_backends.archive.model_file import load_archive
from ptycho_backends.testing.agreement import assert_agrees
from ptycho_backends.testing.cases import Case
from ptycho_backends.testing.measurements import SINGLE
from ptycho_backends.testing.scan_measurements import ScanCase
from ptycho_backends.training.plan import new_model
from ptycho_backends.values import TrainedModel

CASES = (
    Case(gridsize=2, probe_mask=True, seed=1),
    Case(N=128, amp_activation="softplus", pad_object=False, loss="all", seed=2),
    Case(object_big=False, probe_big=False, n_filters_scale=2, gaussian_smoothing_sigma=0.5, seed=3),
    Case(N=256, gridsize=3, loss="supervised", amp_activation="relu", seed=4),
    Case(architecture="attention", cbam_encoder=True, eca_decoder=True, edge_pad=2, batch_norm=True, seed=5),
)


def model_of(case: Case) -> TrainedModel:
    """An untrained model with every weight off its special first value."""
    return TrainedModel(case.config, case.weights, case.intensity_scale, backend="torch")


def assert_same_bits(got: TrainedModel, want: TrainedModel) -> None:
    assert list(got.weights) == list(want.weights)
    for name, value in want.weights.items():
        assert (got.weights[name].dtype, got.weights[name].shape) == (value.dtype, value.shape), name
        assert got.weights[name].tobytes() == value.tobytes(), name
    assert got.config == want.config
    assert got.intensity_scale == want.intensity_scale


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_written_by_one_read_by_all(backends, case, tmp_path):
    model = model_of(case)
    for name, backend in backends.items():
        path = backend.save(model, tmp_path / name)
        for reader in (*(other.load for other in backends.values()), load_archive):
            assert_same_bits(reader(path), model)


def test_passed_around_without_a_change(pair, tmp_path):
    """Saved and loaded by one after the other, and again."""
    model = model_of(CASES[0])
    passed = model
    for number, backend in enumerate([*pair.values()] * 2):
        passed = backend.load(backend.save(passed, tmp_path / str(number)))
    assert_same_bits(passed, model)


def test_reconstructions_of_one_archive(pair, tmp_path):
    scan = ScanCase(gridsize=2, positions=16, seed=6)
    config = dataclasses.replace(scan.config, nepochs=1)
    first = next(iter(pair.values()))
    path = first.save(first.train(scan.scan(), config, execution=SINGLE), tmp_path)
    images = {
        name: backend.infer(backend.load(path), scan.scan(), execution=SINGLE)
        for name, backend in pair.items()
    }
    want = next(iter(images.values()))
    for name, image in images.items():
        assert_agrees(f"{name}: stitched image", image.object, want.object, "stitched image")
        np.testing.assert_array_equal(image.coverage, want.coverage)
        np.testing.assert_array_equal(image.group_centres_px, want.group_centres_px)
        assert image.backend == name


def test_new_models_are_the_same(backends):
    """The same configuration and seed start every backend from the same bits."""
    scan = ScanCase(seed=2)
    models = [new_model(scan.scan(), scan.config, name) for name in backends]
    for model in models[1:]:
        assert_same_bits(model, models[0])
