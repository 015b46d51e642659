"""Helpers around training, and simulated training data, under their legacy names."""

import random
import sys
import types

import numpy as np
import pytest
import torch

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import BackendUnavailableError, ConfigError, OutputError, ScanError
from ptycho_backends.scans.scan_files import load_scan
from ptycho_backends.scans.simulate import focused_probe, siemens_star
from ptycho_backends.training.plan import plan_training
from ptycho_torch import datagen, train_utils
from ptycho_torch.backend import data
from ptycho_torch.backend.module import PtychoModule

QUIET = ExecutionConfig(accelerator="cpu", enable_progress_bar=False)


def small(**changes):
    model = ModelConfig(N=64, gridsize=1, n_filters_scale=1)
    return TrainingConfig(model=model, n_groups=8, nepochs=1, batch_size=4, **changes)


@pytest.fixture(scope="module")
def plan(shared):
    scan = load_scan(shared / "data" / "siemens_star_64.npz")
    return plan_training(scan, small(nphotons=1e5), "torch", QUIET)


def range_test(plan, **options):
    module, loader = PtychoModule(plan.start, QUIET), train_utils.PtychoDataModule(plan, QUIET)
    return module, train_utils.find_learning_rate(module, loader, **options)


def test_the_data_module_is_the_one_of_training():
    assert train_utils.PtychoDataModule is data.PtychoDataModule


def test_a_seed_seeds_everything():
    def draws():
        assert train_utils.set_seed(7) == 7
        return random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002 - the global generator is seeded

    assert draws() == draws()
    for bad in (-1, 2**32, 1.5, True):
        with pytest.raises(ConfigError, match="seed: got"):
            train_utils.set_seed(bad)


def test_the_range_test_finds_a_rate_that_trains(plan):
    module, found = range_test(plan, steps=20)
    for name, value in module.model.weights().items():
        np.testing.assert_array_equal(value, plan.start.weights[name])
    assert all(parameter.grad is None for parameter in module.parameters())
    assert len(found.learning_rates) == len(found.loss_changes)
    assert found.learning_rates[0] == 1e-6
    ratios = np.diff(np.log(found.learning_rates))
    np.testing.assert_allclose(ratios, ratios[0])
    assert 1e-5 < found.suggestion < 1e-2
    assert found.loss_changes[0] == 0.0
    assert min(found.loss_changes) < 0


def test_the_range_test_repeats_itself(plan):
    assert range_test(plan, steps=10)[1] == range_test(plan, steps=10)[1]


def test_the_range_test_leaves_weights_alone_when_it_fails(plan):
    module, loader = PtychoModule(plan.start, QUIET), data.PtychoDataModule(plan, QUIET)
    with pytest.raises(ConfigError, match="fell at none"):
        # far beyond any rate that trains: the first steps ruin the model
        train_utils.find_learning_rate(module, loader, smallest=1e3, largest=1e6, steps=10)
    for name, value in module.model.weights().items():
        np.testing.assert_array_equal(value, plan.start.weights[name])
    with pytest.raises(ConfigError, match="want 0 < smallest < largest and steps >= 10"):
        train_utils.find_learning_rate(module, loader, smallest=1.0, largest=0.1)


def test_parameters_go_to_mlflow_where_it_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(BackendUnavailableError, match="pip install mlflow"):
        train_utils.log_parameters_mlflow(small())
    logged = {}
    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(log_params=logged.update))
    assert train_utils.log_parameters_mlflow(small(), QUIET) == logged
    assert logged["TrainingConfig.model.N"] == 64
    assert logged["TrainingConfig.nepochs"] == 1
    assert logged["ExecutionConfig.accelerator"] == "cpu"
    with pytest.raises(ConfigError, match="want configuration objects"):
        train_utils.log_parameters_mlflow({"N": 64})


# --- simulated training data


def test_simulated_scans_of_given_objects(tmp_path):
    objects = [siemens_star(128), siemens_star(128).conj()]
    paths = datagen.write_training_data(objects, focused_probe(64), tmp_path / "set", n_positions=10)
    assert [path.name for path in paths] == ["object_0000.npz", "object_0001.npz"]
    for path, image in zip(paths, objects, strict=True):
        scan = load_scan(path)
        assert scan.measurement == "intensity"
        np.testing.assert_array_equal(scan.object_guess, image)
        assert scan.pattern_energies.mean() == pytest.approx(1e5, rel=0.05)
        # every patch lies inside
        assert scan.scan_positions_px.min() >= 32
        assert scan.scan_positions_px.max() <= 96
    first, second = (load_scan(path) for path in paths)
    assert not np.array_equal(first.patterns, second.patterns)


def test_the_object_and_probe_of_a_real_scan(shared):
    """Simulated from a recorded scan's own object and probe, patterns resemble the recorded ones."""
    real = load_scan(shared / "data" / "siemens_star_64.npz")
    positions = real.scan_positions_px[:20]
    photons = real.pattern_energies[:20].mean()
    scan = datagen.simulate_training_data(real.object_guess, real.probe_guess, positions, n_photons=photons)
    np.testing.assert_array_equal(scan.scan_positions_px, positions)
    for made, recorded in zip(scan.diffraction_amplitude(), real.diffraction_amplitude(), strict=False):
        assert np.corrcoef(made.ravel(), recorded.ravel())[0, 1] > 0.9


def test_what_cannot_be_simulated_is_told(tmp_path):
    with pytest.raises(ScanError, match="object: got 40 x 50 pixels for 400 patches of 64"):
        datagen.simulate_training_data(np.ones((40, 50), complex), focused_probe(64))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written to"):
        datagen.write_training_data([], focused_probe(64), tmp_path / "file")
