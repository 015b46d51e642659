"""NPZ: with None entries as the genuine package writes them, compressed twice over, of tike, of other names."""

import bz2
import gzip
import lzma
import pickle

import numpy as np
import pytest

from ptycho_backends import load_scan, save_scan
from ptycho_backends.errors import ScanError
from ptycho_backends.files import unpacked as files_unpacked
from ptycho_backends.files.budget import Growth
from ptycho_backends.files.unpacked import unpacked
from ptycho_backends.scans.geometry import ScanOptions


def test_entries_that_are_none(scan, counts, tmp_path):
    path = tmp_path / "scan.npz"
    x, y = scan.xcoords, scan.ycoords
    absent = dict.fromkeys(("objectGuess", "xcoords_start", "ycoords_start", "objectMask"))
    np.savez(path, xcoords=x, ycoords=y, diff3d=counts, probeGuess=scan.probe_guess, **absent)
    got = load_scan(path)
    assert got.object_guess is None
    np.testing.assert_array_equal(got.xcoords_start, x)


def test_patterns_under_the_other_name_beside_none(scan, counts, tmp_path):
    path = tmp_path / "scan.npz"
    np.savez(path, xcoords=scan.xcoords, ycoords=scan.ycoords, diff3d=None, diffraction=counts)
    for mapped in (False, True):
        np.testing.assert_array_equal(load_scan(path, mapped=mapped).patterns, counts)
    np.savez(path, data=None, scan=scan.scan_positions_px)
    with pytest.raises(ScanError, match="data: None, want arrays"):
        load_scan(path)


class Harm:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


@pytest.mark.parametrize("value", [Harm(), {"a": 1}, [1, 2]])
def test_objects_of_python_are_refused_not_run(value, scan, counts, tmp_path):
    path = tmp_path / "scan.npz"
    holder = np.empty((), object)
    holder[()] = value
    np.savez(path, xcoords=scan.xcoords, ycoords=scan.ycoords, diff3d=counts, probeGuess=holder)
    with pytest.raises(ScanError, match=r"scan\.npz: "):
        load_scan(path)
    path.write_bytes(pickle.dumps(counts))
    with pytest.raises(ScanError, match=r"scan\.npz: a pickle of Python"):
        load_scan(path)


PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("suffix", PACK)
def test_compressed_around_anything(suffix, scan, tmp_path):
    inner = save_scan(scan, tmp_path / "inner.npz")
    path = tmp_path / f"scan.npz.{suffix}"
    path.write_bytes(PACK[suffix](inner.read_bytes()))
    got = load_scan(path)
    assert got.name == "scan"
    np.testing.assert_array_equal(got.patterns, scan.patterns)
    with pytest.raises(ScanError, match="cannot be mapped; unpack it first"):
        load_scan(path, mapped=True)
    path.write_bytes(PACK[suffix](inner.read_bytes())[:-500])
    with pytest.raises(ScanError, match="not readable as"):
        load_scan(path)
    path.write_bytes(PACK[suffix](PACK[suffix](b"numbers" * 100)))
    with pytest.raises(ScanError, match="compressed twice"):
        load_scan(path)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "scan.npz.gz"
    path.write_bytes(gzip.compress(bytes(5 << 20)))
    monkeypatch.setattr(files_unpacked, "SPARSE", Growth(1 << 20, 1))
    with pytest.raises(ScanError, match=r"holds more than 105\d+ bytes"), unpacked(path, "gzip"):
        pytest.fail("unpacked")


def test_tike(scan, counts, tmp_path):
    path = tmp_path / "tike.npz"
    corners = (scan.scan_positions_px - 32)[:, ::-1]
    data = np.fft.ifftshift(counts.astype(np.float32), axes=(1, 2))
    np.savez(
        path, data=data[None], scan=corners[None].astype(np.float32), probe=scan.probe_modes[None, None, None]
    )
    got = load_scan(path)
    np.testing.assert_array_equal(got.patterns, counts)
    np.testing.assert_allclose(got.scan_positions_px, scan.scan_positions_px, atol=1e-4)
    np.testing.assert_array_equal(got.probe_modes, scan.probe_modes)
    assert got.measurement == "intensity"
    assert any("corner" in note for note in got.notes)
    middle = load_scan(path, options=ScanOptions(shift=False, anchor="centre"))
    np.testing.assert_array_equal(middle.patterns, data)
    np.testing.assert_allclose(middle.scan_positions_px, scan.scan_positions_px - 32, atol=1e-4)


def test_other_names(scan, counts, metres, tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, raw=counts, xy=metres, other=np.array([{"a": 1}], object))
    with pytest.raises(ScanError, match=r"missing; the file holds other, raw, xy; .*--dataset patterns=NAME"):
        load_scan(path)
    datasets = {"patterns": "raw", "positions": "xy"}
    with pytest.raises(ScanError, match="does not state their unit"):
        load_scan(path, options=ScanOptions(datasets=datasets))
    got = load_scan(path, options=ScanOptions(datasets=datasets, positions_unit="m", pixel_size_m=1e-8))
    np.testing.assert_allclose(got.scan_positions_px, scan.scan_positions_px)
    with pytest.raises(ScanError, match="patterns: no array absent in the file, which holds raw, xy"):
        load_scan(path, options=ScanOptions(datasets={"patterns": "absent"}))


@pytest.mark.parametrize("unknown", [0.0, np.nan, None])
def test_unknown_lengths(unknown, scan, counts, tmp_path):
    path = tmp_path / "scan.npz"
    np.savez(path, xcoords=scan.xcoords, ycoords=scan.ycoords, diff3d=counts, pixel_size_m=unknown)
    assert load_scan(path).pixel_size_m is None
