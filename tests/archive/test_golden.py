"""Outputs recorded from the genuine PtychoPINN, against the reference and (in tests/torch) the backends.

The genuine weights come through `load_archive`, so a wrong name or order shows here as a wrong image.
"""

import numpy as np
import pytest

from ptycho_backends.archive.model_file import load_archive
from ptycho_backends.reference import model as reference
from ptycho_backends.reference import stitching
from ptycho_backends.values import Batch

CASES = ("ptychopinn_gs1", "ptychopinn_gs2alt")


@pytest.fixture(scope="module", params=CASES)
def golden(request, shared):
    """(trained model, recorded arrays) of one genuine archive."""
    folder = shared / "golden"
    with np.load(folder / f"{request.param}.npz") as recorded:
        return load_archive(folder / f"{request.param}.wts.h5.zip"), dict(recorded)


def deviation(got, want):
    return np.linalg.norm((got - want).ravel()) / np.linalg.norm(want.ravel())


def fed(recorded, part):
    """A batch as the genuine network was fed; the scale is in it already."""
    return Batch(recorded["X_fed"][part], recorded["positions_fed"][part], intensity_scale=1.0)


def test_the_reference_reproduces_the_three_outputs(golden):
    model, recorded = golden
    predicted = reference.predict(model.config.model, model.weights, fed(recorded, slice(0, 8)))
    for output in ("object", "amplitude", "intensity"):
        assert deviation(getattr(predicted, output), recorded[f"{output}_first8"]) < 1e-6, output


@pytest.mark.parametrize("batch", [1, 8, 60])
def test_the_reference_reproduces_every_group_whatever_the_batch(golden, batch):
    """Each to 1e-6, except where the genuine code's own float32 coordinates decide.

    It computed coordinates of up to 64 pixels in float32, spaced 4e-6 there. Where an offset lies a
    hair's breadth (2e-5 px in the worst group) from a whole pixel, a rim of the canvas is covered by
    that hair alone, its part known to 20 %, and divided by itself plus 0.001. Rounding our offsets to
    that spacing brings the worst group from 5e-5 to 2e-7.
    """
    model, recorded = golden
    objects = np.concatenate(
        [
            reference.predict(model.config.model, model.weights, fed(recorded, slice(i, i + batch))).object
            for i in range(0, 60, batch)
        ]
    )
    assert deviation(objects, recorded["object_all"]) < 1e-5
    offsets = recorded["positions_fed"].astype(float)
    from_whole = np.abs(offsets - np.round(offsets))
    hair = ((from_whole > 0) & (from_whole < 0.01)).any(axis=(1, 2, 3))
    assert hair.sum() <= 9
    for i in np.flatnonzero(~hair):
        assert deviation(objects[i], recorded["object_all"][i]) < 1e-6, i


def test_stitching_the_recorded_patches_gives_the_recorded_image(golden):
    _, recorded = golden
    image = stitching.reassemble_position(recorded["object_all"], recorded["global_offsets"], 20)
    assert image.shape == recorded["stitched_M20"].shape
    assert deviation(image, recorded["stitched_M20"]) < 1e-5


def test_the_scale_and_the_probe_arrive(golden):
    model, recorded = golden
    np.testing.assert_array_equal(model.probe, recorded["params_probe"][..., 0])
    assert model.intensity_scale == pytest.approx(31.25, rel=1e-6)
    np.testing.assert_allclose(
        recorded["X_fed"][:8], recorded["X_full"] * np.float32(model.intensity_scale), rtol=1e-6
    )


def test_relative_offsets_follow_the_recorded_convention(golden):
    """`positions_fed` is `r`: zero mean in every group."""
    _, recorded = golden
    np.testing.assert_allclose(recorded["positions_fed"].mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_array_equal(recorded["positions_fed"], recorded["coords_relative"].astype(np.float32))
