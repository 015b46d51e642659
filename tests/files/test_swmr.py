"""HDF5 files that a writer left open: read where they are whole, and an error at once where they are not."""

import re
import struct

import h5py
import numpy as np
import pytest

from ptycho_backends.errors import ScanError
from ptycho_backends.files import swmr
from ptycho_backends.files.located_hdf5 import open_hdf5

BLOCKS = rb"OHDR|EAHD|EAIB|EADB|FRHP"


@pytest.fixture(scope="module")
def left_open(tmp_path_factory):
    """Bytes of a file as it is while its writer lives."""
    path = tmp_path_factory.mktemp("swmr") / "live.h5"
    with h5py.File(path, "w", libver="latest") as file:
        patterns = file.create_dataset("patterns", (9, 4, 4), "u2", maxshape=(None, 4, 4), chunks=(1, 4, 4))
        for number in range(12):
            patterns.attrs[f"many {number}"] = number
        file["group/encoder"] = np.arange(6.0)
        file.swmr_mode = True
        patterns[:] = np.arange(144).reshape(9, 4, 4)
        patterns.flush()
        return path.read_bytes()


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(swmr, "SECONDS_BETWEEN", 0.0)


def test_a_whole_one_is_read(left_open, tmp_path):
    path = tmp_path / "scan.h5"
    path.write_bytes(left_open)
    with open_hdf5(path) as file:
        assert file["patterns"][8, 3, 3] == 143
    swmr.require_whole_structure(path)


def test_damage_in_any_block_of_its_structure_is_an_error_and_no_endless_wait(left_open, tmp_path):
    path = tmp_path / "scan.h5"
    blocks = [found.start() for found in re.finditer(BLOCKS, left_open)]
    assert {left_open[start : start + 4] for start in blocks} == set(BLOCKS.split(b"|"))
    for start in blocks:
        data = bytearray(left_open)
        data[start + 9] ^= 4
        path.write_bytes(data)
        with pytest.raises(ScanError, match=r"its structure is damaged .* left open by the program"):
            open_hdf5(path)


@pytest.mark.parametrize("userblock", [0, 512, 2048])
def test_its_superblock_is_that_of_a_closed_file(left_open, tmp_path, userblock):
    path = tmp_path / "scan.h5"
    path.write_bytes(bytes(userblock) + left_open)
    with swmr.AsClosed(path) as stream:
        stream.seek(userblock + 8)
        marks = stream.read(4)[3]
        assert stream.seek(0, 2) == userblock + len(left_open)
    assert (left_open[11], marks) == (5, 0)


def test_the_checksum_is_that_of_hdf5(left_open):
    assert swmr.checksum(left_open[:44]) == struct.unpack_from("<L", left_open, 44)[0]
    assert swmr.checksum(b"Four score and seven years ago") == 0x17770551
    assert swmr.checksum(b"") == 0xDEADBEEF
