"""Each format that is written comes back as the same scan; some are read by the libraries they are for."""

import dataclasses

import h5py
import numpy as np
import pytest

from ptycho_backends import load_scan
from ptycho_backends.errors import OutputError, ScanError
from ptycho_backends.scans.geometry import ScanOptions
from ptycho_backends.scans.scan_files import export_training_data, is_scan
from ptycho_backends.scans.simulate import simulate_star


@pytest.fixture(scope="module")
def scan():
    valid = np.ones((64, 64), bool)
    valid[3, 60] = False
    return dataclasses.replace(
        simulate_star(64, 24, n_photons=1e4, seed=1),
        pixel_size_m=12e-9, photon_energy_eV=8800.0, detector_distance_m=1.9, valid_pixels=valid,
    )  # fmt: skip


SUFFIXES = {".npz": "NPZ", ".h5": "training data", ".cxi": "CXI", ".nxs": "NXcxi", ".ptyd": "PtyPy"}


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(suffix, compressed, scan, tmp_path):
    path = export_training_data(scan, tmp_path / f"scan{suffix}", compressed=compressed)
    mapped = not compressed or suffix != ".npz"
    for got in (load_scan(path), load_scan(path, mapped=mapped)):
        np.testing.assert_array_equal(np.asarray(got.patterns), np.asarray(scan.patterns))
        assert got.measurement == "intensity"
        offset = got.scan_positions_px - scan.scan_positions_px
        np.testing.assert_allclose(offset, np.broadcast_to(offset[0], offset.shape), atol=1e-6)
        np.testing.assert_array_equal(got.valid_pixels, scan.valid_pixels)
        assert got.pixel_size_m == pytest.approx(12e-9, rel=1e-6)
        assert got.photon_energy_eV == pytest.approx(8800, rel=1e-6)
        assert got.detector_distance_m == pytest.approx(1.9)
        assert got.notes
        if suffix != ".ptyd":
            np.testing.assert_allclose(got.probe_modes, scan.probe_modes, atol=1e-6)


def test_amplitudes_become_counts(scan, tmp_path):
    roots = dataclasses.replace(
        scan, patterns=np.sqrt(np.asarray(scan.patterns, np.float32)), measurement="amplitude"
    )
    got = load_scan(export_training_data(roots, tmp_path / "scan.cxi"))
    assert got.patterns.dtype == np.uint32
    np.testing.assert_array_equal(got.patterns, scan.patterns)


def test_lengths_are_asked_for(scan, tmp_path):
    bare = dataclasses.replace(scan, pixel_size_m=None, photon_energy_eV=None)
    for suffix in (".cxi", ".nxs", ".ptyd"):
        with pytest.raises(ScanError, match="--pixel-size and --energy"):
            export_training_data(bare, tmp_path / f"scan{suffix}")
        assert not (tmp_path / f"scan{suffix}").exists()
    with pytest.raises(OutputError, match=r"suffix '\.xyz', want one of .*cxi"):
        export_training_data(scan, tmp_path / "scan.xyz")


def test_several_chunks_of_ptypy(scan, tmp_path):
    path = export_training_data(scan, tmp_path / "scan.ptyd")
    with h5py.File(path, "r+") as file:
        first = file["chunks/0"]
        second = file.create_group("chunks/1")
        for name in ("data", "positions", "indices", "weights"):
            whole = first[name][()]
            second[name] = whole[10:]
            del first[name]
            first[name] = whole[:10]
    for mapped in (False, True):
        got = load_scan(path, mapped=mapped)
        np.testing.assert_array_equal(np.asarray(got.patterns), np.asarray(scan.patterns))
        np.testing.assert_array_equal(got.patterns[[20, 3, 11]], np.asarray(scan.patterns)[[20, 3, 11]])
        assert len(got) == len(scan)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:cdtools")
def test_cdtools_reads_and_writes(scan, tmp_path):
    datasets = pytest.importorskip("cdtools.datasets")
    path = export_training_data(scan, tmp_path / "scan.cxi")
    theirs = datasets.Ptycho2DDataset.from_cxi(str(path))
    np.testing.assert_array_equal(theirs.patterns.numpy(), scan.patterns)
    np.testing.assert_array_equal(theirs.mask.numpy() != 0, scan.valid_pixels)
    theirs.to_cxi(str(tmp_path / "theirs.cxi"))
    got = load_scan(tmp_path / "theirs.cxi")
    np.testing.assert_allclose(got.scan_positions_px, scan.scan_positions_px, atol=1e-4)
    np.testing.assert_array_equal(got.valid_pixels, scan.valid_pixels)


def test_genuine_nexus_library_reads_and_writes(scan, tmp_path):
    nexus = pytest.importorskip("nexusformat.nexus")
    path = export_training_data(scan, tmp_path / "scan.nxs")
    tree = nexus.nxload(str(path))
    assert tree["entry_1"].nxclass == "NXentry"
    np.testing.assert_array_equal(tree["entry_1/data_1/data"].nxdata[2], scan.patterns[2])
    copy = tmp_path / "copy.nxs"
    tree.save(str(copy))
    assert is_scan(copy)
    np.testing.assert_array_equal(load_scan(copy).patterns, scan.patterns)


@pytest.mark.parametrize("unknown", [0.0, np.nan])
def test_ptypy_without_a_centre_or_a_pixel(unknown, scan, tmp_path):
    path = export_training_data(scan, tmp_path / "scan.ptyd")
    with h5py.File(path, "r+") as file:
        for name in ("center", "psize"):
            for group in ("meta", "info"):
                file[f"{group}/{name}"][1] = unknown
    with pytest.raises(ScanError, match="it takes --detector-pixel, or --pixel-size alone"):
        load_scan(path)
    got = load_scan(path, options=ScanOptions(pixel_size_m=12e-9))
    np.testing.assert_array_equal(got.patterns, scan.patterns)
