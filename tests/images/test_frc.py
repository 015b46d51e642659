"""Fourier ring correlation: of signals with a known cut-off, and of halves of a scan."""

import dataclasses

import numpy as np
import pytest

from ptycho_backends import load_scan
from ptycho_backends.errors import ScanError, ShapeError
from ptycho_backends.images.frc import (
    fourier_ring_correlation,
    half_bit_curve,
    half_scans,
    ring_correlation_of_halves,
)
from ptycho_backends.scans.npz import save_scan
from ptycho_backends.scans.simulate import siemens_star, simulate_star
from ptycho_backends.values import Reconstruction

SHAPE = (180, 200)


def noise(seed):
    generator = np.random.default_rng(seed)
    return generator.normal(size=SHAPE) + 1j * generator.normal(size=SHAPE)


def band_limited(cutoff):
    frequency = np.hypot(np.fft.fftfreq(SHAPE[0])[:, None], np.fft.fftfreq(SHAPE[1]))
    return 4 + np.fft.ifft2(np.fft.fft2(noise(0)) * (frequency < cutoff))


@pytest.mark.parametrize("cutoff", [0.1, 0.25, 0.4])
def test_the_crossing_is_where_the_signal_ends(cutoff):
    signal = band_limited(cutoff)
    found = fourier_ring_correlation(signal + 0.2 * noise(1), signal + 0.2 * noise(2))
    assert found.crossing == pytest.approx(cutoff, abs=0.02)
    assert found.resolution_px == pytest.approx(1 / cutoff, rel=0.15)
    assert (found.correlation[found.frequency < cutoff - 0.02] > 0.9).all()
    assert (np.abs(found.correlation[found.frequency > cutoff + 0.02]) < 0.4).all()


def test_white_noise_has_the_correlation_of_its_signal_to_noise_ratio():
    signal = band_limited(1.0)
    found = fourier_ring_correlation(signal + 0.5 * noise(1), signal + 0.5 * noise(2))
    outer = found.correlation[found.frequency > 0.1]
    assert outer.mean() == pytest.approx(1 / (1 + 0.25), abs=0.02)


def test_images_with_nothing_in_common_have_no_resolution():
    found = fourier_ring_correlation(noise(1), noise(2))
    assert np.abs(found.correlation.mean()) < 0.05
    # a chance crossing of the first, tiny rings is all there may be
    assert found.resolution_px is None or found.resolution_px > 20


def test_equal_images_resolve_every_pixel():
    found = fourier_ring_correlation(noise(1), 3j * noise(1), pixel_size_m=1e-8)
    np.testing.assert_allclose(found.correlation, 1)
    assert found.resolution_px == 2.0
    assert found.resolution_m == 2e-8
    assert "or finer" in str(found)
    assert "20 nm" in str(found)


def test_phase_ramp_and_factor_between_the_halves_change_nothing():
    signal = band_limited(0.25)
    a, b = signal + 0.2 * noise(1), signal + 0.2 * noise(2)
    rows, columns = np.indices(SHAPE)
    straight = fourier_ring_correlation(a, b)
    turned = fourier_ring_correlation(a, 2 * b * np.exp(1j * (0.7 + 0.04 * columns - 0.015 * rows)))
    np.testing.assert_allclose(turned.correlation, straight.correlation, atol=1e-3)


def test_half_bit_curve_of_van_heel_and_schatz():
    # their limit for many coefficients, and 1 for a single one
    assert half_bit_curve(np.array([1e12, 1.0, 0.1])) == pytest.approx([0.1716, 1.0, 1.0], abs=1e-4)
    frequency = fourier_ring_correlation(noise(1), noise(1))
    assert (np.diff(frequency.half_bit[5:]) < 0.01).all()


def test_halves_on_other_canvases_are_brought_together():
    truth = siemens_star(160)

    def image(first, origin):
        size = 160 - 2 * first
        part = truth[first : first + size, first : first + size]
        return Reconstruction(part, np.ones(part.shape, np.float32), np.array(origin), np.zeros((1, 2)))

    found = ring_correlation_of_halves(image(10, (10.0, 10.0)), image(14, (14.0, 14.0)))
    np.testing.assert_allclose(found.correlation, 1, atol=1e-4)
    wrong = ring_correlation_of_halves(image(10, (10.0, 10.0)), image(14, (19.0, 14.0)))
    assert wrong.correlation[20:].max() < 0.6
    with pytest.raises(ScanError, match="do not overlap"):
        ring_correlation_of_halves(image(10, (0.0, 0.0)), image(10, (900.0, 0.0)))


def test_bad_images_are_refused():
    with pytest.raises(ShapeError, match="shapes"):
        fourier_ring_correlation(np.ones((20, 20)), np.ones((20, 21)))
    region = np.zeros(SHAPE, bool)
    region[10:15, 10:90] = True
    with pytest.raises(ScanError, match="wide, want at least"):
        fourier_ring_correlation(noise(1), noise(2), region)


def test_halves_share_nothing_and_both_cover_the_field():
    scan = simulate_star(64, 121, pattern="raster")
    halves = half_scans(scan, seed=3)
    numbers = [half.scan_index for half in halves]
    assert sorted(np.concatenate(numbers).tolist()) == list(range(121))
    assert abs(len(halves[0]) - len(halves[1])) <= 1
    for half in halves:
        np.testing.assert_array_equal(half.patterns, scan.patterns[half.scan_index])
        np.testing.assert_array_equal(half.scan_positions_px, scan.scan_positions_px[half.scan_index])
        # no position of the scan is further than two steps from one of each half
        apart = (
            np.abs(scan.scan_positions_px[:, None] - half.scan_positions_px[None]).max(axis=-1).min(axis=1)
        )
        step = np.sqrt(np.ptp(scan.xcoords) * np.ptp(scan.ycoords) / len(scan))
        assert apart.max() < 3 * step
    again = half_scans(scan, seed=3)
    assert [half.scan_index.tolist() for half in again] == [index.tolist() for index in numbers]
    assert half_scans(scan, seed=4)[0].scan_index.tolist() != numbers[0].tolist()
    with pytest.raises(ScanError, match="5 positions, want at least 8"):
        half_scans(dataclasses.replace(scan, **{
            name: getattr(scan, name)[:5]
            for name in ("xcoords", "ycoords", "xcoords_start", "ycoords_start", "patterns", "scan_index")
        }))  # fmt: skip


def test_halves_of_a_scan_in_a_file_stay_there(tmp_path):
    scan = simulate_star(64, 40)
    mapped = load_scan(save_scan(scan, tmp_path / "scan.npz", compressed=False), mapped=True)
    for ours, whole in zip(half_scans(mapped), half_scans(scan), strict=True):
        assert not isinstance(ours.patterns, np.ndarray)
        np.testing.assert_array_equal(ours.diffraction_amplitude([0, 5]), whole.diffraction_amplitude([0, 5]))
