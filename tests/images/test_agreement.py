"""R-factor and chi-square: against the formulas, pixel by pixel, and against photon noise."""

import dataclasses

import numpy as np
import pytest

from ptycho_backends.errors import ScanError
from ptycho_backends.images.agreement import pattern_agreement
from ptycho_backends.images.results import load_reconstruction, save_reconstruction
from ptycho_backends.reference.physics import extract_patches
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.simulate import focused_probe, siemens_star
from ptycho_backends.values import Reconstruction

N, PHOTONS = 32, 3e6


@pytest.fixture(scope="module")
def truth():
    return siemens_star(120)


def modes(count=2):
    first = focused_probe(N)
    second = np.roll(first, 3, axis=1) * np.linspace(-1, 1, N)
    powers = np.sqrt(PHOTONS * np.array([0.9, 0.1]))
    stack = np.stack([first, second / np.linalg.norm(second)]) * powers[:, None, None]
    return stack[:count].astype(np.complex64)


def predicted(truth, positions, probe):
    patches = extract_patches(truth, positions, N)
    far = np.fft.fft2(probe[:, None] * patches, norm="ortho")
    return np.fft.fftshift((np.abs(far) ** 2).sum(axis=0), axes=(-2, -1))


def case(truth, count=70, noisy=True, **changes):
    """A scan on whole pixels, and the image that predicts it."""
    generator = np.random.default_rng(0)
    positions = generator.integers(30, 90, (count, 2)).astype(float)
    probe = modes()
    counts = predicted(truth, positions, probe)
    counts = generator.poisson(counts) if noisy else counts
    scan = Scan(
        *positions.T,
        patterns=counts.astype(np.uint32) if noisy else counts.astype(np.float32),
        measurement="intensity",
        **changes,
    )
    image = Reconstruction(
        truth[4:116, 6:118], np.ones((112, 112), np.float32), np.array([6.0, 4.0]), positions,
        probe_modes=probe, positions_px=positions, positions_used=np.arange(count),
    )  # fmt: skip
    return scan, image


def test_without_noise_nothing_is_left(truth):
    found = pattern_agreement(*reversed(case(truth, noisy=False)))
    assert found.r_factor < 1e-4
    assert found.chi_square < 1e-2


def test_photon_noise_alone_gives_its_own_variance(truth):
    scan, image = case(truth)
    found = pattern_agreement(image, scan)
    expected = predicted(truth, image.positions_px, image.probe_modes)
    # Poisson's variance is the expected count; pixels that expect less than one are divided by one
    assert found.chi_square == pytest.approx(np.minimum(expected, 1).mean(), rel=0.03)
    assert found.chi_square > 0.7
    measured = np.sqrt(scan.patterns.astype(float))
    differences = np.abs(measured - np.sqrt(expected))
    assert found.r_factor == pytest.approx(differences.sum() / measured.sum(), rel=1e-4)
    by_position = differences.sum(axis=(1, 2)) / measured.sum(axis=(1, 2))
    np.testing.assert_allclose(found.r_factor_by_position, by_position, rtol=1e-3)
    assert found.as_dict()["worst_position"] == np.argmax(by_position)


def test_a_wrong_image_is_noticed_and_so_is_a_wrong_position(truth):
    scan, image = case(truth)
    right = pattern_agreement(image, scan)
    blank = pattern_agreement(dataclasses.replace(image, object=np.ones_like(image.object)), scan)
    assert blank.r_factor > 2 * right.r_factor
    assert blank.chi_square > 20 * right.chi_square
    moved = image.positions_px.copy()
    moved[33] += 4
    found = pattern_agreement(dataclasses.replace(image, positions_px=moved), scan)
    assert found.as_dict()["worst_position"] == 33


def test_fractions_of_pixels_are_bilinear(truth):
    scan, image = case(truth)
    whole = pattern_agreement(image, scan)
    shifted = dataclasses.replace(
        image, origin_px=image.origin_px + 0.5, positions_px=image.positions_px + 0.5
    )
    assert pattern_agreement(shifted, scan).r_factor == pytest.approx(whole.r_factor, rel=1e-6)
    half = dataclasses.replace(image, positions_px=image.positions_px + 0.5)
    assert pattern_agreement(half, scan).r_factor > 1.5 * whole.r_factor


def test_invalid_pixels_do_not_count(truth):
    scan, image = case(truth)
    patterns = scan.patterns.copy()
    patterns[:, 16, 16] += 500000
    bad = dataclasses.replace(scan, patterns=patterns)
    valid = np.ones((N, N), bool)
    valid[16, 16] = False
    masked = dataclasses.replace(scan, patterns=patterns, valid_pixels=valid)
    right = pattern_agreement(image, scan)
    assert pattern_agreement(image, bad).chi_square > 10
    assert pattern_agreement(image, masked).chi_square == pytest.approx(right.chi_square, rel=0.01)


def test_only_used_positions_are_compared_and_few_are_read_at_once(truth, monkeypatch):
    scan, image = case(truth, count=150)
    read = []
    original = Scan.diffraction_amplitude
    monkeypatch.setattr(
        Scan, "diffraction_amplitude", lambda self, which: read.append(which) or original(self, which)
    )
    used = np.arange(1, 150, 2)
    part = dataclasses.replace(image, positions_px=image.positions_px[used], positions_used=used)
    found = pattern_agreement(part, scan)
    np.testing.assert_array_equal(np.concatenate(read), used)
    assert max(map(len, read)) <= 64
    np.testing.assert_array_equal(found.positions_used, used)
    monkeypatch.undo()
    everything = pattern_agreement(image, scan)
    np.testing.assert_allclose(found.r_factor_by_position, everything.r_factor_by_position[used], rtol=1e-5)


def test_the_dim_rim_outside_the_image_is_filled(truth):
    scan, image = case(truth)
    whole = pattern_agreement(image, scan)
    coverage = np.zeros_like(image.coverage)
    coverage[14:98, 14:98] = 1
    cut = dataclasses.replace(image, object=np.where(coverage > 0, image.object, 0), coverage=coverage)
    assert pattern_agreement(cut, scan).r_factor < 1.1 * whole.r_factor


def test_it_survives_a_file(truth, tmp_path):
    scan, image = case(truth)
    again = load_reconstruction(save_reconstruction(image, tmp_path / "x.npz"))
    assert pattern_agreement(again, scan).chi_square == pattern_agreement(image, scan).chi_square


def test_errors_explain_the_cure(truth):
    scan, image = case(truth)
    with pytest.raises(ScanError, match=r"no probe modes.*refine it first"):
        pattern_agreement(dataclasses.replace(image, probe_modes=None), scan)
    with pytest.raises(ScanError, match=r"probe modes of \(16, 16\) pixels, want \(32, 32\)"):
        pattern_agreement(dataclasses.replace(image, probe_modes=image.probe_modes[:, ::2, ::2]), scan)
    with pytest.raises(ScanError, match="beyond the canvas"):
        pattern_agreement(dataclasses.replace(image, origin_px=image.origin_px + 60), scan)
    with pytest.raises(ScanError, match="used position 70, but the scan has only 70"):
        pattern_agreement(dataclasses.replace(image, positions_used=np.arange(1, 71)), scan)
