"""Valid pixels: found in the patterns, given by files and callers, left out of every measured number."""

import logging

import numpy as np
import pytest

from ptycho_backends.errors import ScanError, ShapeError
from ptycho_backends.reference.probe import normalise_probe
from ptycho_backends.scans.grouping import group_scan
from ptycho_backends.scans.merging import merge_groups
from ptycho_backends.scans.npz import save_scan
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_files import load_mask, load_scan, open_patterns
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.scans.statistics import holds_counts, mean_photons
from ptycho_backends.scans.training_data import save_training_hdf5
from ptycho_backends.scans.valid_pixels import BAD_NAMES, EITHER_NAMES, GOOD_NAMES

M, N = 20, 16
PIXEL = (3, 5)
PLACES = np.random.default_rng(1).uniform(0, 30, (2, M))


def counts(dtype=np.uint16):
    return np.random.default_rng(0).integers(0, 200, (M, N, N)).astype(dtype)


def spoilt(value, dtype, frames=slice(None)):
    patterns = counts(dtype)
    patterns[frames, *PIXEL] = value
    return patterns


def scan_of(patterns, **settings):
    return Scan(*PLACES, patterns, **{"measurement": "intensity", **settings})


def only(pixel=PIXEL):
    valid = np.ones((N, N), bool)
    valid[pixel] = False
    return valid


FOUND = {
    "NaN in one frame": (np.nan, np.float32, 7, "NaN or infinite"),
    "infinite": (np.inf, np.float64, slice(2, 4), "NaN or infinite"),
    "minus infinite": (-np.inf, np.float32, 0, "NaN or infinite"),
    "largest uint16": (65535, np.uint16, 3, "65535, the largest value of uint16"),
    "largest uint32": (2**32 - 1, np.uint32, slice(None), "4294967295, the largest value of uint32"),
    "largest int32": (2**31 - 1, np.int32, slice(None), "2147483647, the largest value of int32"),
    "largest uint64": (
        2**64 - 1,
        np.uint64,
        slice(None),
        "18446744073709551615, the largest value of uint64",
    ),
    "constant and far too bright": (5000, np.uint32, slice(None), "which no count could have"),
    "a counter's largest value in floats": (65535.0, np.float32, slice(None), "which no count could have"),
    "-1 in every frame": (-1, np.int32, slice(None), "the same negative value in every frame"),
    "-2 in floats": (-2.0, np.float32, slice(None), "the same negative value in every frame"),
}


@pytest.mark.parametrize("case", FOUND)
@pytest.mark.parametrize("from_file", [False, True])
def test_unusable_pixels_are_found_and_stated_once(case, from_file, tmp_path, caplog):
    value, dtype, frames, reason = FOUND[case]
    patterns = spoilt(value, dtype, frames)
    if from_file:
        np.save(tmp_path / "a.npy", patterns)
        patterns = open_patterns(tmp_path / "a.npy")
    scan = scan_of(patterns)
    np.testing.assert_array_equal(scan.valid_pixels, only())
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"1 of {N * N} detector pixels take no part (1: " in line
    assert reason in line
    assert np.isfinite(scan.diffraction_amplitude()).all()
    clean = counts(np.float64) * only()
    np.testing.assert_array_equal(scan.pattern_energies, clean.sum(axis=(1, 2)))
    np.testing.assert_allclose(scan.pattern_maxima, np.sqrt(clean.max(axis=(1, 2))))
    assert holds_counts(scan)


def test_nothing_is_found_in_good_patterns(caplog):
    dead = counts()
    dead[:, 0] = 0
    for patterns in (counts(), counts(np.float32), dead, counts()[:3] * 0 + 7):
        scan = Scan(*PLACES[:, : len(patterns)], patterns, measurement="intensity")
        assert scan.valid_pixels is None
    assert "take no part" not in caplog.text


def test_amplitudes_are_looked_at_as_roots():
    patterns = np.sqrt(counts(np.float32))
    patterns[:, *PIXEL] = np.sqrt(np.float32(65535))
    np.testing.assert_array_equal(scan_of(patterns, measurement="amplitude").valid_pixels, only())


def test_few_frames_show_no_constant():
    """A pixel of five frames may be constant by chance."""
    assert Scan(*PLACES[:, :5], spoilt(5000, np.uint32)[:5], measurement="intensity").valid_pixels is None


def test_too_many_are_an_error_of_the_file():
    patterns = counts(np.float32)
    patterns[3, :8] = np.nan
    patterns[5, 8:] = np.nan
    with pytest.raises(ScanError, match=r"256 of 256 detector pixels are invalid \(256: NaN or infinite\)"):
        scan_of(patterns)
    with pytest.raises(ScanError, match="pattern 3 holds NaN or infinite values nearly everywhere"):
        scan_of(np.where(np.arange(M)[:, None, None] == 3, np.nan, counts()))
    with pytest.raises(ScanError, match=r"240 of 256 detector pixels are invalid \(the mask\)"):
        scan_of(counts(), valid_pixels=np.arange(N)[:, None] * np.ones((1, N)) == 4)


def test_negative_counts_at_valid_pixels_are_refused():
    patterns = spoilt(-1, np.int32)
    patterns[4, 1, 1] = -1
    with pytest.raises(ScanError, match="pattern 4 holds negative values"):
        scan_of(patterns)
    # at a pixel that the mask leaves out they do not matter
    assert scan_of(patterns, valid_pixels=only((1, 1))).valid_pixels.sum() == N * N - 2


@pytest.mark.parametrize("name", [*GOOD_NAMES, *BAD_NAMES, *EITHER_NAMES])
@pytest.mark.parametrize("mapped", [False, True])
def test_masks_of_files(name, mapped, tmp_path, caplog):
    valid = only()
    readings = [valid] if name in GOOD_NAMES else [~valid] if name in BAD_NAMES else [valid, ~valid]
    for mask in readings:
        for stored in (mask, mask.astype(np.uint8), mask[None].astype(float)):
            np.savez(
                tmp_path / "a.npz", xcoords=PLACES[0], ycoords=PLACES[1], diff3d=counts(), **{name: stored}
            )
            with caplog.at_level(logging.INFO):
                scan = load_scan(tmp_path / "a.npz", mapped=mapped)
            np.testing.assert_array_equal(scan.valid_pixels, valid)
    assert ("is taken for a valid pixel, as most pixels are" in caplog.text) == (name in EITHER_NAMES)
    assert caplog.text.count("1 of 256 detector pixels take no part, by the mask") == 3 * len(readings)


def test_several_masks_all_count(tmp_path):
    np.savez(
        tmp_path / "a.npz", xcoords=PLACES[0], ycoords=PLACES[1], diff3d=spoilt(65535, np.uint16, 4),
        bad_pixels=~only((0, 1)), mask=only((0, 2)),
    )  # fmt: skip
    given = only((0, 3))
    want = only() & only((0, 1)) & only((0, 2)) & given
    np.testing.assert_array_equal(load_scan(tmp_path / "a.npz", valid_pixels=given).valid_pixels, want)
    np.save(tmp_path / "mask.npy", given.astype(np.int8))
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.npy"), given)


def test_masks_that_do_not_fit(tmp_path, caplog):
    for name, value in (("bad_pixels", np.zeros((N, 3))), ("valid_pixels", np.full((N, N), "x"))):
        np.savez(tmp_path / "a.npz", xcoords=PLACES[0], ycoords=PLACES[1], diff3d=counts(), **{name: value})
        with pytest.raises(ShapeError, match=rf"a\.npz: {name}: got "):
            load_scan(tmp_path / "a.npz")
    # of an object, perhaps
    np.savez(
        tmp_path / "a.npz", xcoords=PLACES[0], ycoords=PLACES[1], diff3d=counts(), mask=np.ones((40, 50))
    )
    assert load_scan(tmp_path / "a.npz").valid_pixels is None
    assert "mask: of shape (40, 50), so no mask of the detector; left out" in caplog.text
    with pytest.raises(ShapeError, match="one mask for the whole scan"):
        scan_of(counts(), valid_pixels=np.ones((M, N, N), bool))
    np.save(tmp_path / "mask.npy", np.ones(5))
    with pytest.raises(ShapeError, match=r"mask\.npy: got shape \(5,\), want a mask"):
        load_mask(tmp_path / "mask.npy")
    with pytest.raises(ScanError, match=r"absent\.npy: cannot be read"):
        load_mask(tmp_path / "absent.npy")


def test_there_and_back(tmp_path):
    star = simulate_star(64, 20, measurement="intensity")
    for name, value in (("pixel_size_m", 1e-8), ("photon_energy_eV", 1e4), ("detector_distance_m", 1.0)):
        object.__setattr__(star, name, value)
    valid = np.ones((64, 64), bool)
    valid[30:34, 20:24] = False
    object.__setattr__(star, "valid_pixels", valid)
    for path in (save_scan(star, tmp_path / "a.npz"), save_training_hdf5(star, tmp_path / "a.h5")):
        again = load_scan(path)
        np.testing.assert_array_equal(again.valid_pixels, valid)
        np.testing.assert_allclose(again.pattern_energies, star.pattern_energies, rtol=1e-6)


def test_marked_pixels_of_ptychodus_are_not_clipped(tmp_path, caplog):
    patterns = spoilt(-1, np.int32)
    patterns[2, 0, 0] = -3
    np.savez(
        tmp_path / "a.npz", xcoords=PLACES[0], ycoords=PLACES[1], diff3d=patterns, measurement="intensity"
    )
    for mapped in (False, True):
        scan = load_scan(tmp_path / "a.npz", mapped=mapped, clip_negative=True)
        np.testing.assert_array_equal(scan.valid_pixels, only())
        assert scan.diffraction_amplitude().min() == 0
    assert caplog.text.count("1 negative counts are set to 0") == 2


# --- numbers


def star(valid=None, **settings):
    scan = simulate_star(64, 24, n_photons=1e5, seed=2, poisson=False, **settings)
    if valid is not None:
        object.__setattr__(scan, "valid_pixels", valid)
    return scan


def beam_stop():
    valid = np.ones((64, 64), bool)
    valid[28:37, 28:37] = False
    return valid


def test_photons_and_normalisation_are_those_of_whole_patterns():
    whole, masked = star(), star(beam_stop())
    measured = masked.pattern_energies.mean() / whole.pattern_energies.mean()
    assert measured < 0.9
    # an object spreads the light, so the probe's own fraction is only nearly right
    assert mean_photons(masked) / mean_photons(whole) == pytest.approx(measured / masked.lit_fraction)
    assert abs(mean_photons(masked) / mean_photons(whole) - 1) < 0.5 * (1 - measured)
    groups = group_scan(masked, gridsize=1, sequential_sampling=True)
    energy = np.mean(np.sum(groups.batch().diffraction_amplitude.astype(float) ** 2, axis=(1, 2)))
    assert energy == pytest.approx(32**2 * masked.lit_fraction, rel=1e-5)


def test_batches_carry_the_mask():
    groups = group_scan(star(beam_stop()), gridsize=2, n_groups=5, seed=1)
    assert groups.is_masked
    batch = groups.batch(np.array([3, 0]))
    assert batch.valid_pixels.shape == (2, 64, 64)
    assert (batch.valid_pixels == beam_stop()).all()
    assert (batch.diffraction_amplitude[:, ~beam_stop()] == 0).all()
    plain = group_scan(star(), gridsize=2, n_groups=5, seed=1)
    assert not plain.is_masked
    assert plain.batch().valid_pixels is None


def test_merged_scans_keep_a_mask_each():
    parts = [group_scan(scan, gridsize=1, sequential_sampling=True) for scan in (star(), star(beam_stop()))]
    groups = merge_groups(parts)
    assert groups.probe_count == 1
    batch = groups.batch(np.array([0, 24, 47]))
    assert batch.probe_index is None
    np.testing.assert_array_equal(batch.valid_pixels[0], np.ones((64, 64), bool))
    np.testing.assert_array_equal(batch.valid_pixels[1:], np.stack([beam_stop()] * 2))
    alone = parts[1].batch(np.array([0])).diffraction_amplitude / parts[1].normalisation
    np.testing.assert_allclose(batch.diffraction_amplitude[1:2] / groups.normalisation, alone, rtol=1e-6)
    energies = np.concatenate([part.scan.pattern_energies / part.scan.lit_fraction for part in parts])
    assert groups.normalisation == pytest.approx(np.sqrt(32**2 / energies.mean()))


def test_merged_scans_keep_a_probe_each():
    one, other = star(), star()
    other = other.with_probe(np.roll(other.probe_guess, 7, axis=0))
    turned = star().with_probe(3j * one.probe_guess)
    parts = [group_scan(scan, gridsize=1) for scan in (one, other, turned)]
    groups = merge_groups(parts)
    assert groups.probe_count == 3
    np.testing.assert_array_equal(groups.batch(np.array([0, 25, 60])).probe_index, [0, 1, 2])
    assert merge_groups([parts[0], parts[2]]).probe_count == 1
    # the same main mode, but not the same illumination
    several = star().with_probe(np.stack([one.probe_guess, 0.8 * np.roll(one.probe_guess, 9, axis=1)]))
    assert merge_groups([parts[0], group_scan(several, gridsize=1)]).probe_count == 2


def test_a_copy_with_another_guess_has_its_modes():
    import dataclasses

    scan = star().with_probe(np.stack([star().probe_guess, 0.5 * np.roll(star().probe_guess, 4, axis=1)]))
    assert len(dataclasses.replace(scan, name="copy").probe_modes) == 2
    other = dataclasses.replace(scan, probe_guess=normalise_probe(scan.probe_modes[1], 4.0))
    np.testing.assert_array_equal(other.probe_modes, other.probe_guess[None])


@pytest.mark.parametrize("side", [16, 18, 48])
def test_any_even_side(side):
    rng = np.random.default_rng(0)
    scan = Scan(
        *PLACES, rng.integers(0, 50, (M, side, side)), probe_guess=rng.normal(size=(2, side, side)),
        valid_pixels=rng.random((side, side)) > 0.1,
    )  # fmt: skip
    assert 0.5 < scan.lit_fraction < 1
    assert group_scan(scan, gridsize=2).batch().valid_pixels.shape == (M, side, side)
