"""Digests beside files, and the checksums in those that have them."""

import random
import subprocess
from contextlib import suppress

import h5py
import numpy as np
import pytest

from ptycho_backends.errors import ScanError
from ptycho_backends.files.datasets_hdf5 import DatasetFile, write_datasets
from ptycho_backends.files.digest import digest_path, verify, write_digest
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_files import export_training_data, load_scan


def flipped(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def scan():
    n = np.arange(9.0)
    return Scan(
        n,
        n,
        np.ones((9, 16, 16), np.uint16),
        pixel_size_m=1e-8,
        photon_energy_eV=8e3,
        detector_distance_m=1.0,
    )


@pytest.mark.parametrize("suffix", [".npz", ".cxi", ".nxs"])
def test_what_is_mapped_has_a_digest_that_is_compared_when_asked(tmp_path, scan, suffix):
    path = tmp_path / f"scan{suffix}"
    export_training_data(scan, path, compressed=False)
    assert digest_path(path).name == f"scan{suffix}.sha256"
    subprocess.run(["sha256sum", "--check", "--quiet", digest_path(path).name], cwd=tmp_path, check=True)
    assert len(load_scan(path, verify=True)) == 9
    flipped(path, path.read_bytes().index(b"\1\0" * 40) + 5)
    with pytest.raises(ScanError, match=r"differs from its digest in scan.*\.sha256"):
        load_scan(path, mapped=True, verify=True)
    export_training_data(scan, path)
    assert not digest_path(path).exists()
    assert len(load_scan(path)) == 9


def test_without_a_digest(tmp_path, scan):
    path = tmp_path / "scan.npz"
    export_training_data(scan, path, compressed=False)
    digest_path(path).unlink()
    verify(path)
    flipped(path, path.read_bytes().index(b"\1\0" * 40) + 5)
    with pytest.raises(ScanError, match="Bad CRC"):
        verify(path)
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(ScanError, match=r"sha256sum x\.npy > x\.npy\.sha256"):
        verify(tmp_path / "x.npy")
    write_digest(tmp_path / "x.npy").write_text("rubbish")
    with pytest.raises(ScanError, match="want one line"):
        verify(tmp_path / "x.npy")


def test_no_flipped_bit_of_a_data_set_or_an_attribute_is_read(tmp_path):
    """Of 150 flips at random each is found or changes nothing that is read."""
    path, draw = tmp_path / "x.h5", random.Random(1)
    arrays = {"a": np.arange(40.0), "b": np.ones((1, 30, 30), np.complex64), "c": np.arange(7)}
    write_datasets(path, arrays, {"": {"energy": 8e3, "name": "x"}, "b": {"pixel": 1e-8}})
    whole = path.read_bytes()

    def content():
        with DatasetFile(path) as file:
            values = [file.array(name).tobytes() for name in arrays]
            return values, file.attributes(), file.attributes("b"), sorted(file.names)

    good, silent = content(), 0
    with h5py.File(path) as file:
        assert all(file[name].fletcher32 for name in arrays)
    for _ in range(150):
        path.write_bytes(whole)
        flipped(path, draw.randrange(len(whole)))
        with suppress(ScanError):
            silent += content() != good
    assert silent == 0
