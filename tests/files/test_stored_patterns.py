"""Patterns that stay in their file are those of memory: batches, sums, training, reconstruction, bit for bit."""

import pickle

import h5py
import numpy as np
import pytest

from ptycho_backends import open_patterns
from ptycho_backends.errors import ScanError, ShapeError
from ptycho_backends.files.datasets_hdf5 import Hdf5Patterns
from ptycho_backends.files.stored_patterns import StoredPatterns, is_file_backed
from ptycho_backends.scans.grouping import group_scan
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_files import load_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.scans.training_data import save_training_hdf5

CXI = "/entry_1/data_1/data"


@pytest.fixture(scope="module")
def counts():
    return np.random.default_rng(0).integers(0, 200, (23, 16, 16)).astype(np.uint16)


def write(path, patterns, kind):
    if kind == "npy":
        np.save(path.with_suffix(".npy"), patterns)
        return path.with_suffix(".npy")
    if kind == "npz":
        np.savez(path.with_suffix(".npz"), diff3d=patterns)
        return path.with_suffix(".npz")
    path = path.with_suffix(".cxi")
    options = {
        "plain": {},
        "gzip": {"chunks": (4, 5, 16), "compression": "gzip", "shuffle": True},
        "lzf": {"chunks": (1, 16, 16), "compression": "lzf"},
        "auto": {"chunks": True},
    }[kind]
    with h5py.File(path, "w") as file:
        detector = file.create_group("entry_1/instrument_1/detector_1")
        detector.create_dataset("data", data=patterns, **options)
        file.create_group("entry_1/data_1")["data"] = h5py.SoftLink("/entry_1/instrument_1/detector_1/data")
    return path


KINDS = ["npy", "npz", "plain", "gzip", "lzf", "auto"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, ">i4"])
def test_a_scan_of_them_is_the_scan_of_memory(counts, kind, dtype, tmp_path, monkeypatch):
    patterns = counts.astype(dtype)
    stored = open_patterns(write(tmp_path / "x", patterns, kind))
    x, y = np.random.default_rng(1).uniform(0, 30, (2, len(patterns)))
    for measurement in ("intensity", "amplitude"):
        want = Scan(x, y, patterns, measurement=measurement)
        monkeypatch.setattr("ptycho_backends.scans.scan.CHUNK", 5)
        got = Scan(x, y, stored, measurement=measurement)
        assert is_file_backed(got.patterns)
        for indices in (np.array([[3, 22], [3, 0]]), slice(2, 9, 3), 7, np.array([-1, 1])):
            np.testing.assert_array_equal(
                got.diffraction_amplitude(indices), want.diffraction_amplitude(indices)
            )
            np.testing.assert_array_equal(got.energies_of(indices), want.energies_of(indices))
        np.testing.assert_array_equal(got.pattern_energies, want.pattern_energies)
        np.testing.assert_array_equal(got.pattern_maxima, want.pattern_maxima)
        one, other = (
            group_scan(scan, gridsize=2, seed=3, n_groups=5).batch(slice(1, 4)) for scan in (got, want)
        )
        np.testing.assert_array_equal(one.diffraction_amplitude, other.diffraction_amplitude)
    np.testing.assert_array_equal(np.asarray(stored), patterns)
    again = pickle.loads(pickle.dumps(stored))
    np.testing.assert_array_equal(again[4], patterns[4])


class Counted(StoredPatterns):
    """Notes the numbers of the patterns that were read."""

    def __init__(self, patterns):
        self.patterns, self.shape, self.dtype = patterns, patterns.shape, patterns.dtype
        self.reads = []

    def read(self, indices):
        self.reads += indices.tolist()
        return self.patterns[indices]


def test_only_what_is_needed_is_read_and_a_pass_over_everything_is_made_once(counts, monkeypatch):
    monkeypatch.setattr("ptycho_backends.scans.scan.SAMPLED_FRAMES", 3)
    x, y = np.random.default_rng(1).uniform(0, 30, (2, len(counts)))
    lazy = Counted(counts)
    groups = group_scan(Scan(x, y, lazy), gridsize=2, n_groups=2, seed=0)
    assert lazy.reads == [
        0,
        11,
        22,
    ]  # counts without a sign need no check; a few are looked at for bad pixels
    lazy.reads.clear()
    assert (
        groups.normalisation == group_scan(Scan(x, y, counts), gridsize=2, n_groups=2, seed=0).normalisation
    )
    assert sorted(lazy.reads) == np.unique(groups.nn_indices).tolist()
    signed = Counted(counts.astype(np.float32))
    scan = Scan(x, y, signed, measurement="amplitude")
    groups = group_scan(scan, gridsize=2, n_groups=2, seed=0)
    assert groups.normalisation > 0
    assert scan.pattern_maxima.max() == counts.max()
    assert signed.reads == list(range(len(counts)))
    valid = np.ones((16, 16), bool)
    valid[3, 4] = False
    masked = Counted(np.where(valid, counts, -1).astype(np.int32))
    scan = Scan(x, y, masked, valid_pixels=valid)
    np.testing.assert_array_equal(scan.pattern_energies, (counts * valid).sum(axis=(1, 2)))
    assert masked.reads == list(range(len(counts)))


def test_wrong_patterns_are_refused(counts, tmp_path):
    x = np.arange(23.0)
    spoilt = counts.astype(np.float32)
    spoilt[13] = np.nan
    with pytest.raises(ScanError, match="pattern 13 holds NaN"):
        Scan(x, x, open_patterns(write(tmp_path / "nan", spoilt, "gzip")))
    with pytest.raises(ScanError, match="23 patterns for 22 positions"):
        Scan(x[1:], x[1:], Counted(counts))
    with pytest.raises(ShapeError, match="dtype complex64"):
        Scan(x, x, Counted(counts.astype(np.complex64)))
    with pytest.raises(ScanError, match="nothing missing; the file holds entry_1"):
        open_patterns(write(tmp_path / "x", counts, "plain"), "nothing")
    with pytest.raises(ScanError, match="a group, want an array"):
        open_patterns(write(tmp_path / "x", counts, "plain"), "/entry_1/data_1")
    with pytest.raises(ScanError, match="cannot be read"):
        open_patterns(tmp_path / "absent.npy")
    (tmp_path / "text.npy").write_text("no patterns")
    with pytest.raises(ScanError, match=r"text\.npy: not a readable NPY file"):
        open_patterns(tmp_path / "text.npy")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object))
    with pytest.raises(ScanError, match="holds objects of Python"):
        open_patterns(tmp_path / "object.npy")
    with pytest.raises(IndexError, match="outside the 23"):
        Counted(counts)[23]
    with pytest.raises(IndexError, match="want integers or a slice"):
        Counted(counts)[np.ones(23, bool)]


def test_a_file_that_is_cut_short_is_refused(counts, tmp_path):
    for kind in ("plain", "gzip"):
        path = write(tmp_path / kind, counts, kind)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ScanError, match=r"\.cxi"):
            np.asarray(open_patterns(path))


def test_ptychodus_training_data_are_left_in_their_file(tmp_path):
    star = simulate_star(64, 12, measurement="intensity")
    for name, value in (("pixel_size_m", 1e-8), ("photon_energy_eV", 1e4), ("detector_distance_m", 1.0)):
        object.__setattr__(star, name, value)
    path = save_training_hdf5(star, tmp_path / "train.h5")
    got, want = load_scan(path, mapped=True), load_scan(path)
    assert isinstance(got.patterns, Hdf5Patterns)
    np.testing.assert_array_equal(got.diffraction_amplitude([5, 0]), want.diffraction_amplitude([5, 0]))
    np.testing.assert_array_equal(got.pattern_energies, want.pattern_energies)


def test_negative_counts_of_ptychodus_are_clipped_where_they_are(counts, tmp_path, caplog):
    spoilt = counts.astype(np.float32)
    spoilt[3, :2] = -0.5
    entries = {"xcoords": np.arange(23.0), "ycoords": np.arange(23.0), "diff3d": spoilt}
    entries |= {
        "xcoords_start": np.arange(23.0),
        "ycoords_start": np.arange(23.0),
        "scan_index": np.arange(23),
    }
    entries |= {
        "probeGuess": np.ones((16, 16)),
        "objectGuess": np.ones((1, 40, 40)),
        "bad_pixels": np.zeros((16, 16)),
    }
    np.savez(tmp_path / "scan.npz", **entries)
    got, want = (load_scan(tmp_path / "scan.npz", mapped=mapped) for mapped in (True, False))
    assert caplog.text.count("32 negative counts are set to 0") == 2
    assert is_file_backed(got.patterns)
    assert isinstance(want.patterns, np.ndarray)
    np.testing.assert_array_equal(np.asarray(got.patterns), np.maximum(spoilt, 0))
    np.testing.assert_array_equal(want.patterns, np.maximum(spoilt, 0))
    np.testing.assert_array_equal(got.pattern_energies, want.pattern_energies)
