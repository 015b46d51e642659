"""Heaps of texts in HDF5: those without end are refused, which the library would read for ever."""

import struct

import h5py
import pytest

from ptycho_backends.errors import ScanError
from ptycho_backends.files import hdf5_heaps
from ptycho_backends.files.hdf5_heaps import require_heaps_with_ends


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "texts.h5"
    with h5py.File(path, "w") as file:
        for number in range(3):
            file.attrs[f"a{number}"] = "text " * number
    return path


def changed(path, number, size):
    """Write `size` into the first entry with that number."""
    data = bytearray(path.read_bytes())
    place = data.index(b"GCOL") + 16
    while True:
        found, _, _, length = struct.unpack_from("<HHLQ", data, place)
        if found == number:
            break
        place += 16 + -(-length // 8) * 8
    struct.pack_into("<Q", data, place + 8, size)
    path.write_bytes(data)


@pytest.mark.parametrize(("number", "size"), [(0, 0), (1, 2**64 - 16), (1, 2**64 - 17)])
@pytest.mark.parametrize("piece", [8 << 20, 16, 1001])
def test_an_entry_without_room_is_refused(path, number, size, piece, monkeypatch):
    monkeypatch.setattr(hdf5_heaps, "_PIECE", piece)
    require_heaps_with_ends(path)
    changed(path, number, size)
    with pytest.raises(ScanError, match=r"its texts \(at byte \d+\) have no end"):
        require_heaps_with_ends(path)


def test_other_damage_is_left_to_hdf5(path):
    changed(path, 1, 2**63)
    require_heaps_with_ends(path)
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"GCOL") + 12])
    require_heaps_with_ends(path)
    path.write_bytes(b"")
    require_heaps_with_ends(path)


def test_many_that_overlap_are_refused_at_once(tmp_path):
    path = tmp_path / "many.h5"
    path.write_bytes((b"GCOL\x01\0\0\0" + struct.pack("<Q", 1 << 30)) * 200_000)
    with pytest.raises(ScanError, match="on top of one another"):
        require_heaps_with_ends(path)
