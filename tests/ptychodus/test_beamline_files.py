"""Files that only Ptychodus's readers know are read through them."""

import h5py
import numpy as np
import pytest

from ptycho_backends import load_scan
from ptycho_backends.errors import ScanError
from ptycho_backends.scans.geometry import ScanOptions
from ptycho_backends.scans.scan_files import is_scan


@pytest.fixture
def of_lcls(tmp_path):
    """As LCLS's XPP writes it: stage in micrometres, and shots whose intensity is out of range to be left out."""
    frames = np.random.default_rng(0).poisson(5.0, (6, 16, 16)).astype(np.uint16)
    x, z = np.arange(6.0), np.arange(6.0)[::-1].copy()
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file["jungfrau1M/image_img"] = frames
        file["lmc/ch03"], file["lmc/ch04"], file["lmc/ch05"] = x, np.zeros(6), z
        file["ipm2/sum"] = np.array([2500.0, 100.0, 2500.0, 2500.0, 9e9, 2500.0])
    return tmp_path / "run.h5", frames, np.stack([-x, -z], axis=-1)


def test_a_file_of_a_beamline(of_lcls):
    path, frames, micrometres = of_lcls
    kept = [0, 2, 3, 5]
    scan = load_scan(path, options=ScanOptions(pixel_size_m=1e-7))
    np.testing.assert_array_equal(scan.patterns, frames[kept])
    np.testing.assert_array_equal(scan.scan_index, kept)
    np.testing.assert_allclose(scan.scan_positions_px, micrometres[kept] * 10, atol=1e-6)
    assert any("LCLS XPP" in note for note in scan.notes)
    # without being asked for, nothing is tried
    assert not is_scan(path)


def test_groups_that_contain_themselves_are_refused(of_lcls):
    """Ptychodus's readers, which know the file, would never end."""
    with h5py.File(of_lcls[0], "a") as file:
        file["lmc/again"] = file["lmc"]
    with pytest.raises(ScanError, match="HDF5 of another layout"):
        load_scan(of_lcls[0], options=ScanOptions(pixel_size_m=1e-7))


def test_a_file_that_nobody_knows(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.arange(3)
    with pytest.raises(ScanError, match="HDF5 of another layout, which holds numbers") as error:
        load_scan(tmp_path / "other.h5")
    assert "install Ptychodus" not in str(error.value)
