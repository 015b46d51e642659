"""The simulator: the forward model it promises, its dose, its determinism, its errors."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from ptycho_backends.errors import ScanError, ShapeError
from ptycho_backends.scans import simulate


@pytest.fixture(scope="module")
def expected():
    """A scan without noise."""
    return simulate.simulate_star(64, 30, n_photons=2e4, poisson=False, measurement="amplitude")


def by_hand(scan, index):
    """Amplitude of one pattern, written out: bilinear patch from four shifted crops, unitary FFT."""
    N, image = scan.N, scan.object_guess.astype(np.complex128)
    x, y = scan.xcoords[index] - N // 2, scan.ycoords[index] - N // 2
    column, row = int(np.floor(x)), int(np.floor(y))
    fx, fy = x - column, y - row
    patch = sum(
        weight * image[row + dy : row + dy + N, column + dx : column + dx + N]
        for dy, dx, weight in [
            (0, 0, (1 - fy) * (1 - fx)),
            (0, 1, (1 - fy) * fx),
            (1, 0, fy * (1 - fx)),
            (1, 1, fy * fx),
        ]
    )
    return np.abs(np.fft.fftshift(np.fft.fft2(scan.probe_guess * patch, norm="ortho")))


def test_patterns_are_the_diffraction_of_probe_times_patch(expected):
    for index in (0, 7, 29):
        np.testing.assert_allclose(expected.patterns[index], by_hand(expected, index), rtol=0, atol=2e-4)


def test_intensities_of_modes_add_up():
    star, here = simulate.siemens_star(120), simulate.jittered_raster(6, 7.0) + 60
    modes = np.stack([simulate.focused_probe(64), 0.5 * simulate.focused_probe(64, radius_px=8)])
    together = simulate.simulate_scan(star, modes, here, 1e4, poisson=False)
    assert together.probe_modes.shape == (2, 64, 64)
    parts = [
        np.stack([by_hand(dataclasses.replace(together, probe_guess=mode), index) ** 2 for index in range(6)])
        for mode in together.probe_modes
    ]
    np.testing.assert_allclose(together.patterns, sum(parts), rtol=0, atol=1e-4)
    assert together.pattern_energies.mean() == pytest.approx(1e4, rel=1e-5)


def test_a_target_is_made_as_large_as_the_scan_needs():
    sizes = []

    def target(size):
        sizes.append(size)
        return simulate.siemens_star(size)

    scan = simulate.simulate_target(target, simulate.focused_probe(64), 30, step_px=5.0, seed=3, name="other")
    assert (scan.name, scan.object_guess.shape) == ("other", (sizes[0], sizes[0]))
    star = simulate.simulate_star(64, 30, step_px=5.0, seed=3)
    np.testing.assert_array_equal(scan.patterns, star.patterns)


def test_mean_counts_are_as_asked(expected):
    assert expected.pattern_energies.mean() == pytest.approx(2e4, rel=1e-5)
    noisy = simulate.simulate_star(64, 30, n_photons=2e4)
    # 30 patterns of 2e4 photons: the mean's standard deviation is 0.13 % of a pattern
    assert noisy.pattern_energies.mean() == pytest.approx(2e4, rel=0.005)


def test_counts_follow_poisson(expected):
    noisy = simulate.simulate_star(64, 30, n_photons=2e4, seed=5)
    assert noisy.patterns.dtype == np.uint32
    mean = expected.patterns.astype(np.float64) ** 2
    bright = mean > 5
    deviations = (noisy.patterns[bright] - mean[bright]) / np.sqrt(mean[bright])
    assert abs(deviations.mean()) < 5 / np.sqrt(deviations.size)
    assert deviations.var() == pytest.approx(1.0, abs=0.05)
    assert stats.pearsonr(deviations[:-1], deviations[1:]).statistic == pytest.approx(0, abs=0.05)


def test_amplitude_is_the_root_of_the_same_counts():
    counts = simulate.simulate_star(64, 5, seed=3)
    amplitude = simulate.simulate_star(64, 5, seed=3, measurement="amplitude")
    assert (counts.measurement, amplitude.measurement) == ("intensity", "amplitude")
    np.testing.assert_array_equal(np.rint(amplitude.patterns.astype(float) ** 2), counts.patterns)


@pytest.mark.parametrize("pattern", ["spiral", "raster"])
def test_same_seed_same_scan(pattern, monkeypatch):
    first = simulate.simulate_star(64, 20, pattern=pattern, seed=1)
    monkeypatch.setattr(simulate, "CHUNK", 7)
    again = simulate.simulate_star(64, 20, pattern=pattern, seed=1)
    other = simulate.simulate_star(64, 20, pattern=pattern, seed=2)
    np.testing.assert_array_equal(first.patterns, again.patterns)
    np.testing.assert_array_equal(first.scan_positions_px, again.scan_positions_px)
    assert not np.array_equal(first.patterns, other.patterns)


def test_target_keeps_its_range_and_is_band_limited():
    target = simulate.siemens_star(226)
    assert np.abs(target).min() >= 0.75 - 1e-6
    assert np.abs(target).max() <= 1.0
    assert 0.8 < np.ptp(np.angle(target)) < 1.1
    spectrum = np.abs(np.fft.fftshift(np.fft.fft2(target - target.mean()))) ** 2
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftshift(np.fft.fftfreq(226))] * 2))
    assert spectrum[frequency > 0.4].sum() < 1e-3 * spectrum.sum()


@pytest.mark.parametrize("N", [64, 128])
def test_probe_is_curved_and_lies_where_the_network_predicts(N):
    probe = simulate.focused_probe(N)
    intensity = np.abs(probe) ** 2
    assert intensity.sum() == pytest.approx(1.0, rel=1e-5)
    inner = slice(N // 4, 3 * N // 4)
    assert intensity[inner, inner].sum() > 0.98
    centre = (intensity.sum(axis=0) * np.arange(N)).sum()
    assert centre == pytest.approx(N // 2, abs=0.1)
    # a curved wavefront: the phase changes across the bright disk
    assert np.ptp(np.unwrap(np.angle(probe[N // 2, N // 2 : N // 2 + N // 8]))) > 0.5


@pytest.mark.parametrize("positions", [simulate.fermat_spiral(400, 7.0), simulate.jittered_raster(400, 7.0)])
def test_positions_are_even_centred_and_off_any_grid(positions):
    assert positions.shape == (400, 2)
    assert np.abs(positions.mean(axis=0)).max() < 2.0
    area = np.ptp(positions[:, 0]) * np.ptp(positions[:, 1])
    assert 400 * 49 * 0.8 < area < 400 * 49 * 1.6
    assert len(np.unique(np.round(positions % 1.0, 2), axis=0)) > 300


def test_mask_holds_what_was_lit(expected):
    mask = expected.object_mask
    assert mask[expected.ycoords.astype(int), expected.xcoords.astype(int)].all()
    assert not mask[0].any()
    assert not mask[:, -1].any()
    assert 0.1 < mask.mean() < 0.9


def test_mask_where_positions_lie_on_the_rim():
    mask = simulate.lit_pixels((32, 40), np.ones((8, 8), np.complex64), np.array([[0.0, 0.0], [40.0, 32.0]]))
    want = np.zeros((32, 40), bool)
    want[:4, :4] = want[-4:, -4:] = True
    np.testing.assert_array_equal(mask, want)


def test_bad_arguments_are_refused():
    star, probe, here = simulate.siemens_star(96), simulate.focused_probe(64), [[48.0, 48.0]]
    with pytest.raises(ScanError, match=r"1 positions lie outside the object of 96 x 96.*x=200\.0"):
        simulate.simulate_scan(star, probe, [*here, [200.0, 3.0]])
    with pytest.raises(ScanError, match="empty"):
        simulate.simulate_scan(star, probe, np.empty((0, 2)))
    with pytest.raises(ScanError, match="no light"):
        simulate.simulate_scan(np.zeros_like(star), probe, here)
    with pytest.raises(ScanError, match="n_photons: got -1"):
        simulate.simulate_scan(star, probe, here, n_photons=-1)
    with pytest.raises(ScanError, match="measurement: got 'counts'"):
        simulate.simulate_scan(star, probe, here, measurement="counts")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="positions_px"):
        simulate.simulate_scan(star, probe, [1.0, 2.0])
    with pytest.raises(ScanError, match="positions: got 0"):
        simulate.simulate_star(64, 0)
    with pytest.raises(ScanError, match="step_px: got -1"):
        simulate.simulate_star(64, 9, step_px=-1)
    with pytest.raises(ScanError, match="pattern: got 'grid'"):
        simulate.simulate_star(64, 9, pattern="grid")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="radius_px"):
        simulate.focused_probe(64, radius_px=40)
    with pytest.raises(ValueError, match="spokes"):
        simulate.siemens_star(64, spokes=0)
