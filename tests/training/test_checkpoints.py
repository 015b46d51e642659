"""Resuming from an archive takes the checkpoint beside it, or says that the optimiser starts anew."""

import dataclasses
import logging

import numpy as np
import pytest

from ptycho_backends.archive.model_file import load_archive, save_archive
from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.checkpoints import FOLDER, LAST_CHECKPOINT, model_to_resume
from ptycho_backends.training.plan import new_model, plan_training
from ptycho_backends.values import TrainingState

CONFIG = TrainingConfig(model=ModelConfig(N=64, n_filters_scale=1), nphotons=1e5, n_groups=4)


@pytest.fixture
def run(tmp_path):
    """A folder of a run: the archive without state, and its checkpoint with it."""
    model = new_model(None, CONFIG, "torch")
    moments = {name: np.zeros_like(weight) for name, weight in model.weights.items() if name != "probe"}
    state = TrainingState(
        step=7,
        epoch=1,
        first_moments=moments,
        second_moments=moments,
        schedule={},
        batches_done=0,
        loss_sum=0.0,
    )
    save_archive(model, tmp_path / "wts.h5.zip")
    save_archive(dataclasses.replace(model, training_state=state), tmp_path / FOLDER / LAST_CHECKPOINT)
    return tmp_path


def test_the_checkpoint_beside_an_archive_is_taken(run):
    assert load_archive(run / "wts.h5.zip").training_state is None
    assert model_to_resume(run / "wts.h5.zip", load_archive).training_state.step == 7


def test_a_checkpoint_of_another_training_is_not(run, caplog):
    other = new_model(None, dataclasses.replace(CONFIG, seed=5), "torch")
    save_archive(other, run / "wts.h5.zip")
    model = model_to_resume(run / "wts.h5.zip", load_archive)
    np.testing.assert_array_equal(
        model.weights["encoder/block0/conv0/kernel"], other.weights["encoder/block0/conv0/kernel"]
    )
    assert "of another training" in caplog.text


def test_a_damaged_checkpoint_is_said(run, caplog):
    (run / FOLDER / LAST_CHECKPOINT).write_bytes(b"PK")
    assert model_to_resume(run / "wts.h5.zip", load_archive).training_state is None
    assert "cannot be read" in caplog.text


def test_adam_that_starts_anew_is_said(run, caplog):
    caplog.set_level(logging.WARNING)
    scan = simulate_star(64, 8)
    plan_training(scan, CONFIG, "torch", resume_from=run / FOLDER / LAST_CHECKPOINT)
    assert "Adam" not in caplog.text
    plan_training(scan, CONFIG, "torch", resume_from=load_archive(run / "wts.h5.zip"))
    assert "Adam and the schedule start anew" in caplog.text
