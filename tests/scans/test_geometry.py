"""Units, axes, frames and centre: a scan spoilt in one way comes back by the option that undoes it."""

import dataclasses

import numpy as np
import pytest

from ptycho_backends import Scan, load_scan, save_scan
from ptycho_backends.errors import ConfigError, ScanError, ShapeError
from ptycho_backends.scans.geometry import ScanOptions, scan_from_raw, with_options
from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.simulate import simulate_star

ENERGY, DISTANCE, DETECTOR = 8800.0, 1.9, 55e-6


@pytest.fixture(scope="module")
def scan():
    return simulate_star(64, 30, n_photons=1e5, seed=3)


def spoilt(scan, **changes):
    return dataclasses.replace(scan, **changes)


@pytest.mark.parametrize("unit", ["m", "um", "nm"])
def test_lengths(unit, scan, tmp_path):
    pixel = 1.239841984e-6 / ENERGY * DISTANCE / (64 * DETECTOR)
    scale = pixel / {"m": 1, "um": 1e-6, "nm": 1e-9}[unit]
    path = save_scan(
        spoilt(
            scan,
            xcoords=scan.xcoords * scale,
            ycoords=scan.ycoords * scale,
            object_guess=None,
            object_mask=None,
        ),
        tmp_path / "scan.npz",
    )
    options = ScanOptions(
        positions_unit=unit, energy_eV=ENERGY, distance_m=DISTANCE, detector_pixel_m=DETECTOR
    )
    got = load_scan(path, options=options)
    np.testing.assert_allclose(got.scan_positions_px, scan.scan_positions_px, rtol=1e-9)
    assert got.pixel_size_m == pytest.approx(pixel, rel=1e-12)
    assert any("object pixel" in note for note in got.notes)
    given = load_scan(path, options=ScanOptions(positions_unit=unit, pixel_size_m=pixel))
    np.testing.assert_allclose(given.scan_positions_px, scan.scan_positions_px, rtol=1e-9)
    with pytest.raises(ScanError, match=r"scan\.npz: positions: in .*--energy and --distance"):
        load_scan(path, options=ScanOptions(positions_unit=unit, detector_pixel_m=DETECTOR))


def test_metres_taken_for_pixels_are_refused(scan, tmp_path):
    metres = spoilt(
        scan, xcoords=scan.xcoords * 1e-8, ycoords=scan.ycoords * 1e-8, object_guess=None, object_mask=None
    )
    path = save_scan(metres, tmp_path / "scan.npz")
    with pytest.raises(ScanError, match=r"another unit.*--positions-unit m.*--energy"):
        load_scan(path)


def test_axes_of_positions(scan):
    swapped = spoilt(scan, xcoords=scan.ycoords, ycoords=scan.xcoords)
    back = with_options(swapped, ScanOptions(swap_xy=True))
    np.testing.assert_array_equal(back.scan_positions_px, scan.scan_positions_px)
    for axis, name in enumerate(("xcoords", "ycoords")):
        values = getattr(scan, name)
        flipped = spoilt(scan, **{name: values.min() + values.max() - values})
        back = with_options(flipped, ScanOptions(**{f"flip_{'xy'[axis]}": True}))
        np.testing.assert_allclose(back.scan_positions_px, scan.scan_positions_px, atol=1e-9)


def test_anchor_and_shift(scan):
    corner = spoilt(
        scan,
        xcoords=scan.xcoords - 32,
        ycoords=scan.ycoords - 32,
        patterns=np.fft.ifftshift(scan.patterns, axes=(1, 2)),
    )
    back = with_options(corner, ScanOptions(anchor="corner", shift=True))
    np.testing.assert_array_equal(back.scan_positions_px, scan.scan_positions_px)
    np.testing.assert_array_equal(back.patterns, scan.patterns)


def test_transposed_patterns(scan):
    turned = spoilt(scan, patterns=np.swapaxes(scan.patterns, 1, 2))
    np.testing.assert_array_equal(with_options(turned, ScanOptions(transpose=True)).patterns, scan.patterns)


def predicted(scan, number):
    """Counts that probe and object predict for a pattern."""
    x, y = np.rint(scan.scan_positions_px[number]).astype(int)
    half = scan.N // 2
    patch = scan.object_guess[y - half : y + half, x - half : x + half]
    far = np.fft.fftshift(np.fft.fft2(scan.probe_guess * patch, norm="ortho"))
    return np.abs(far) ** 2


def whole_positions(scan):
    even = 2 * np.rint(scan.scan_positions_px / 2)
    return spoilt(scan, xcoords=even[:, 0], ycoords=even[:, 1])


@pytest.mark.parametrize(
    ("options", "side", "growth"),
    [
        (ScanOptions(bin=2), 32, 1.0),
        (ScanOptions(size=32), 32, 2.0),
        (ScanOptions(size=128), 128, 0.5),
        (ScanOptions(size=24, bin=2), 24, 64 / 48),
    ],
)
def test_probe_object_and_pixel_follow_the_patterns(options, side, growth, scan):
    known = spoilt(whole_positions(scan), pixel_size_m=10e-9)
    patterns = np.stack([predicted(known, number) for number in range(len(known))])
    known = spoilt(known, patterns=patterns, measurement="intensity")
    got = with_options(known, options)
    assert side == got.N
    assert got.pixel_size_m == pytest.approx(10e-9 * growth)
    np.testing.assert_allclose(got.scan_positions_px * growth, known.scan_positions_px)
    window = side * options.bin
    low = abs(64 - window) // 2
    if window <= 64:
        inner = patterns[:, low : low + window, low : low + window]
        binned = inner.reshape(-1, side, options.bin, side, options.bin).sum(axis=(2, 4))
        np.testing.assert_allclose(got.patterns, binned, rtol=1e-5, atol=1e-3)
    if options.size != 24:  # positions at whole pixels
        errors = [
            np.abs(np.sqrt(predicted(got, number)) - np.sqrt(np.asarray(got.patterns[number]))).sum()
            / np.sqrt(np.asarray(got.patterns[number])).sum()
            for number in (3, 11)
        ]
        assert max(errors) < 0.15, errors


def test_padded_pixels_take_no_part(scan):
    got = with_options(scan, ScanOptions(size=80))
    assert got.valid_pixels.sum() == 64 * 64
    np.testing.assert_array_equal(got.patterns[:, 8:72, 8:72], scan.patterns)
    assert got.pattern_energies == pytest.approx(scan.pattern_energies)
    wide = with_options(scan, ScanOptions(size=128))
    assert wide.valid_pixels is None
    assert any("zeros around" in note for note in wide.notes)


def test_centre_of_mass(scan):
    moved = np.roll(np.pad(np.asarray(scan.patterns), ((0, 0), (16, 16), (16, 16))), (5, -7), axis=(1, 2))
    raw = spoilt(scan, patterns=moved, probe_guess=None, probe_modes=None)
    got = with_options(raw, ScanOptions(size=64, centre="auto"))
    offset = centre_of(scan.patterns) - 32  # the star's own centre of mass is not in the middle
    np.testing.assert_allclose(centre_of(got.patterns), [32, 32], atol=1)
    exact = with_options(raw, ScanOptions(size=64, centre=(53, 41)))
    np.testing.assert_array_equal(exact.patterns, scan.patterns)
    assert np.abs(offset).max() < 5


def centre_of(patterns):
    mean = np.asarray(patterns, float).mean(axis=0)
    return np.array([(part * mean).sum() / mean.sum() for part in np.indices(mean.shape)])


def test_rectangular_detector_with_dead_pixels(tmp_path):
    counts = np.random.default_rng(0).poisson(3.0, (20, 48, 70)).astype(np.uint16)
    counts[:, 20, 30] = 2**16 - 1
    background = np.full((48, 70), 2.0)
    raw = RawScan(
        format="test", name="rect", patterns=counts, positions=np.random.default_rng(1).uniform(0, 90, (20, 2)),
        positions_unit="px",
    )  # fmt: skip
    got = scan_from_raw(raw, ScanOptions(size=24, bin=2, background=background, threshold=1.0))
    assert got.N == 24
    assert not got.valid_pixels[(20 - 0) // 2, (30 - 11) // 2]
    assert got.valid_pixels.sum() == 24 * 24 - 1
    assert got.patterns.max() < 100
    np.save(tmp_path / "dark.npy", background)
    again = scan_from_raw(
        raw, ScanOptions(size=24, bin=2, background=str(tmp_path / "dark.npy"), threshold=1.0)
    )
    np.testing.assert_array_equal(again.patterns, got.patterns)
    with pytest.raises(ShapeError, match=r"background: got shape \(3, 3\)"):
        scan_from_raw(raw, ScanOptions(size=24, background=np.ones((3, 3))))
    with pytest.raises(ShapeError, match="square ones; --size N"):
        scan_from_raw(raw)


def test_mapped_frames_are_made_as_they_are_read(scan, tmp_path):
    path = save_scan(scan, tmp_path / "scan.npz", compressed=False)
    options = ScanOptions(size=48, bin=2, background=1.5)
    whole, mapped = (load_scan(path, mapped=mapped, options=options) for mapped in (False, True))
    assert not isinstance(mapped.patterns, np.ndarray)
    np.testing.assert_array_equal(np.asarray(mapped.patterns), whole.patterns)
    np.testing.assert_array_equal(mapped.patterns[[7, 2]], whole.patterns[[7, 2]])


def test_amplitudes_are_summed_as_counts(scan):
    roots = spoilt(scan, patterns=np.sqrt(np.asarray(scan.patterns)), measurement="amplitude")
    got = with_options(roots, ScanOptions(bin=4))
    assert got.measurement == "amplitude"
    assert got.pattern_energies == pytest.approx(scan.pattern_energies, rel=1e-5)


def test_whole_numbers_in_floating_point_are_counts(scan, caplog):
    values = np.asarray(scan.patterns, np.float32)
    x, y = scan.xcoords, scan.ycoords
    with caplog.at_level("INFO", logger="ptycho_backends"):
        assert Scan(x, y, values).measurement == "intensity"
    assert "whole numbers in floating point" in caplog.text
    assert "measurement='amplitude' overrules" in caplog.text
    assert Scan(x, y, values, measurement="amplitude").measurement == "amplitude"
    assert Scan(x, y, np.sqrt(values)).measurement == "amplitude"


def test_wrong_options_are_named_together():
    with pytest.raises(ConfigError) as error:
        ScanOptions(
            positions_unit="furlong", energy_eV=-1, bin=0, size=63, centre="middle", anchor="left",
            detector_pixel_m=0, datasets={"pattern": "x"},
        )  # fmt: skip
    for word in (
        "positions_unit",
        "energy_eV",
        "bin",
        "size",
        "centre",
        "anchor",
        "detector_pixel_m",
        "pattern",
    ):
        assert word in str(error.value)
