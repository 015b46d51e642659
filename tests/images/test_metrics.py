"""The metrics, each against a disturbance of known size."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ptycho_backends.errors import ScanError
from ptycho_backends.images.metrics import Metrics, align, compare
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.simulate import siemens_star
from ptycho_backends.values import Reconstruction

SIDE = 160
MARGIN = 20


def scan_of(object_guess, **changes):
    return Scan(
        xcoords=[80.0],
        ycoords=[80.0],
        patterns=np.ones((1, 64, 64), np.float32),
        object_guess=object_guess,
        **changes,
    )


@pytest.fixture(scope="module")
def truth():
    return siemens_star(SIDE)


def seen(truth, shift_px=(0.0, 0.0), origin_px=(MARGIN, MARGIN), side=SIDE - 2 * MARGIN):
    """A reconstruction of `truth` whose content lies `shift_px` [x, y] beside where it claims to lie."""
    rows, columns = np.meshgrid(
        np.arange(side) + origin_px[1] - shift_px[1],
        np.arange(side) + origin_px[0] - shift_px[0],
        indexing="ij",
    )
    image = ndimage.map_coordinates(truth.astype(np.complex128), (rows, columns), order=3)
    return reconstruction_of(image, origin_px)


def reconstruction_of(image, origin_px=(MARGIN, MARGIN), coverage=None):
    return Reconstruction(
        object=image.astype(np.complex64),
        coverage=np.ones(image.shape, np.float32) if coverage is None else coverage,
        origin_px=np.array(origin_px, np.float64),
        group_centres_px=np.zeros((1, 2)),
    )


def test_the_truth_itself_is_perfect(truth):
    got = compare(seen(truth), scan_of(truth))
    assert got.complex_correlation == pytest.approx(1, abs=1e-6)
    assert got.phase_correlation == pytest.approx(1, abs=1e-6)
    assert got.phase_error_rad < 1e-5
    assert got.amplitude_psnr_db > 100
    assert got.phase_psnr_db > 100
    assert got.amplitude_ssim == pytest.approx(1, abs=1e-6)
    assert got.phase_ssim == pytest.approx(1, abs=1e-6)
    assert got.shift_px == (0.0, 0.0)
    assert got.pixels == (SIDE - 2 * MARGIN - 28) ** 2


@given(modulus=st.floats(0.01, 100), phase=st.floats(-math.pi, math.pi))
@settings(max_examples=10, deadline=None)
def test_one_complex_factor_is_removed_and_told(modulus, phase):
    truth = siemens_star(SIDE)
    factor = modulus * np.exp(1j * phase)
    disturbed = seen(truth)
    disturbed = reconstruction_of(disturbed.object / factor)
    # the truth is turned to zero mean phase, so compare with an undisturbed one
    reference = compare(seen(truth), scan_of(truth))
    got = compare(disturbed, scan_of(truth))
    assert got.complex_correlation == pytest.approx(1, abs=1e-5)
    assert got.phase_error_rad < 1e-3
    assert abs(got.factor / reference.factor / factor - 1) < 1e-4


@given(x=st.floats(-2.5, 2.5), y=st.floats(-2.5, 2.5))
@settings(max_examples=8, deadline=None)
def test_a_small_shift_is_removed_and_told(x, y):
    truth = siemens_star(SIDE)
    got = compare(seen(truth, shift_px=(x, y)), scan_of(truth))
    assert got.shift_px == pytest.approx((-x, -y), abs=0.03)
    assert got.phase_correlation > 0.998


def test_origin_places_the_canvas_at_fractions_of_a_pixel(truth):
    got = compare(seen(truth, origin_px=(20.37, 18.81)), scan_of(truth))
    assert got.shift_px == pytest.approx((0, 0), abs=0.011)
    assert got.complex_correlation > 0.99999


def test_a_large_shift_stays_in_the_figures(truth, caplog):
    got = compare(seen(truth, shift_px=(6.0, 0.0)), scan_of(truth))
    assert got.shift_px == (0.0, 0.0)
    assert "is not removed" in caplog.text
    assert got.phase_correlation < 0.7


def test_phase_noise_of_known_size(truth):
    sigma = 0.1
    noise = np.random.default_rng(0).normal(0, sigma, (SIDE, SIDE))
    got = compare(seen_noisy(truth, np.exp(1j * noise)), scan_of(truth))
    inner = np.angle(truth)[34:-34, 34:-34]
    assert got.phase_error_rad == pytest.approx(sigma * math.sqrt(2 / math.pi), rel=0.03)
    assert got.phase_correlation == pytest.approx(inner.std() / math.hypot(inner.std(), sigma), abs=0.01)
    assert got.phase_psnr_db == pytest.approx(20 * math.log10(np.ptp(inner) / sigma), abs=0.3)
    assert got.amplitude_psnr_db > 30
    assert got.phase_ssim < 0.9 < got.amplitude_ssim


def test_amplitude_noise_of_known_size(truth):
    sigma = 0.05
    noise = np.random.default_rng(0).normal(0, sigma, (SIDE, SIDE))
    disturbed = reconstruction_of(
        ((np.abs(truth) + noise) * np.exp(1j * np.angle(truth)))[MARGIN:-MARGIN, MARGIN:-MARGIN]
    )
    got = compare(disturbed, scan_of(truth))
    inner = np.abs(truth)[34:-34, 34:-34]
    assert got.amplitude_psnr_db == pytest.approx(20 * math.log10(np.ptp(inner) / sigma), abs=0.3)
    assert got.complex_correlation == pytest.approx(1 / math.sqrt(1 + sigma**2 / np.mean(inner**2)), abs=5e-4)
    assert got.phase_error_rad < 1e-5


def seen_noisy(truth, noise):
    return reconstruction_of((truth * noise)[MARGIN:-MARGIN, MARGIN:-MARGIN])


def test_nothing_in_common_correlates_with_nothing(truth):
    generator = np.random.default_rng(1)
    noise = generator.normal(size=(120, 120)) + 1j * generator.normal(size=(120, 120))
    got = compare(reconstruction_of(noise), scan_of(truth))
    assert got.complex_correlation < 0.1
    assert abs(got.phase_correlation) < 0.1
    # two phases that know nothing of each other differ by pi/2 on average
    assert got.phase_error_rad == pytest.approx(math.pi / 2, abs=0.05)


def test_only_lit_pixels_count(truth):
    mask = np.zeros(truth.shape, bool)
    mask[60:100, 60:100] = True
    disturbed = np.where(mask, truth, 5j)
    got = compare(
        reconstruction_of(disturbed[MARGIN:-MARGIN, MARGIN:-MARGIN]), scan_of(truth, object_mask=mask)
    )
    assert got.pixels == 1600
    assert got.phase_error_rad < 1e-5


def test_only_covered_pixels_count_and_holes_do_not_eat_their_surroundings(truth):
    image = truth[MARGIN:-MARGIN, MARGIN:-MARGIN].copy()
    coverage = np.zeros(image.shape, np.float32)
    coverage[10:110, 10:110] = 3
    coverage[60, 60] = 0
    image[coverage == 0] = 0
    got = compare(reconstruction_of(image, coverage=coverage), scan_of(truth), trim_px=5)
    assert got.pixels == 90 * 90 - 1
    assert got.trim_px == 5
    assert got.complex_correlation == pytest.approx(1, abs=1e-6)


def test_alignment_shows_what_was_compared(truth):
    disturbed = seen(truth, shift_px=(0.6, -0.4))
    disturbed = reconstruction_of(disturbed.object * 0.5j)
    aligned = align(disturbed, scan_of(truth))
    inside = aligned.region
    assert aligned.reconstruction.shape == aligned.truth.shape == inside.shape
    assert np.abs(aligned.reconstruction - aligned.truth)[inside].mean() < 0.01
    assert np.angle(aligned.truth[inside].sum()) == pytest.approx(0, abs=0.1)


def test_a_flat_object_has_no_phase_correlation():
    flat = np.ones((SIDE, SIDE), np.complex64)
    got = compare(reconstruction_of(flat[MARGIN:-MARGIN, MARGIN:-MARGIN]), scan_of(flat))
    assert got.complex_correlation == pytest.approx(1)
    assert math.isnan(got.phase_correlation)
    assert got.as_dict()["phase_correlation"] is None
    assert got.shift_px == (0.0, 0.0)


def test_json_and_table(truth):
    got = compare(seen(truth, shift_px=(1.0, 0.0)), scan_of(truth))
    values = json.loads(json.dumps(got.as_dict(), allow_nan=False))
    assert values["shift_px"] == pytest.approx([-1.0, 0.0], abs=0.03)
    assert values["factor_amplitude"] == pytest.approx(abs(got.factor))
    assert isinstance(got, Metrics)
    for word in ("complex correlation", "phase correlation", "PSNR, SSIM", "registration", "trimmed"):
        assert word in str(got)
    assert list(values)[:6] == [
        "phase_correlation_ramp_removed", "blank_phase_correlation",
        "phase_error_rad_ramp_removed", "blank_phase_error_rad",
        "amplitude_ssim_ramp_removed", "blank_amplitude_ssim",
    ]  # fmt: skip
    assert list(values)[-1] == "complex_correlation"
    assert str(got).splitlines()[0].startswith("phase correlation, ramp removed")


def ramped(image, ramp):
    rows, columns = np.indices(image.shape)
    return image * np.exp(1j * (ramp[0] * columns + ramp[1] * rows))


@given(x=st.floats(-0.2, 0.2), y=st.floats(-0.2, 0.2))
@settings(max_examples=8, deadline=None)
def test_a_ramp_is_removed_in_its_own_figures_only(x, y):
    truth = siemens_star(SIDE)
    straight = compare(seen(truth), scan_of(truth))
    got = compare(reconstruction_of(ramped(seen(truth).object, (x, y))), scan_of(truth))
    assert got.ramp_rad_per_px == pytest.approx((x, y), abs=1e-5)
    assert got.phase_correlation_ramp_removed == pytest.approx(1, abs=1e-5)
    assert got.phase_error_rad_ramp_removed < 1e-3
    assert got.amplitude_ssim_ramp_removed == pytest.approx(1, abs=1e-4)
    assert got.phase_ssim_ramp_removed == pytest.approx(1, abs=1e-4)
    if math.hypot(x, y) > 0.02:
        assert got.phase_correlation < 0.9
    assert straight.phase_correlation == pytest.approx(1, abs=1e-6)


def test_a_shifted_image_with_a_steep_ramp_is_registered_without_it(truth):
    shifted = seen(truth, shift_px=(1.3, -0.7))
    got = compare(reconstruction_of(ramped(shifted.object, (0.3, -0.2))), scan_of(truth))
    want = compare(shifted, scan_of(truth))
    assert want.phase_correlation_ramp_removed > 0.998
    assert got.phase_correlation_ramp_removed == pytest.approx(want.phase_correlation_ramp_removed, abs=1e-3)


def test_a_ramp_of_the_reference_does_not_count_as_agreement(truth):
    noise = np.random.default_rng(2).normal(0, 0.3, truth.shape)
    other = np.exp(1j * noise)
    level = compare(seen_noisy(other, 1.0), scan_of(truth))
    tilted = compare(seen_noisy(ramped(other, (0.01, 0.02)), 1.0), scan_of(ramped(truth, (0.01, 0.02))))
    # both images have the same ramp: as they are, they correlate by it alone
    assert tilted.phase_correlation > 0.6
    assert tilted.phase_correlation_ramp_removed == pytest.approx(
        level.phase_correlation_ramp_removed, abs=0.01
    )
    assert abs(tilted.phase_correlation_ramp_removed) < 0.1
    assert tilted.blank_phase_error_rad == pytest.approx(level.blank_phase_error_rad, abs=1e-3)


@pytest.mark.parametrize("contrast", [0.5, 1.0, 1.2])
def test_the_contrast_is_the_slope_of_the_phase_without_its_ramp(truth, contrast):
    flatter = np.abs(truth) * np.exp(1j * contrast * np.angle(truth))
    got = compare(reconstruction_of(ramped(seen(flatter).object, (0.05, -0.02))), scan_of(truth))
    assert got.phase_contrast == pytest.approx(contrast, rel=0.01)
    assert got.phase_correlation_ramp_removed > 0.99


def test_noise_lowers_the_correlation_but_not_the_contrast(truth):
    noise = np.random.default_rng(3).normal(0, 0.2, truth.shape)
    got = compare(seen_noisy(truth, np.exp(1j * noise)), scan_of(truth))
    assert got.phase_correlation_ramp_removed < 0.95
    assert got.phase_contrast == pytest.approx(1, abs=0.03)


def test_a_blank_image_has_the_figures_of_a_blank_image(truth):
    got = compare(seen_noisy(np.ones_like(truth), 1.0), scan_of(truth))
    assert got.blank_phase_correlation == 0.0
    assert got.phase_error_rad_ramp_removed == pytest.approx(got.blank_phase_error_rad, rel=0.02)
    assert got.amplitude_ssim_ramp_removed == pytest.approx(got.blank_amplitude_ssim, abs=0.01)
    assert got.phase_ssim_ramp_removed == pytest.approx(got.blank_phase_ssim, abs=0.02)
    inner = np.angle(truth)[34:-34, 34:-34]
    assert got.blank_phase_error_rad == pytest.approx(np.abs(inner - inner.mean()).mean(), rel=0.05)
    # the same for a good image: they depend on the reference alone
    good = compare(seen(truth), scan_of(truth))
    assert good.blank_phase_error_rad == pytest.approx(got.blank_phase_error_rad)
    # an image of ones passes for good by this figure
    assert got.complex_correlation > 0.9


def test_alignment_without_a_ramp_lies_beside(truth):
    aligned = align(reconstruction_of(ramped(seen(truth).object, (0.05, 0.0))), scan_of(truth))
    level = aligned.ramp_removed
    inside = level.region
    assert level.ramp_removed is None
    assert np.abs(level.reconstruction - level.truth)[inside].max() < 0.01
    assert np.abs(aligned.reconstruction - aligned.truth)[inside].mean() > 0.3


def test_without_a_known_object():
    scan = Scan(xcoords=[1.0], ycoords=[1.0], patterns=np.ones((1, 64, 64), np.float32))
    with pytest.raises(ScanError, match="no objectGuess"):
        compare(reconstruction_of(np.ones((50, 50))), scan)


def test_too_little_overlap(truth):
    with pytest.raises(ScanError, match=r"only 0 pixels .* trimming 14 px"):
        compare(seen(truth, origin_px=(500, 500)), scan_of(truth))
    with pytest.raises(ScanError, match="only 4 pixels"):
        compare(reconstruction_of(truth[:30, :30]), scan_of(truth))
    with pytest.raises(ScanError, match="zero wherever"):
        compare(reconstruction_of(np.zeros((120, 120))), scan_of(truth))
