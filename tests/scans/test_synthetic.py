"""Synthetic scans: the forward model, dose, positions, determinism, what `like` measures, errors, speed."""

import dataclasses
import pickle
import time

import numpy as np
import pytest
from scipy import stats

from ptycho_backends.errors import ScanError, ShapeError
from ptycho_backends.reference.physics import diffraction_amplitude, extract_patches
from ptycho_backends.scans.simulate import focused_probe, jittered_raster, simulate_star
from ptycho_backends.scans.statistics import mean_photons, median_step_px
from ptycho_backends.scans.synthetic import (
    ARRANGEMENTS,
    SyntheticScans,
    synthetic_positions,
    synthetic_scan,
)

N = 32
PROBE = focused_probe(N)
# a second mode as partial coherence gives it, weaker and bent otherwise
MODES = np.stack([PROBE, 0.4 * np.roll(PROBE, 3, axis=0) * np.exp(0.3j * np.arange(N))]).astype(np.complex64)


def drawn(seed=0):
    return np.random.default_rng(seed)


def expected_counts(scan):
    """What the reference predicts from the scan's own object, probe and positions, in double precision."""
    patches = extract_patches(scan.object_guess.astype(np.complex128), scan.scan_positions_px, scan.N)
    waves = scan.probe_modes.astype(np.complex128) * patches[:, None]
    return np.sum(diffraction_amplitude(waves) ** 2, axis=1)


# --- positions


@pytest.mark.parametrize("arrangement", [None, *ARRANGEMENTS])
@pytest.mark.parametrize("count", [2, 3, 50, 301])
def test_positions_have_their_step(arrangement, count):
    for seed in range(3):
        positions = synthetic_positions(count, 4.5, drawn(seed), arrangement=arrangement)
        assert positions.shape == (count, 2)
        assert median_step_px(positions) == pytest.approx(4.5)
        np.testing.assert_allclose(positions.mean(axis=0), 0, atol=1e-9)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_positions_cover_an_area_evenly(arrangement):
    for seed in range(10):
        positions = synthetic_positions(400, 1.0, drawn(seed), arrangement=arrangement)
        # each position has between the area of its circle and twice a square to itself
        assert 400 * 0.78 < np.prod(np.ptp(positions, axis=0)) < 400 * 2.2
        quarters = np.histogram2d(*positions.T, bins=2)[0]
        assert quarters.min() > 75


def test_jitter_of_zero_is_a_grid_and_more_is_not():
    raster = synthetic_positions(100, 2.0, drawn(), jitter=0.0, arrangement="raster")
    assert len(np.unique(raster[:, 0].round(6))) * len(np.unique(raster[:, 1].round(6))) < 125
    moved = synthetic_positions(100, 2.0, drawn(), jitter=0.3, arrangement="raster")
    assert len(np.unique(moved[:, 0].round(6))) == 100


# --- one scan


@pytest.mark.parametrize("probe", [PROBE, MODES], ids=["one mode", "two modes"])
def test_the_forward_model_is_that_of_the_reference(probe):
    scan = synthetic_scan(probe, synthetic_positions(40, 3.0, drawn()), 1e4, drawn(), poisson=False)
    want = expected_counts(scan)
    assert scan.patterns.dtype == np.float32
    assert np.abs(scan.patterns - want).max() < 1e-6 * want.max()
    assert len(scan.probe_modes) == probe.ndim - 1
    assert want.sum(axis=(1, 2)).mean() == pytest.approx(1e4, rel=1e-5)


def test_chunks_change_nothing(monkeypatch):
    positions = synthetic_positions(11, 3.0, drawn())
    whole = synthetic_scan(MODES, positions, 1e4, drawn())
    monkeypatch.setattr("ptycho_backends.scans.synthetic.CHUNK_PIXELS", 3 * N * N)
    np.testing.assert_array_equal(synthetic_scan(MODES, positions, 1e4, drawn()).patterns, whole.patterns)


def test_every_patch_lies_in_the_object_and_positions_move_as_a_whole():
    positions = np.array([[-300.0, 20.0], [-290.5, 25.25], [-280.0, 18.0]])
    for seed in range(20):
        scan = synthetic_scan(PROBE, positions, 1e4, drawn(seed))
        rows, columns = scan.object_guess.shape
        corner = scan.scan_positions_px - N / 2
        assert (corner >= 1).all()
        assert (corner + N + 1 < (columns, rows)).all()
        assert columns <= 20 + N + 5
        assert rows <= 8 + N + 5
        np.testing.assert_allclose(np.diff(scan.scan_positions_px, axis=0), np.diff(positions, axis=0))
        assert scan.object_mask is not None
        assert 0.05 < scan.object_mask.mean() < 1


def test_counts_follow_poisson_around_the_expectation():
    scan = synthetic_scan(MODES, synthetic_positions(60, 3.0, drawn()), 5e4, drawn())
    assert (scan.measurement, scan.patterns.dtype) == ("intensity", np.uint32)
    mean = expected_counts(scan)
    bright = mean > 5
    deviations = (scan.patterns[bright] - mean[bright]) / np.sqrt(mean[bright])
    assert abs(deviations.mean()) < 5 / np.sqrt(deviations.size)
    assert deviations.var() == pytest.approx(1.0, abs=0.05)
    assert stats.pearsonr(deviations[:-1], deviations[1:]).statistic == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("photons", [3.0, 1e3, 1e9])
def test_dose(photons):
    scan = synthetic_scan(PROBE, synthetic_positions(50, 3.0, drawn()), photons, drawn())
    assert scan.pattern_energies.mean() == pytest.approx(photons, rel=5 / np.sqrt(50 * photons))


# --- many scans


def test_scans_depend_on_seed_epoch_and_number_alone():
    scans = SyntheticScans(PROBE, (1e3, 1e5), (2.0, 5.0), patterns=12, seed=4)
    first = scans.scan(3, 5)
    # whatever was drawn before, and in another process
    again = pickle.loads(pickle.dumps(scans)).scan(3, 5)
    np.testing.assert_array_equal(first.patterns, again.patterns)
    np.testing.assert_array_equal(first.object_guess, again.object_guess)
    np.testing.assert_array_equal(first.scan_positions_px, again.scan_positions_px)
    for other in (scans.scan(5, 3), scans.scan(3, 6), dataclasses.replace(scans, seed=5).scan(3, 5)):
        assert not np.array_equal(other.patterns, first.patterns)
    assert first.name == "synthetic_3_5"


def test_photons_and_steps_are_drawn_within_their_ranges():
    scans = SyntheticScans(MODES, (1e3, 1e5), (2.0, 5.0), patterns=20)
    made = [scans.scan(0, number) for number in range(40)]
    steps = np.array([median_step_px(scan.scan_positions_px) for scan in made])
    doses = np.array([mean_photons(scan) for scan in made])
    for values, smallest, largest in ((steps, 2.0, 5.0), (doses, 1e3, 1e5)):
        assert values.min() > smallest * 0.97
        assert values.max() < largest * 1.03
        # log-uniform
        assert np.median(np.log(values)) == pytest.approx(np.log(smallest * largest) / 2, abs=0.8)
        assert values.max() > 1.5 * values.min()
    assert {len(scan) for scan in made} == {20}
    assert len({scan.object_guess.shape for scan in made}) > 10


def test_single_numbers_are_kept_to():
    scan = SyntheticScans(PROBE, 2e4, 3.5, patterns=30).scan(0, 0)
    assert median_step_px(scan.scan_positions_px) == pytest.approx(3.5)
    assert mean_photons(scan) == pytest.approx(2e4, rel=0.01)


def test_like_a_scan():
    real = simulate_star(64, 90, step_px=6.0, n_photons=3e4).with_probe(np.stack([focused_probe(64)] * 2))
    step = median_step_px(real.scan_positions_px)
    scans = SyntheticScans.like(real, patterns=25, seed=7)
    assert scans.photons == pytest.approx((mean_photons(real) / 2, mean_photons(real) * 2))
    assert scans.step_px == pytest.approx((step / 1.25, step * 1.25))
    assert (scans.patterns, scans.seed, scans.N) == (25, 7, 64)
    np.testing.assert_array_equal(scans.probe_modes, real.probe_modes)
    made = scans.scan(0, 0)
    assert len(made) == 25
    # the probe of a scan is the one given, but for its scale
    ratio = made.probe_modes / np.where(real.probe_modes == 0, 1, real.probe_modes)
    assert np.ptp(np.abs(ratio)) < 1e-4 * np.abs(ratio).max()
    assert SyntheticScans.like(real, photons=5.0, step_px=(1.0, 2.0)).photons == 5.0


def test_like_a_scan_with_invalid_pixels():
    valid = np.ones((64, 64), bool)
    valid[30:34, 31] = False
    real = dataclasses.replace(simulate_star(64, 30, n_photons=3e4), valid_pixels=valid)
    scans = SyntheticScans.like(real, patterns=60)
    assert scans.photons[0] == pytest.approx(1.5e4, rel=0.1)
    made = scans.scan(0, 0)
    np.testing.assert_array_equal(made.valid_pixels, valid)
    assert (made.diffraction_amplitude()[:, ~valid] == 0).all()


def test_a_step_as_wide_as_a_patch_is_as_far_as_it_goes():
    positions = jittered_raster(9, 60.0, 0.0)
    real = synthetic_scan(focused_probe(64), positions, 1e4, drawn())
    assert SyntheticScans.like(real).step_px == pytest.approx((48.0, 64.0))


# --- errors


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"photons": 0.0}, "photons: got 0.0, want a finite number > 0"),
        ({"photons": float("nan")}, "photons: got nan"),
        ({"photons": (2e4, 1e4)}, r"photons: got \(20000.0, 10000.0\)"),
        ({"photons": "many"}, "photons: got 'many'"),
        ({"step_px": -1.0}, r"step_px: got -1\.0"),
        ({"step_px": (2.0, 33.0)}, "step_px: got 33, want at most 32, the side of a patch"),
        ({"step_px": (1.0, 2.0, 3.0)}, "step_px: got"),
        ({"patterns": 1}, "patterns: got 1, want an integer >= 2"),
        ({"patterns": 9.5}, "patterns: got 9.5"),
        ({"seed": -1}, "seed: got -1"),
        ({"probe_modes": np.zeros((N, N))}, "without any light"),
        ({"probe_modes": np.ones((N, N + 1))}, r"probe_modes: got shape \(32, 33\), want \(N, N\)"),
        ({"probe_modes": np.ones((1, 2, N, N))}, r"or \(modes, N, N\)"),
        ({"probe_modes": np.ones((0, N, N))}, "no modes"),
    ],
)
def test_bad_settings_are_refused(changes, text):
    with pytest.raises((ScanError, ShapeError), match=text):
        SyntheticScans(**{"probe_modes": PROBE, "photons": 1e4, "step_px": 3.0, **changes})


def test_bad_arguments_are_refused():
    here = np.array([[0.0, 0.0], [3.0, 0.0]])
    with pytest.raises(ScanError, match="photons: got -5"):
        synthetic_scan(PROBE, here, -5, drawn())
    with pytest.raises(ShapeError, match=r"probe: got shape \(32,\)"):
        synthetic_scan(PROBE[0], here, 1e4, drawn())
    with pytest.raises(ScanError, match="without any light"):
        synthetic_scan(0 * PROBE, here, 1e4, drawn())
    with pytest.raises(ShapeError, match="positions_px"):
        synthetic_scan(PROBE, here[0], 1e4, drawn())
    with pytest.raises(ScanError, match="empty"):
        synthetic_scan(PROBE, here[:0], 1e4, drawn())
    with pytest.raises(ScanError, match="positions span"):
        synthetic_scan(PROBE, here * 1e5, 1e4, drawn())
    with pytest.raises(ScanError, match="kind: got 'star'"):
        synthetic_scan(PROBE, here, 1e4, drawn(), kind="star")  # type: ignore[arg-type]
    with pytest.raises(ScanError, match="count: got 1"):
        synthetic_positions(1, 3.0, drawn())
    with pytest.raises(ScanError, match="step_px: got 0"):
        synthetic_positions(9, 0, drawn())
    with pytest.raises(ScanError, match=r"jitter: got 0\.7"):
        synthetic_positions(9, 3.0, drawn(), jitter=0.7)
    with pytest.raises(ScanError, match="arrangement: got 'grid'"):
        synthetic_positions(9, 3.0, drawn(), arrangement="grid")  # type: ignore[arg-type]
    with pytest.raises(ScanError, match="epoch, number: got 0, -1"):
        SyntheticScans(PROBE, 1e4, 3.0).scan(0, -1)


def test_scans_that_say_too_little_to_be_imitated():
    star = simulate_star(64, 12)
    with pytest.raises(ScanError, match="simulated_star_64: has no probe"):
        SyntheticScans.like(dataclasses.replace(star, probe_guess=None))
    with pytest.raises(ScanError, match="positions: got 1"):
        SyntheticScans.like(synthetic_scan(PROBE, [[0.0, 0.0]], 1e4, drawn()))
    far = synthetic_scan(PROBE, jittered_raster(9, 40.0, 0.0), 1e4, drawn())
    with pytest.raises(ScanError, match="step_px: got 40"):
        SyntheticScans.like(far)


def test_speed():
    scans = SyntheticScans(focused_probe(64), 1e5, 8.0, patterns=150)
    started = time.process_time()
    for number in range(4):
        scans.scan(0, number)
    # 40 to 50 ms each on one core, most of it for the noise; the limit is for busy machines
    assert (time.process_time() - started) / 4 < 0.5
