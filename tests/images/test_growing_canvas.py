"""A canvas that grows: the image of all patches at once, whatever the batches; constant phases."""

import numpy as np
import pytest

from ptycho_backends.errors import ShapeError
from ptycho_backends.images.growing_canvas import GrowingCanvas
from ptycho_backends.images.quick_picture import save_quick_picture
from ptycho_backends.images.stitching import stitch
from ptycho_backends.reference.physics import extract_patches
from ptycho_backends.reference.stitching import Canvas

SIDE, SIZE = 16, 8


@pytest.fixture(scope="module")
def scanned():
    """Centres (B, 1, 2, 1) along a snake, and patches of a smooth object at them."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(0, 60, 4.0), np.arange(0, 40, 4.0))
    x[1::2] = x[1::2, ::-1]
    centres = np.stack([x.ravel(), y.ravel()], axis=-1) + rng.uniform(-0.5, 0.5, (x.size, 2)) + 20
    rows, columns = np.indices((90, 110))
    image = (1 + 0.3 * np.cos(rows / 9)) * np.exp(0.8j * np.sin(columns / 11) * np.cos(rows / 7))
    patches = extract_patches(image.astype(np.complex64), centres, SIDE)[..., None].astype(np.complex64)
    return centres[:, None, :, None], patches


def canvas_of(reconstruction):
    height, width = reconstruction.object.shape
    return Canvas(height, width, reconstruction.origin_px)


@pytest.mark.parametrize("batch", [1, 7, 1000])
@pytest.mark.parametrize("weighted", [False, True])
def test_batches_do_not_change_the_image(scanned, batch, weighted):
    centres, patches = scanned
    weights = np.random.default_rng(1).uniform(0.1, 1, (SIZE, SIZE)) if weighted else None
    growing = GrowingCanvas(SIDE, SIZE, weights)
    for start in range(0, len(centres), batch):
        growing.add(patches[start : start + batch], centres[start : start + batch])
    image = growing.image("oracle", 1e-8)
    want, coverage, _ = stitch(patches, centres, SIZE, weights, canvas_of(image))
    assert len(growing) == len(centres)
    assert (image.backend, image.pixel_size_m) == ("oracle", 1e-8)
    inside = image.coverage > 0
    np.testing.assert_allclose(image.object[inside], want[inside], rtol=0, atol=1e-6)
    if not weighted:
        np.testing.assert_allclose(image.coverage, coverage, atol=1e-6)
        np.testing.assert_allclose(image.object, want, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(image.group_centres_px, centres[:, 0, :, 0])


def test_an_image_can_be_taken_before_the_last_patch(scanned):
    centres, patches = scanned
    growing = GrowingCanvas(SIDE, SIZE)
    with pytest.raises(RuntimeError, match="no patch yet"):
        growing.image()
    growing.add(patches[:20], centres[:20])
    before = growing.image()
    kept = before.object.copy()
    growing.add(patches[20:], centres[20:])
    assert (growing.image().coverage > 0).sum() > (before.coverage > 0).sum()
    np.testing.assert_array_equal(before.object, kept)


@pytest.mark.parametrize("batch", [1, 16])
def test_constant_phases_of_patches_are_taken_away(scanned, batch):
    centres, patches = scanned
    turns = np.exp(1j * np.random.default_rng(2).uniform(-np.pi, np.pi, len(centres))).astype(np.complex64)
    turned = patches * turns[:, None, None, None]
    growing, plain = GrowingCanvas(SIDE, SIZE, agree_on_phase=True), GrowingCanvas(SIDE, SIZE)
    for start in range(0, len(centres), batch):
        part = slice(start, start + batch)
        growing.add(turned[part], centres[part])
        plain.add(turned[part], centres[part])
    image = growing.image()
    want, _, _ = stitch(patches, centres, SIZE, None, canvas_of(image))

    def correlation(found):
        return abs(np.vdot(found, want)) / (np.linalg.norm(found) * np.linalg.norm(want))

    assert correlation(image.object) > 0.99
    assert correlation(plain.image().object) < 0.7


def test_a_size_that_does_not_fit_is_refused():
    with pytest.raises(ShapeError):
        GrowingCanvas(SIDE, SIDE + 2)


def test_a_quick_picture_is_whole(scanned, tmp_path):
    from matplotlib.image import imread

    centres, patches = scanned
    growing = GrowingCanvas(SIDE, SIZE)
    growing.add(patches, centres)
    image = growing.image()
    height, width = image.object.shape
    picture = imread(save_quick_picture(image, tmp_path / "picture.png"))
    assert picture.shape[:2] == (height, 2 * width + 8)
    assert np.ptp(picture[:, :width, 0]) > 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
