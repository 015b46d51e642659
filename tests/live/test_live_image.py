"""Frames added to an image: groups with the frames so far, normalisation, strays."""

import dataclasses

import numpy as np
import pytest

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.live.live_image import LiveImage
from ptycho_backends.training.plan import plan_training

SIDE, FRAMES = 16, 80


def in_batches(scan, size):
    scan = dataclasses.replace(scan, object_guess=None, object_mask=None)
    return [scan.part(np.arange(start, min(start + size, len(scan)))) for start in range(0, len(scan), size)]


@pytest.fixture
def seen(backend, monkeypatch):
    """Groups that the backend is given."""
    found = []
    predict = backend.object_patches

    def keep(model, groups, execution):
        found.append(groups)
        yield from predict(model, groups, execution)

    monkeypatch.setattr(backend, "object_patches", keep)
    return found


def test_groups_are_formed_of_each_frame_and_its_neighbours_so_far(scan, backend, seen):
    network = ModelConfig(N=SIDE, gridsize=2, architecture="unrolled", n_steps=1, n_filters_scale=1)
    model = plan_training(scan, TrainingConfig(model=network), "oracle").start
    image = LiveImage(model, backend, ExecutionConfig(), 8, False)
    batches = in_batches(scan, 3)
    # too few for a group of four
    assert image.add(batches[0]) == 0
    assert image.add(batches[1]) == 6
    assert all(image.add(batch) == len(batch) for batch in batches[2:])
    assert image.frames == FRAMES
    last = seen[-1]
    assert last.nn_indices.shape[1] == 4
    positions = last.scan.scan_positions_px
    all_positions = scan.scan_positions_px
    for members, frame in zip(last.nn_indices, range(FRAMES - len(last), FRAMES), strict=True):
        distances = np.linalg.norm(all_positions - all_positions[frame], axis=1)
        np.testing.assert_allclose(positions[members[0]], all_positions[frame])
        found = np.linalg.norm(positions[members] - all_positions[frame], axis=1)
        np.testing.assert_allclose(np.sort(found), np.sort(distances)[:4], atol=1e-9)


def test_patterns_are_normalised_with_all_frames_so_far(scan, model, backend, seen):
    image = LiveImage(model, backend, ExecutionConfig(), 8, False)
    for batch in in_batches(scan, 32):
        image.add(batch)
    assert [len(groups) for groups in seen] == [32, 32, 16]
    want = np.sqrt((SIDE / 2) ** 2 / scan.pattern_energies.mean())
    assert seen[-1].normalisation == pytest.approx(want)
    assert seen[0].normalisation == pytest.approx(
        np.sqrt((SIDE / 2) ** 2 / scan.energies_of(np.arange(32)).mean())
    )


def test_a_stray_position_is_named_and_left_out(scan, model, backend):
    image = LiveImage(model, backend, ExecutionConfig(), 8, False)
    first, second, _ = in_batches(scan, 32)
    image.add(first)
    x = second.xcoords.copy()
    x[5] = 1e7
    assert image.add(dataclasses.replace(second, xcoords=x, xcoords_start=None)) == 31
    assert image.strays == [37]
    assert image.left_out == ["frame 37: its position is far from all others"]
    assert max(image.image().object.shape) < 100


def test_patches_that_are_not_finite_are_left_out(scan, model, backend, monkeypatch):
    def broken(model, groups, execution):
        patches = np.ones((len(groups), SIDE, SIDE, 1), np.complex64)
        patches[2, 8, 8] = np.nan
        yield slice(0, len(groups)), patches

    monkeypatch.setattr(backend, "object_patches", broken)
    image = LiveImage(model, backend, ExecutionConfig(), 8, True)
    assert image.add(in_batches(scan, 20)[0]) == 19
    (line,) = image.left_out
    assert line.startswith("the frame at x = ")
    assert line.endswith("its patch is not finite")
    assert np.isfinite(image.image().object).all()


def test_a_backend_of_the_protocol_alone_is_asked_to_predict(scan, model, backend):
    class Plain:
        name = "plain"

        def predict(self, model, groups, *, execution=None):
            patches = next(backend.object_patches(model, groups, execution))[1]
            return type("Prediction", (), {"object": patches})

    images = []
    for one in (Plain(), backend):
        image = LiveImage(model, one, ExecutionConfig(), 8, False)
        image.add(in_batches(scan, FRAMES)[0])
        images.append(image.image().object)
    np.testing.assert_array_equal(*images)


def test_settings_that_do_not_fit(scan, model, backend):
    with pytest.raises(ConfigError, match="stitching_size: got 7"):
        LiveImage(model, backend, ExecutionConfig(), 7)
