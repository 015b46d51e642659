"""Operands that no framework gets to see."""

import dataclasses

import numpy as np
import pytest

from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.errors import ConfigError, PtychoBackendsError, ShapeError
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.testing.cases import Case
from ptycho_backends.training.operands import checked_batch, checked_operands, checked_weights
from ptycho_backends.training.plan import plan_training


@pytest.fixture(scope="module")
def plan():
    model = ModelConfig(N=16, architecture="unrolled", n_steps=2, gridsize=2)
    config = TrainingConfig(model=model, nepochs=1, batch_size=8, nphotons=1e5, n_groups=8)
    return plan_training(simulate_star(16, 24, n_photons=1e5, seed=0), config, "torch")


@pytest.fixture
def batch(plan):
    return plan.gather(plan.train_indices[:4])


def changed(batch, name, change):
    return dataclasses.replace(batch, **{name: change(np.array(getattr(batch, name)))})


def with_value(value):
    def change(array):
        array = array.astype(np.float64)
        array.flat[3] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("diffraction_amplitude", lambda array: array[:0], "got no groups"),
        ("diffraction_amplitude", lambda array: array[:, :8], r"got shape \(4, 8, 16, 4\)"),
        ("diffraction_amplitude", lambda array: array[..., :1], "with axes"),
        ("diffraction_amplitude", lambda array: array.astype(str), "want real numbers"),
        ("diffraction_amplitude", with_value(np.inf), "1 of 4096 values are NaN or infinite"),
        ("diffraction_amplitude", with_value(1e308), "times intensity_scale"),
        ("relative_offsets_px", lambda array: array[:2], "relative_offsets_px: got shape"),
        ("relative_offsets_px", with_value(np.nan), "NaN or infinite"),
        ("relative_offsets_px", with_value(1e30), "pixels"),
        ("intensity_scale", lambda value: np.nan, "intensity_scale: got nan"),
        ("intensity_scale", lambda value: "bright", "intensity_scale: got 'bright'"),
    ],
)
def test_batches_are_refused_by_name(plan, batch, name, change, message):
    with pytest.raises(ShapeError, match=message):
        checked_batch(plan.config.model, changed(batch, name, change))


def test_numbers_of_probes(plan, batch):
    one = dataclasses.replace(batch, probe_index=np.array([0, 0, 1, 0], np.int32))
    with pytest.raises(ShapeError, match=r"want numbers in 0 \.\. 0"):
        checked_batch(plan.config.model, one)
    two = dataclasses.replace(plan.config.model, n_probes=2)
    assert checked_batch(two, one).probe_index is not None


def test_negative_strides_become_contiguous(plan, batch):
    turned = changed(batch, "diffraction_amplitude", lambda array: array[::-1, :, ::-1])
    checked = checked_batch(plan.config.model, turned)
    assert checked.diffraction_amplitude.flags.c_contiguous
    np.testing.assert_array_equal(checked.diffraction_amplitude, turned.diffraction_amplitude)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: {}, "missing"),
        (lambda weights: {**weights, "more": np.zeros(3)}, "more unknown"),
        (lambda weights: {**weights, "probe": np.zeros((8, 8), np.complex64)}, r"want \(16, 16\)"),
        (lambda weights: {**weights, "log_scale": np.float32(np.nan)}, "NaN or infinite"),
        (lambda weights: {**weights, "log_scale": None}, "log_scale"),
        (lambda weights: list(weights), "want a mapping"),
    ],
)
def test_weights_are_refused_by_name(plan, change, message):
    with pytest.raises(ShapeError, match=message):
        checked_weights(plan.config.model, change(dict(plan.start.weights)))


def test_operands_of_a_wrong_kind(plan, batch):
    weights = plan.start.weights
    checked, (same,) = checked_operands(plan.config, weights, [batch])
    assert list(checked) == list(weights)
    assert len(same) == len(batch)
    for config, given in (
        (None, batch),
        (plan.config, None),
        (dataclasses.replace(plan.config.model), [batch]),
    ):
        with pytest.raises(PtychoBackendsError):
            checked_operands(config, weights, [given])
    broken = dataclasses.replace(plan.config.model)
    broken.gridsize = 0
    with pytest.raises(ConfigError, match="gridsize"):
        checked_operands(broken, weights, [batch])


def test_a_canvas_without_a_rim_is_refused():
    case = Case(N=16, architecture="unrolled", gridsize=1, max_position_jitter=0)
    assert case.config.model.max_position_jitter == 2
    config = dataclasses.replace(case.config.model, max_position_jitter=0)
    with pytest.raises(ConfigError, match=r"max_position_jitter: got 0, a canvas of 16 pixels .* at least 2"):
        checked_batch(config, case.batch)
