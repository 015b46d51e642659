"""Stitching, as it is stated and as it is done; the two agree."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_backends.errors import ShapeError
from ptycho_backends.images import reconstruct as reconstructing
from ptycho_backends.images import stitching as quick
from ptycho_backends.reference import physics
from ptycho_backends.reference import stitching as stated
from ptycho_backends.scans.grouping import group_scan
from ptycho_backends.scans.simulate import simulate_star


@pytest.fixture(scope="module", params=[stated, quick], ids=["stated", "quick"])
def stitching(request):
    return request.param


def known_object(seed, side=90):
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(side, side)) + 1j * generator.normal(size=(side, side))).astype(
        np.complex64
    )


def as_groups(centres):
    return centres[:, None, :, None]


def literal(patches, centres, size):
    """MODEL.md section 7, word by word: each patch on a canvas of its own."""
    offsets = centres - centres.mean(axis=0)
    margin = 2 * int(np.ceil(np.abs(offsets).max() / 2))
    side = size + 2 * margin
    cut = physics.crop_centre(patches[..., 0], size)
    total = np.zeros((side, side), complex)
    count = np.zeros((side, side))
    for patch, offset in zip(cut, offsets, strict=True):
        total += physics.translate(physics.pad_centre(patch, side), offset)
        count += physics.translate(physics.pad_centre(np.ones((size, size)), side), offset)
    return total / (count + 1e-9), count


@given(seed=st.integers(0, 1000), count=st.integers(1, 12), size=st.sampled_from([2, 8, 16]))
def test_stitching_is_the_literal_sum(stitching, seed, count, size):
    generator = np.random.default_rng(seed)
    centres = generator.uniform(0, 30, (count, 2))
    patches = known_object(seed, 16 * count).reshape(-1)[: count * 256].reshape(count, 16, 16, 1)
    image, coverage, _ = stitching.stitch(patches, as_groups(centres), size)
    want, want_coverage = literal(patches, centres, size)
    np.testing.assert_allclose(image, want, atol=2e-5)
    np.testing.assert_allclose(coverage, want_coverage, atol=1e-5)


@given(seed=st.integers(0, 1000))
def test_a_known_object_comes_back_where_it_was(stitching, seed):
    """Whole-pixel centres: exact, and at the place of `origin_px`."""
    generator = np.random.default_rng(seed)
    image = known_object(seed)
    centres = generator.integers(30, 60, (40, 2)).astype(float)
    centres[-1] += 40 * np.ceil(centres.mean(axis=0)) - centres.sum(axis=0)  # a whole mean
    centres = centres[(centres > 20).all(axis=1) & (centres < 70).all(axis=1)]
    centres = centres[: len(centres) - len(centres) % 2]
    centres = np.concatenate([centres, 2 * np.round(centres.mean(axis=0)) - centres])
    patches = physics.extract_patches(image, centres, 32)[..., None]
    stitched, coverage, origin = stitching.stitch(patches, as_groups(centres), 20)
    np.testing.assert_array_equal(origin, np.round(origin))
    x, y = origin.astype(int)
    side = len(stitched)
    padded = np.pad(image, 100)
    truth = padded[100 + y : 100 + y + side, 100 + x : 100 + x + side]
    lit = coverage > 0.5
    assert lit.sum() >= 400
    np.testing.assert_allclose(stitched[lit], truth[lit], atol=1e-5)
    np.testing.assert_array_equal(stitched[~lit], 0)


def test_chunks_do_not_change_the_image(stitching, monkeypatch):
    generator = np.random.default_rng(0)
    centres = generator.uniform(0, 40, (50, 2))
    patches = known_object(0, 113)[:112, :112].reshape(-1)[: 50 * 250].reshape(50, -1)
    patches = np.resize(patches, (50, 32, 32, 1))
    whole = stitching.reassemble_position(patches, as_groups(centres))
    monkeypatch.setattr(stitching, "CHUNK_PIXELS", 7 * 20**2)
    np.testing.assert_allclose(stitching.reassemble_position(patches, as_groups(centres)), whole, atol=1e-6)
    assert whole.shape[-1] == 1
    assert whole.dtype == np.complex64


@pytest.mark.parametrize("weighting", ["probe", "uniform"])
def test_barycentric_stitching_of_consistent_patches_gives_the_object(stitching, weighting):
    image = known_object(3)
    centres = np.array([[40.0, 40.0], [44.0, 42.0], [38.0, 47.0], [46.0, 39.0]])
    patches = physics.extract_patches(image, centres, 32)[..., None]
    generator = np.random.default_rng(0)
    probe = (1 + generator.random((32, 32))).astype(np.complex64)
    stitched, coverage, origin = stitching.reconstruct_image_barycentric(
        patches, as_groups(centres), probe, weighting=weighting
    )
    x, y = np.round(origin).astype(int)
    truth = image[y : y + len(stitched), x : x + len(stitched)]
    lit = coverage > 0.01
    np.testing.assert_allclose(stitched[lit], truth[lit], atol=1e-4)


def test_probe_weighting_prefers_the_patch_that_is_lit(stitching):
    patches = np.stack([np.full((8, 8, 1), 1.0), np.full((8, 8, 1), 3.0)]).astype(np.complex64)
    probe = np.zeros((8, 8), np.complex64)
    probe[:, :4] = 1.0
    probe[:, 4:] = 0.1
    centres = np.array([[10.0, 10.0], [14.0, 10.0]])
    image, _, _ = stitching.reconstruct_image_barycentric(patches, as_groups(centres), probe, 8)
    # the two overlap by four columns; there the second is lit and the first is not
    overlap = image[len(image) // 2, len(image) // 2]
    assert overlap.real == pytest.approx((0.01 * 1 + 1 * 3) / 1.01, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weighting": "best"}, "weighting: got 'best'"),
        ({"weighting": "probe"}, "probe: got None"),
        ({"weighting": "uniform", "size": 7}, "stitching size: got 7"),
        ({"weighting": "uniform", "size": 64}, "stitching size: got 64"),
    ],
)
def test_bad_arguments_are_refused(stitching, arguments, message):
    with pytest.raises(ValueError, match=message):
        stitching.reconstruct_image_barycentric(np.ones((2, 32, 32, 1)), np.zeros((2, 1, 2, 1)), **arguments)


def test_shapes_are_checked(stitching):
    with pytest.raises(ShapeError, match="group_centres_px"):
        stitching.reassemble_position(np.ones((2, 32, 32, 1)), np.zeros((3, 1, 2, 1)))
    with pytest.raises(ShapeError, match="object_patches"):
        stitching.reassemble_position(np.ones((2, 32, 32)), np.zeros((2, 1, 2, 1)))


@given(seed=st.integers(0, 1000), weighting=st.sampled_from(["probe", "uniform"]))
def test_a_canvas_around_the_positions_is_centred_on_them(stitching, seed, weighting):
    """Ptychodus's rule: bounding box and a probe width, the middle of one in the middle of the other."""
    generator = np.random.default_rng(seed)
    positions = generator.uniform(20, 60, (30, 2))
    canvas = stitching.canvas_around(positions, 16)
    low, high = positions.min(axis=0), positions.max(axis=0)
    assert (canvas.width, canvas.height) == tuple(np.ceil(high - low).astype(int) + 16)
    # a patch whose position is the middle of the box has its middle half a pixel before it
    middle = canvas.origin_px + (np.array([canvas.width, canvas.height]) - 1) / 2
    np.testing.assert_allclose(middle, (low + high) / 2 - 0.5)
    # smooth, so that where it lies shows to a fraction of a pixel
    y, x = np.mgrid[:90, :90]
    image = (1 + 0.02 * x + 0.03j * y).astype(np.complex64)
    patches = physics.extract_patches(image, positions, 16)[..., None]
    stitched, coverage, origin = stitching.reconstruct_image_barycentric(
        patches, as_groups(positions), np.ones((16, 16)), 12, weighting, canvas
    )
    assert stitched.shape == (canvas.height, canvas.width)
    lit = coverage > 0.99
    rows, columns = np.nonzero(lit)
    want = 1 + 0.02 * (columns + origin[0]) + 0.03j * (rows + origin[1])
    np.testing.assert_allclose(stitched[lit], want, atol=0.03)
    assert abs((stitched[lit] - want).mean()) < 3e-3


def test_patches_that_leave_the_canvas_are_cut(stitching):
    patches = np.ones((1, 8, 8, 1), np.complex64)
    canvas = stitching.Canvas(4, 5, np.array([0.0, 0.0]))
    _, coverage, _ = stitching.stitch(patches, np.zeros((1, 1, 2, 1)), 8, canvas=canvas)
    np.testing.assert_array_equal(coverage, np.ones((4, 5)) * ([[1, 1, 1, 1, 0]] * 4))


def random_patches(seed, count, size, side=24):
    generator = np.random.default_rng(seed)
    patches = generator.normal(size=(count, size, size, 1)) + 1j * generator.normal(
        size=(count, size, size, 1)
    )
    return patches.astype(np.complex64), as_groups(generator.uniform(-4, side + 4, (count, 2)))


@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 90),
    size=st.sampled_from([2, 6, 16]),
    weighted=st.booleans(),
    whole=st.booleans(),
    placed=st.booleans(),
)
def test_what_is_done_is_what_is_stated(seed, count, size, weighted, whole, placed):
    patches, centres = random_patches(seed, count, 16)
    if whole:
        centres = np.round(centres)
    weights = np.random.default_rng(seed).random((size, size)) if weighted else None
    canvas = stated.Canvas(20, 31, np.array([0.5, -0.25])) if placed else None
    want = stated.stitch(patches, centres, size, weights, canvas)
    got = quick.stitch(patches, centres, size, weights, canvas)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_the_image_is_the_same_on_every_run_and_in_batches():
    patches, centres = random_patches(1, 300, 32, 200)
    first, coverage, _ = quick.stitch(patches, centres)
    again, _, _ = quick.stitch(patches, centres)
    np.testing.assert_array_equal(first, again)
    stitcher = quick.Stitcher(quick.suitable_canvas(patches, centres, 20), 20)
    for start in range(0, 300, 32):
        stitcher.add(patches[start : start + 32], centres[start : start + 32])
    batched, batched_coverage = stitcher.result()
    np.testing.assert_allclose(batched, first, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(batched_coverage, coverage, rtol=1e-6)
    with pytest.raises(RuntimeError, match="its result has been taken"):
        stitcher.add(patches, centres)
    with pytest.raises(RuntimeError, match="its result has been taken"):
        stitcher.result()


def test_a_large_canvas_needs_no_more_than_its_sums():
    """Three float64 images; neither adding nor dividing makes another one."""
    patches, centres = random_patches(2, 40, 32, 1500)
    canvas = quick.Canvas(1500, 1500, np.zeros(2))
    tracemalloc.start()
    stitcher = quick.Stitcher(canvas, 20)
    stitcher.add(patches, centres)
    image, coverage = stitcher.result()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 * 1500**2 + (8 << 20)
    want = stated.stitch(patches, centres, 20, canvas=canvas)
    np.testing.assert_allclose(image, want[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(coverage, want[1], atol=1e-6)
    np.testing.assert_array_equal(image[coverage == 0], 0)


def test_patches_of_a_large_scan_are_stitched_but_not_kept(monkeypatch):
    """They would take more memory than the scan; the image is the same as from all of them at once."""
    groups = group_scan(simulate_star(64, 21, seed=0), gridsize=1)
    patches = np.stack([known_object(number, 64) for number in range(21)])[..., None]
    batches = [(slice(start, start + 8), patches[start : start + 8]) for start in range(0, 21, 8)]
    image = reconstructing.reconstruct(batches, groups, 64, 20, "a backend")
    np.testing.assert_array_equal(image.object_patches, patches)
    want, coverage, origin = stated.stitch(patches, groups.group_centres_px)
    np.testing.assert_allclose(image.object, want, atol=1e-6)
    np.testing.assert_allclose(image.coverage, coverage, atol=1e-6)
    np.testing.assert_array_equal(image.origin_px, origin)
    monkeypatch.setattr(reconstructing, "KEPT_PATCHES_BYTES", patches.nbytes - 1)
    without = reconstructing.reconstruct(batches, groups, 64, 20, "a backend")
    assert without.object_patches is None
    np.testing.assert_array_equal(without.object, image.object)
