"""A file of another kind than expected: the error names its kind and the cure, whatever its suffix."""

import bz2
import gzip
import io
import lzma
import tarfile

import h5py
import numpy as np
import pytest
import scipy.io

from ptycho_backends import Scan, load_product, load_scan, open_patterns, save_scan
from ptycho_backends.archive.model_file import load_archive
from ptycho_backends.errors import ArchiveError, ScanError
from ptycho_backends.files.file_kind import kind_of
from ptycho_backends.files.mapped_npz import mapped_npy
from ptycho_backends.images.results import load_reconstruction
from ptycho_backends.refinement.checkpoint import load_state
from ptycho_backends.refinement.start import starting_image
from ptycho_backends.scans.readers.positions import positions_of_file
from ptycho_backends.scans.scan_files import load_mask
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.scans.training_data import save_training_hdf5


def tar_of(data):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("scan.npz")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def matlab_5():
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"patterns": np.ones((2, 3))})
    return stream.getvalue()


DATA = b"numbers" * 100
FOREIGN = {
    "LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
    "Zstandard": b"\x28\xb5\x2f\xfd" + DATA,
    "tar archive": tar_of(DATA),
    "CBF image": b"###CBF: VERSION 1.5\r\n" + DATA,
    "NetCDF 3": b"CDF\x01" + DATA,
    "PNG image": b"\x89PNG\r\n\x1a\n" + DATA,
    "web page": b"<!DOCTYPE html><html><body>Log in</body></html>",
    "empty file": b"",
}


READ_AS_SCANS_ONLY = {
    "gzip; .*gunzip": gzip.compress(DATA),
    "bzip2; .*bunzip2": bz2.compress(DATA),
    "xz; .*unxz": lzma.compress(DATA),
    "MATLAB 5 file": matlab_5(),
    "TIFF image": b"II*\0" + DATA,
}


@pytest.mark.parametrize("read", [open_patterns, load_product])
@pytest.mark.parametrize("kind", READ_AS_SCANS_ONLY)
def test_kinds_that_only_load_scan_reads(kind, read, tmp_path):
    path = tmp_path / "scan.h5"
    path.write_bytes(READ_AS_SCANS_ONLY[kind])
    with pytest.raises(ScanError, match=rf"scan\.h5: .*{kind}"):
        read(path)


@pytest.mark.parametrize(
    "read",
    [load_mask, positions_of_file, mapped_npy, load_reconstruction, starting_image, load_state, load_archive],
)
@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_in_the_place_of_parts_and_results(kind, read, tmp_path):
    path = tmp_path / "part.dat"
    path.write_bytes(FOREIGN[kind])
    with pytest.raises((ScanError, ArchiveError), match=rf"part\.dat: .*{kind}"):
        read(path)


def test_arrays_and_archives_of_another_kind(tmp_path):
    scan = save_scan(simulate_star(64, 8), tmp_path / "scan.npz")
    with pytest.raises(ScanError, match=r"scan\.npz: a zip file, want an array in an NPY file"):
        load_mask(scan)
    np.save(tmp_path / "image.npy", np.ones(3))
    with pytest.raises(ArchiveError, match=r"image\.npy: an NPY file, want an archive of a model"):
        load_archive(tmp_path / "image.npy")


@pytest.mark.parametrize("read", [load_scan, open_patterns, load_product])
@pytest.mark.parametrize("suffix", [".npz", ".h5", ".dat"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_named(kind, suffix, read, tmp_path):
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(ScanError, match=rf"scan\{suffix}: .*{kind}"):
        read(path)


def test_other_hdf5_is_named_with_the_way_to_use_it(tmp_path):
    patterns = np.ones((3, 8, 8), np.uint16)
    without = r"without positions; .*--positions-from"
    for words, make in (
        (
            rf"CXI: .*{without}",
            lambda file: file.update({"cxi_version": 150, "entry_1/data_1/data": patterns}),
        ),
        ("HDF5 of another layout", lambda file: file.create_group("entry").attrs.update(NX_class="NXentry")),
        (rf"CXI: .*{without}", lambda file: file.update({"entry_1/data_1/data": patterns})),
        (rf"plain HDF5: .*{without}", lambda file: file.update({"intensities": patterns})),
    ):
        with h5py.File(tmp_path / "scan.npz", "w", userblock_size=512) as file:
            make(file)
        with pytest.raises(ScanError, match=rf"scan\.npz: {words}"):
            load_scan(tmp_path / "scan.npz")
    np.testing.assert_array_equal(open_patterns(tmp_path / "scan.npz", "intensities"), patterns)


def test_content_decides_not_the_suffix(tmp_path):
    star = simulate_star(64, 5, measurement="intensity")
    for name, value in (("pixel_size_m", 1e-8), ("photon_energy_eV", 1e4), ("detector_distance_m", 1.0)):
        object.__setattr__(star, name, value)
    save_training_hdf5(star, tmp_path / "hdf5.npz")
    save_scan(star, tmp_path / "npz.h5", compressed=False)
    with open(tmp_path / "npy.h5", "wb") as stream:
        np.save(stream, star.patterns)
    for name in ("hdf5.npz", "npz.h5"):
        for mapped in (False, True):
            got = load_scan(tmp_path / name, mapped=mapped)
            assert isinstance(got, Scan)
            np.testing.assert_array_equal(np.asarray(got.patterns), star.patterns)
        np.testing.assert_array_equal(np.asarray(open_patterns(tmp_path / name)), star.patterns)
    np.testing.assert_array_equal(np.asarray(open_patterns(tmp_path / "npy.h5")), star.patterns)


@pytest.mark.parametrize("block", [0, 512, 1024, 8192])
def test_hdf5_is_found_behind_a_user_block(block, tmp_path):
    with h5py.File(tmp_path / "x", "w", userblock_size=block):
        pass
    assert kind_of(tmp_path / "x") == "HDF5"


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(ScanError, match="absent: cannot be read"):
        kind_of(tmp_path / "absent")
    with pytest.raises(ScanError, match="cannot be read"):
        kind_of(tmp_path)
    (tmp_path / "text").write_text("text")
    assert kind_of(tmp_path / "text") is None
