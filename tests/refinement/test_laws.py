"""Laws of refinement, on the reference: symmetries, gauges, pixels and frames that do not count."""

import dataclasses
import logging

import numpy as np
import pytest

from ptycho_backends.config import RefinementConfig
from ptycho_backends.reference import refinement as reference
from ptycho_backends.reference.probe import orthogonal_modes
from ptycho_backends.refinement.plan import centre_of_mass_px, plan_refinement
from ptycho_backends.refinement.refine import Refinement
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.simulate import jittered_raster, simulate_scan

N = 32


def smooth(shape, width_px, seed):
    """Complex noise without detail finer than `width_px`, of modulus about 1."""
    draw = np.random.default_rng(seed)
    noise = draw.normal(size=shape) + 1j * draw.normal(size=shape)
    squared = np.fft.fftfreq(shape[0])[:, None] ** 2 + np.fft.fftfreq(shape[1]) ** 2
    filtered = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-2 * (np.pi * width_px) ** 2 * squared))
    return filtered / np.sqrt(np.mean(np.abs(filtered) ** 2))


def an_object(side, seed=0):
    """An object (side, side) with phases up to about one radian."""
    rough = smooth((side, side), 1.5, seed)
    return (0.9 + 0.1 * np.tanh(rough.real)) * np.exp(0.7j * np.tanh(rough.imag))


def a_probe(tilt=0.2):
    """A curved probe (N, N); its first row and column are dark, so that turns about `N // 2` lose nothing."""
    axis = np.arange(N) - N // 2
    y, x = axis[:, None], axis
    probe = np.exp(-(x**2 + y**2) / 40 + 0.03j * (x**2 + y**2) + tilt * (1j * x / 4 - 0.1 * y))
    probe[0] = probe[:, 0] = 0
    return probe


def a_scan(seed=0, *, count=36, side=72, poisson=True, photons=1e5, probe=None, positions=None):
    """A jittered raster of positions, multiples of 1/64 pixel."""
    if positions is None:
        positions = jittered_raster(count, 4.0, seed=seed) + side / 2
    positions = np.round(np.asarray(positions) * 64) / 64
    probe = a_probe() if probe is None else probe
    return simulate_scan(an_object(side, seed), probe, positions, photons, seed, poisson=poisson)


def a_plan(scan, *, batches=None, **settings):
    """A plan without held-out pixels; `batches` replaces its schedule."""
    config = RefinementConfig(**{"passes": 4, "held_out_fraction": 0.0, **settings})
    plan = plan_refinement(None, scan, config)
    return plan if batches is None else dataclasses.replace(plan, batches=batches)


def refined(plan):
    """Image and state, on the reference."""
    steps = reference.Refiner(plan.problem, plan.state.canvas, plan.state.probe)
    refinement = Refinement(plan, steps, "reference")
    list(refinement.passes())
    state = refinement.state()
    return refinement.image(), state


def distance(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def on_pixels(image, x, y):
    """The object at whole coordinates of the scan; 0 off the canvas."""
    column, row = x - int(image.origin_px[0]), y - int(image.origin_px[1])
    inside = (row >= 0) & (column >= 0) & (row < image.object.shape[0]) & (column < image.object.shape[1])
    safe = np.where(inside, row, 0), np.where(inside, column, 0)
    return np.where(inside, image.object[safe], 0)


def test_the_object_comes_back():
    """In its place and its orientation; only a constant factor is free."""
    side = 72
    image, _ = refined(a_plan(a_scan(side=side, poisson=False), passes=13, smoothness=0.0))
    pixels = np.arange(30, 42)
    x, y = np.meshgrid(pixels, pixels)
    got, want = on_pixels(image, x, y), an_object(side)[np.ix_(pixels, pixels)]
    factor = np.vdot(got, want) / np.vdot(got, got)
    assert distance(factor * got, want) < 0.03


# --- modes


def three_modes():
    draw = np.random.default_rng(1)
    return np.stack(
        [a_probe(), 0.5 * a_probe() * smooth((N, N), 3, 2), 0.2 * a_probe() * draw.normal(size=(N, N))]
    )


def test_orthogonal_modes_are_orthogonal_and_keep_the_intensity():
    modes = three_modes()
    got = orthogonal_modes(modes)
    overlaps = np.einsum("kij,lij->kl", got.conj(), got)
    powers = np.diag(overlaps).real
    assert np.all(np.diff(powers) < 0)
    assert np.abs(overlaps - np.diag(powers)).max() < 1e-12 * powers[0]
    assert distance(np.sum(np.abs(got) ** 2, axis=0), np.sum(np.abs(modes) ** 2, axis=0)) < 1e-12


@pytest.mark.parametrize("mixed", [orthogonal_modes, lambda modes: np.tensordot(TURN, modes, axes=1)])
def test_the_image_does_not_depend_on_the_basis_of_the_modes(mixed):
    images = []
    for make in (np.asarray, mixed):
        plan = a_plan(a_scan(), n_probe_modes=3, refine_probe=True)
        modes = three_modes()
        plan.state.probe = make(modes * np.sqrt(plan.energy / np.sum(np.abs(modes) ** 2)))
        images.append(refined(plan)[1])
    assert distance(images[1].canvas, images[0].canvas) < 1e-12
    powers = [np.sum(np.abs(state.probe) ** 2, axis=0) for state in images]
    assert distance(powers[1], powers[0]) < 1e-12


TURN = np.linalg.qr(
    np.random.default_rng(3).normal(size=(3, 3)) + 1j * np.random.default_rng(4).normal(size=(3, 3))
)[0]


@pytest.mark.parametrize("refine_probe", [False, True])
def test_a_split_probe_is_one_probe(refine_probe):
    whole = a_plan(a_scan(), refine_probe=refine_probe)
    halves = a_plan(a_scan(), refine_probe=refine_probe, n_probe_modes=2)
    halves.state.probe = np.repeat(whole.state.probe, 2, axis=0) * np.sqrt(0.5)
    # modes that are made up have another centre, and refinement holds the one that the plan found
    halves = dataclasses.replace(halves, probe_centre_px=whole.probe_centre_px)
    assert distance(refined(halves)[1].canvas, refined(whole)[1].canvas) < 1e-12


# --- the probe


def test_a_fixed_probe_stays_to_the_bit():
    plan = a_plan(a_scan(), refine_probe=False)
    before = plan.state.probe.copy()
    np.testing.assert_array_equal(refined(plan)[1].probe, before)


def test_a_refined_probe_keeps_power_and_place():
    scan = a_scan()
    # a start that is wrong in shape and place
    scan = dataclasses.replace(
        scan, probe_guess=np.roll(a_probe(0.6), 1, axis=1).astype(np.complex64), probe_modes=None
    )
    plan = a_plan(scan, refine_probe=True, n_probe_modes=2, passes=8)
    image, state = refined(plan)
    mean_count = np.mean(
        np.sum(np.asarray(scan.diffraction_amplitude(np.arange(len(scan.xcoords)))) ** 2, axis=(1, 2))
    )
    assert np.sum(np.abs(state.probe) ** 2) == pytest.approx(mean_count, rel=1e-6)
    assert np.sum(np.abs(image.probe_modes) ** 2) == pytest.approx(mean_count, rel=1e-5)
    assert np.abs(centre_of_mass_px(state.probe) - plan.probe_centre_px).max() < 1e-3


# --- pixels and frames that do not count


@pytest.mark.parametrize("mark", [65535, 2**32 - 1, np.nan])
def test_masked_pixels_do_not_count(mark):
    scan = a_scan()
    valid = np.ones((N, N), bool)
    valid[N // 2 + 1 : N // 2 + 4, 5:25] = False
    valid[:, 3] = False
    images = []
    for value in (0.0, mark):
        patterns = np.asarray(scan.patterns, np.float64).copy()
        patterns[:, ~valid] = value
        one = dataclasses.replace(scan, patterns=patterns, valid_pixels=valid)
        images.append(refined(a_plan(one, refine_probe=True, refine_positions=True, positions_from=2))[0])
    assert np.isfinite(images[1].object).all()
    assert distance(images[1].object, images[0].object) < 1e-6


def test_empty_and_far_too_bright_frames_are_left_out(caplog):
    scan = a_scan()
    patterns = np.asarray(scan.patterns).copy()
    patterns[[4, 7]] = 0
    patterns[11] = 20 * patterns[11]
    spoilt = dataclasses.replace(scan, patterns=patterns)
    with caplog.at_level(logging.WARNING):
        image, _ = refined(a_plan(spoilt))
    used = np.setdiff1d(np.arange(36), [4, 7, 11])
    np.testing.assert_array_equal(image.positions_used, used)
    assert "2 frames are left out (empty): 4, 7" in caplog.text
    assert "1 frames are left out (more than 8 times as bright as most): 11" in caplog.text
    without = Scan(
        scan.xcoords[used],
        scan.ycoords[used],
        patterns[used],
        probe_guess=scan.probe_guess,
        measurement=scan.measurement,
    )
    assert distance(image.object, refined(a_plan(without))[0].object) < 1e-6


# --- symmetries


@pytest.mark.parametrize("twice_centre", [(80, 81), (81, 80)])
def test_a_symmetric_scan_gives_a_symmetric_object(twice_centre):
    """Positions, probe and object are unchanged by the half turn about a pixel or between two."""
    centre = np.array(twice_centre) / 2
    half = jittered_raster(16, 5.0, seed=2)
    axis = np.arange(82)
    x, y = axis - centre[0], axis[:, None] - centre[1]
    symmetric = np.exp(0.5j * np.cos(0.5 * x + 0.3 * y) + 0.4j * np.cos(0.2 * x - 0.6 * y))
    positions = np.round(np.concatenate([half, -half]) * 64) / 64 + centre
    scan = simulate_scan(symmetric, a_probe(0.0), positions, 1e5, poisson=False)
    image, _ = refined(a_plan(scan, batches=[1] * 5, smoothness=0.0))
    x, y = np.meshgrid(np.arange(15, 67), np.arange(15, 67))
    there = on_pixels(image, x, y)
    back = on_pixels(image, twice_centre[0] - x, twice_centre[1] - y)
    both = (there != 0) & (back != 0)
    assert both.sum() > 300
    assert distance(back[both], there[both]) < 1e-5


def turned(array):
    """A quarter turn about the pixel `N // 2`: `[y, x]` becomes `[-x, y]`."""
    return np.roll(np.rot90(array), 1, axis=-2)


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"smoothness": 0.0, "refine_probe": False}, 1e-6),
        # forward differences have a direction, and so has the first row of an even window
        ({"smoothness": 1.0, "refine_probe": True}, 5e-3),
    ],
)
def test_a_quarter_turn_of_everything_turns_the_image(settings, allowed):
    scan = a_scan(poisson=False)
    patterns = np.stack([turned(pattern) for pattern in np.asarray(scan.patterns)])
    other = dataclasses.replace(
        scan, xcoords=scan.ycoords, ycoords=-scan.xcoords, patterns=patterns, object_guess=None, object_mask=None,
        probe_guess=turned(scan.probe_modes[0]), probe_modes=None, xcoords_start=None, ycoords_start=None,
    )  # fmt: skip
    one, two = (refined(a_plan(each, batches=[1] * 4, **settings))[0] for each in (scan, other))
    x, y = np.meshgrid(np.arange(20, 52), np.arange(20, 52))
    here, there = on_pixels(one, x, y), on_pixels(two, y, -x)
    both = (here != 0) & (there != 0)
    assert both.sum() > 300
    assert distance(there[both], here[both]) < allowed


def test_the_scan_may_lie_anywhere():
    scan = a_scan()
    far = dataclasses.replace(
        scan, xcoords=scan.xcoords + 1000, ycoords=scan.ycoords + 1000, xcoords_start=None, ycoords_start=None,
        object_guess=None, object_mask=None,
    )  # fmt: skip
    settings = {"refine_probe": True, "refine_positions": True, "positions_from": 2}
    here, there = (refined(a_plan(each, **settings))[0] for each in (scan, far))
    assert distance(there.object, here.object) < 1e-6
    np.testing.assert_allclose(there.origin_px - here.origin_px, 1000, atol=1e-9)
    np.testing.assert_allclose(there.positions_px - here.positions_px, 1000, atol=1e-9)


def test_the_order_of_the_patterns_does_not_matter():
    """Batches follow from positions, so that only the rounding of sums depends on the order, if nothing is held out."""
    scan = a_scan()
    order = np.random.default_rng(5).permutation(len(scan.xcoords))
    other = Scan(
        scan.xcoords[order], scan.ycoords[order], np.asarray(scan.patterns)[order], probe_guess=scan.probe_guess,
        measurement=scan.measurement,
    )  # fmt: skip
    one, two = (refined(a_plan(each, refine_probe=True, passes=6))[1] for each in (scan, other))
    assert distance(two.canvas, one.canvas) < 1e-10


# --- positions


def test_positions_that_are_not_refined_come_back_as_they_were():
    scan = a_scan()
    plain = refined(a_plan(scan))[0]
    none_yet = refined(a_plan(scan, refine_positions=True, positions_from=5))[0]
    given = np.stack([scan.xcoords, scan.ycoords], axis=-1)
    for image in (plain, none_yet):
        np.testing.assert_array_equal(image.positions_px, given)
    x, y = np.meshgrid(np.arange(24, 48), np.arange(24, 48))
    # the margin for positions is another canvas, and slow phases are periodic on theirs
    assert distance(on_pixels(none_yet, x, y), on_pixels(plain, x, y)) < 1e-4


def test_positions_move_but_not_together():
    scan = a_scan()
    error = np.random.default_rng(6).normal(size=(2, len(scan.xcoords)))
    wrong = dataclasses.replace(
        scan,
        xcoords=scan.xcoords + error[0],
        ycoords=scan.ycoords + error[1],
        xcoords_start=None,
        ycoords_start=None,
    )
    image, _ = refined(a_plan(wrong, refine_positions=True, positions_from=2, passes=10))
    given = np.stack([wrong.xcoords, wrong.ycoords], axis=-1)
    true = np.stack([scan.xcoords, scan.ycoords], axis=-1)
    np.testing.assert_allclose(image.positions_px.mean(axis=0), given.mean(axis=0), atol=1e-9)

    def scatter(positions):
        offset = positions - true
        return np.sqrt(np.mean((offset - offset.mean(axis=0)) ** 2))

    assert scatter(image.positions_px) < 0.6 * scatter(given)


# --- artefacts


def test_a_raster_leaves_no_pattern_of_its_own():
    """Power of the error at the raster's frequencies, over the power around them."""
    step, side = 4, 80
    grid = np.arange(10) * step + side / 2 - 18.0
    positions = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    scan = a_scan(side=side, positions=positions, photons=1e4)
    image, _ = refined(a_plan(scan, refine_probe=True, passes=None))
    x, y = np.meshgrid(np.arange(24, 56), np.arange(24, 56))
    error = on_pixels(image, x, y) / an_object(side)[24:56, 24:56]
    window = np.hanning(32)[:, None] * np.hanning(32)
    power = np.abs(np.fft.fft2((error - error.mean()) * window)) ** 2
    bin_ = 32 // step
    around = np.ones((32, 32), bool)
    peaks = []
    for row, column in ((bin_, 0), (0, bin_), (-bin_, 0), (0, -bin_)):
        near = power[np.ix_(np.arange(row - 3, row + 4) % 32, np.arange(column - 3, column + 4) % 32)]
        around = np.ones((7, 7), bool)
        around[2:5, 2:5] = False
        peaks.append(near[3, 3] / near[around].mean())
    assert np.mean(peaks) < 3.0, peaks


@pytest.mark.parametrize(
    ("settings", "photons", "scale"),
    [
        ({"likelihood": "poisson"}, 3.0, 1.0),
        ({}, 3.0, 1.0),
        ({"n_probe_modes": 3}, 1e9, 1.0),
        ({}, 1e5, 1e6),
        ({"likelihood": "poisson", "smoothness": 100.0}, 1e5, 1.0),
    ],
)
def test_numbers_stay_finite(settings, photons, scale):
    scan = a_scan(photons=photons)
    scan = dataclasses.replace(scan, patterns=np.asarray(scan.patterns, np.float64) * scale)
    image, state = refined(
        a_plan(scan, refine_probe=True, refine_positions=True, positions_from=2, **settings)
    )
    for value in (image.object, image.coverage, state.canvas, state.probe, state.positions_px):
        assert np.isfinite(value).all()
    assert all(np.isfinite(row.error) for row in image.passes)
