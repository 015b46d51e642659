"""The picture of the image while a model is trained; the training has to stay what it is."""

import dataclasses

import numpy as np
import pytest
from oracle_backend import OracleBackend

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.registry import get_backend, installed_backends
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training import live_picture
from ptycho_backends.training.checkpoints import Checkpoints
from ptycho_backends.training.live_picture import PICTURE
from ptycho_backends.training.run_folder import TRAINING_FILES
from ptycho_backends.workflows import train

NETWORK = ModelConfig(N=16, architecture="unrolled", gridsize=1, n_steps=2, n_filters_scale=1)
CONFIG = TrainingConfig(model=NETWORK, nepochs=2, batch_size=8, nphotons=1e4, probe_trainable=True)
RUN = ExecutionConfig(accelerator="cpu", enable_progress_bar=False, logger_backend="none")
PICTURES = dataclasses.replace(RUN, picture_every=1)


@pytest.fixture(scope="module")
def scan():
    return simulate_star(16, 24)


@pytest.fixture(params=["torch", "tensorflow"])
def backend(request):
    asked = request.config.getoption("--backend")
    if request.param not in installed_backends() or (asked and request.param not in asked):
        pytest.skip(f"{request.param}: not installed, or not asked for")
    return get_backend(request.param)


class WithCheckpoints(OracleBackend):
    """Writes the last checkpoint before it calls back, as backends do."""

    def train_plan(self, plan, execution, output_dir=None, on_epoch=None):
        checkpoints = Checkpoints(output_dir, execution)
        history = []

        def told(record):
            history.append(record)
            checkpoints.save_last(dataclasses.replace(plan.start, history=tuple(history), backend=self.name))
            return on_epoch(record)

        return super().train_plan(plan, execution, output_dir, told)


def test_the_training_is_the_same_with_pictures(backend, scan, tmp_path, caplog):
    plain = backend.train(scan, CONFIG, execution=RUN, output_dir=tmp_path / "plain")
    shown = backend.train(scan, CONFIG, execution=PICTURES, output_dir=tmp_path / "shown")
    assert (tmp_path / "shown" / PICTURE).is_file()
    assert not (tmp_path / "plain" / PICTURE).exists()
    assert caplog.messages == []
    states = [model.training_state for model in (plain, shown)]
    for one, other in (
        (plain.weights, shown.weights),
        *((states[0].first_moments, states[1].first_moments),),
        *((states[0].second_moments, states[1].second_moments),),
    ):
        assert one.keys() == other.keys()
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)
    assert [record.train_loss for record in plain.history] == [record.train_loss for record in shown.history]


@pytest.mark.skipif("torch" not in installed_backends(), reason="torch is not installed")
def test_running_statistics_and_random_numbers_stay(tmp_path, request):
    """With batch normalisation; a program's own random numbers go on as without a picture."""
    import torch

    asked = request.config.getoption("--backend")
    if asked and "torch" not in asked:
        pytest.skip("torch: not asked for")
    config = TrainingConfig(
        model=ModelConfig(N=64, architecture="attention", n_filters_scale=1, batch_norm=True),
        nepochs=2,
        batch_size=2,
        nphotons=1e4,
    )
    found, scan = [], simulate_star(64, 4)
    for execution in (RUN, PICTURES):
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002 - of a program that uses it
        model = get_backend("torch").train(scan, config, execution=execution, output_dir=tmp_path)
        found.append((model.weights, torch.rand(3).tolist(), np.random.rand(3).tolist()))  # noqa: NPY002
    assert (tmp_path / PICTURE).is_file()
    assert found[0][1:] == found[1][1:]
    for name, values in found[0][0].items():
        np.testing.assert_array_equal(values, found[1][0][name], err_msg=name)


def test_every_so_many_epochs_for_any_backend(scan, tmp_path, monkeypatch):
    drawn = []
    real = live_picture.save_quick_picture
    monkeypatch.setattr(
        live_picture, "save_quick_picture", lambda image, path: (drawn.append(image), real(image, path))[1]
    )
    config = TrainingConfig(**{**vars(CONFIG), "nepochs": 5})
    every_second = dataclasses.replace(PICTURES, picture_every=2)
    WithCheckpoints().train(scan, config, execution=every_second, output_dir=tmp_path)
    assert len(drawn) == 2
    assert (tmp_path / PICTURE).read_bytes().startswith(b"\x89PNG")


def test_large_scans_are_shown_around_their_middle(scan, tmp_path, monkeypatch):
    monkeypatch.setattr(live_picture, "POSITIONS", 6)
    drawn = []
    monkeypatch.setattr(live_picture, "save_quick_picture", lambda image, path: drawn.append(image))
    WithCheckpoints().train(scan, CONFIG, execution=PICTURES, output_dir=tmp_path)
    places = scan.scan_positions_px
    middle = (places.min(axis=0) + places.max(axis=0)) / 2
    nearest = np.sort(np.abs(places - middle).max(axis=1))[:6]
    shown = np.sort(np.abs(drawn[0].group_centres_px - middle).max(axis=1))
    np.testing.assert_allclose(shown, nearest)


def test_a_picture_that_cannot_be_drawn_is_a_warning(scan, tmp_path, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("no colours left")

    monkeypatch.setattr(live_picture, "save_quick_picture", broken)
    model = WithCheckpoints().train(scan, CONFIG, execution=PICTURES, output_dir=tmp_path)
    assert len(model.history) == 2
    assert "no picture of epoch 1: no colours left" in caplog.messages


def test_without_checkpoints_it_is_refused_before_an_earlier_run_goes(scan, tmp_path):
    earlier = train(scan, CONFIG, tmp_path, backend=WithCheckpoints(), execution=PICTURES)
    assert earlier.files["live_picture"] == tmp_path / PICTURE
    without = dataclasses.replace(PICTURES, enable_checkpointing=False)
    with pytest.raises(ConfigError, match="picture_every: got 1, but it draws from checkpoints"):
        train(scan, CONFIG, tmp_path, backend=WithCheckpoints(), execution=without)
    assert earlier.files["archive"].is_file()
    # a run that replaces this one takes it away
    assert PICTURE in TRAINING_FILES
