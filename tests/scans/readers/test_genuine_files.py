"""Files that other programs wrote, in ../shared: PtyPy, cdtools, PtyLab, tike, against the known positions."""

import os
from pathlib import Path

import numpy as np
import pytest

from ptycho_backends import load_scan
from ptycho_backends.scans.geometry import ScanOptions

SHARED = Path(os.environ.get("PTYCHO_SHARED", Path(__file__).parents[4] / "shared"))
READERS = SHARED / "readers"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not READERS.is_dir(), reason=f"{READERS} with files of other programs is absent"),
]


@pytest.fixture(scope="module")
def star():
    with np.load(SHARED / "data" / "siemens_star_64.npz") as file:
        return {name: file[name][:160] for name in ("xcoords", "ycoords", "diff3d")}


@pytest.mark.parametrize("name", ["cdtools_star.cxi", "ptylab_star.hdf5"])
@pytest.mark.parametrize("mapped", [False, True])
def test_star(name, mapped, star):
    scan = load_scan(READERS / name, mapped=mapped)
    offset = scan.scan_positions_px - np.stack([star["xcoords"], star["ycoords"]], axis=-1)
    assert np.abs(offset - offset.mean(axis=0)).max() < 1e-3
    counts = (
        star["diff3d"] if (star["diff3d"] == np.rint(star["diff3d"])).all() else np.rint(star["diff3d"] ** 2)
    )
    np.testing.assert_array_equal(np.asarray(scan.patterns), counts)
    assert scan.measurement == "intensity"
    assert scan.pixel_size_m == pytest.approx(10e-9, rel=1e-6)
    mean = np.asarray(scan.patterns).mean(axis=0)
    middle = [(part * mean).sum() / mean.sum() for part in np.indices(mean.shape)]
    np.testing.assert_allclose(middle, [32, 32], atol=4)  # the zero frequency


def test_ptypy_data():
    scan = load_scan(READERS / "moonflower.ptyd")
    assert (len(scan), scan.N, scan.measurement) == (92, 64, "intensity")
    assert scan.pixel_size_m == pytest.approx(1.12474557e-07, rel=1e-6)  # as PtyPy computed it
    assert scan.photon_energy_eV == pytest.approx(7200)
    assert any("row, column" in note for note in scan.notes)


def test_ptypy_reconstruction_with_its_data():
    scan = load_scan(READERS / "moonflower.ptyr")
    assert scan.object_guess.shape == (198, 204)
    # the probe and the object that PtyPy found predict the measured counts, at these positions and not beside them
    errors = [_misfit(scan, shift) for shift in ((0, 0), (4, 0), (0, 4))]
    assert errors[0] < 0.3
    assert errors[0] < 0.85 * min(errors[1:])


def _misfit(scan, shift):
    total = measured = 0.0
    for number in range(0, len(scan), 9):
        x, y = np.rint(scan.scan_positions_px[number]).astype(int) + shift
        patch = scan.object_guess[y - 32 : y + 32, x - 32 : x + 32]
        if patch.shape != (64, 64):
            continue
        far = np.abs(np.fft.fftshift(np.fft.fft2(scan.probe_guess * patch, norm="ortho")))
        amplitude = scan.diffraction_amplitude(number)
        far *= (amplitude * far).sum() / (far**2).sum()
        total += float(((amplitude - far) ** 2).sum())
        measured += float((amplitude**2).sum())
    return total / measured


def test_tike_as_downloaded():
    scan = load_scan(SHARED / "data" / "siemens-star-small.npz.bz2")
    assert scan.name == "siemens-star-small"
    with np.load(SHARED / "data" / "siemens_star_128.npz") as file:
        known = np.stack([file["xcoords"], file["ycoords"]], axis=-1)
        counts = file["diff3d"][:5]
    offset = scan.scan_positions_px - known
    assert np.abs(offset - offset.mean(axis=0)).max() < 1e-3
    if np.abs(counts - np.rint(counts)).max() > 1e-3:
        counts = counts**2
    np.testing.assert_allclose(scan.patterns[:5], counts, atol=1e-2)


def test_side_of_the_patterns():
    whole = load_scan(READERS / "cdtools_star.cxi")
    part = load_scan(READERS / "cdtools_star.cxi", options=ScanOptions(size=32))
    assert part.N == 32
    assert part.pixel_size_m == pytest.approx(20e-9, rel=1e-6)
    np.testing.assert_allclose(part.scan_positions_px * 2, whole.scan_positions_px, rtol=1e-9)
    np.testing.assert_array_equal(part.patterns, np.asarray(whole.patterns)[:, 16:48, 16:48])
