import numpy as np
import pytest

from ptycho_backends.errors import ScanError, ShapeError
from ptycho_backends.reference import probe


@pytest.mark.parametrize("N", [64, 128, 256])
def test_circular_mask_is_centred_between_the_middle_pixels(N):
    mask = probe.circular_mask(N)
    assert mask.shape == (N, N)
    np.testing.assert_array_equal(mask, mask[::-1, ::-1])
    np.testing.assert_array_equal(mask, mask.T)
    assert mask.sum() == pytest.approx(np.pi * (N // 4) ** 2, rel=0.02)
    assert mask[N // 2, N // 2 + N // 4 - 1] == 1
    assert mask[N // 2, N // 2 + N // 4] == 0


def test_normalised_probe_has_the_stated_mean():
    generator = np.random.default_rng(0)
    guess = generator.normal(size=(64, 64)) + 1j * generator.normal(size=(64, 64))
    normal = probe.normalise_probe(guess, 4.0)
    assert normal.dtype == np.complex64
    mean = np.mean(np.abs(probe.circular_mask(64) * normal))
    assert mean == pytest.approx(1 / 4, rel=1e-6)
    # outside the mask the probe is scaled too, not cut
    np.testing.assert_allclose(normal / guess, (normal / guess)[0, 0], rtol=1e-5)


def test_normalisation_forgets_the_scale_of_the_guess():
    guess = probe.default_probe(64)
    np.testing.assert_allclose(
        probe.normalise_probe(guess * 1e6, 4.0), probe.normalise_probe(guess, 4.0), rtol=1e-6
    )


def test_default_probe_is_a_smooth_disk():
    disk = probe.default_probe(64)
    assert disk.dtype == np.complex64
    assert disk.real.max() == pytest.approx(1.0, abs=1e-3)
    assert disk.real.min() == pytest.approx(1e-9, rel=1e-2)
    # half maximum of the window lies at sd * sqrt(2 ln 2), sd = N / (0.7 pi^2)
    radius = 64 / (0.7 * np.pi**2) * np.sqrt(2 * np.log(2))
    assert disk.real.sum() == pytest.approx(np.pi * radius**2, rel=0.05)
    np.testing.assert_allclose(disk, disk[::-1], atol=1e-6)


def test_intensity_scale():
    assert probe.intensity_scale(1e6, 64) == pytest.approx(31.25)


def test_dark_probe_is_refused():
    with pytest.raises(ScanError, match="zero within 16 pixels"):
        probe.normalise_probe(np.zeros((64, 64)), 4.0)


def test_probe_of_the_wrong_rank_is_refused():
    with pytest.raises(ShapeError, match="probeGuess"):
        probe.normalise_probe(np.ones((1, 1, 64, 64)), 4.0)


def test_a_probe_loses_its_ramp():
    N = 32
    axis = np.arange(N) - (N - 1) / 2
    smooth = np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / 50).astype(np.complex64)
    ramp = np.exp(1j * (0.6 * axis[:, None] - 1.1 * axis[None, :])).astype(np.complex64)
    levelled = probe.without_phase_ramp(smooth * ramp)
    np.testing.assert_allclose(levelled, smooth, atol=1e-4)
    np.testing.assert_allclose(probe.without_phase_ramp(levelled), levelled, atol=1e-4)
