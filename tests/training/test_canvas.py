"""Room on a group's canvas for all of its views."""

import dataclasses

import numpy as np
import pytest

from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.reference.unrolled import tall_views
from ptycho_backends.scans.grouping import group_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.canvas import room_for, with_room_for, works_on_scans
from ptycho_backends.training.plan import inference_groups, plan_training

SCAN = simulate_star(32, 20, n_photons=1e5, seed=1)


def config(architecture="unrolled", N=32, **fields):
    model = ModelConfig(N=N, gridsize=2, architecture=architecture, n_filters_scale=1, **fields)
    return TrainingConfig(model=model, neighbor_count=4, batch_size=4, nepochs=1, nphotons=1e5)


@pytest.mark.parametrize("gridsize", [1, 2, 3])
def test_every_view_lies_on_the_canvas(gridsize):
    groups = group_scan(SCAN, gridsize=gridsize, neighbor_count=gridsize**2 + 3)
    model = ModelConfig(
        N=32, gridsize=gridsize, architecture="unrolled", max_position_jitter=0, offset=0, n_filters_scale=1
    )
    model.max_position_jitter = room_for(model, groups)
    offsets = np.moveaxis(groups.relative_offsets_px[:, 0], -1, 1).astype(float)
    corners, fractions = tall_views(offsets, model.canvas_size, 32)
    places = (corners + fractions).reshape(offsets.shape)
    places[..., 1] -= model.canvas_size * np.arange(len(offsets))[:, None]
    # nothing was moved to the edge
    np.testing.assert_allclose(places, (model.canvas_size - 32) // 2 - offsets, atol=1e-9)


def test_room_never_shrinks():
    groups = group_scan(SCAN, gridsize=2, neighbor_count=4)
    wide = config(max_position_jitter=200).model
    assert room_for(wide, groups) == 200
    model = config(max_position_jitter=0).model
    assert room_for(model, groups, spread_px=50.0) == 104 - model.offset
    assert room_for(model, groups, spread_px=49.5) == 104 - model.offset


def test_a_training_makes_room():
    plan = plan_training(SCAN, config(max_position_jitter=0, offset=0), "torch")
    reach = np.abs(plan.groups.relative_offsets_px).max()
    assert plan.config.model.canvas_size >= 32 + 2 * reach
    assert plan.start.config == plan.config


def test_a_model_makes_room_for_a_wider_scan():
    model = plan_training(SCAN, config(), "torch").start
    sparse = dataclasses.replace(SCAN, xcoords=4 * SCAN.xcoords, ycoords=4 * SCAN.ycoords)
    groups = inference_groups(model, sparse)
    wide = with_room_for(model, groups)
    assert wide.config.model.max_position_jitter > model.config.model.max_position_jitter
    assert wide.weights is model.weights
    assert with_room_for(wide, groups) is wide


def test_other_architectures_have_their_own_room():
    scan = simulate_star(64, 12, n_photons=1e5, seed=1)
    model = plan_training(scan, config("cnn", N=64, max_position_jitter=3), "torch").start
    assert with_room_for(model, inference_groups(model, scan)) is model
    assert not works_on_scans(model)
    assert works_on_scans(plan_training(SCAN, config(), "torch").start)
