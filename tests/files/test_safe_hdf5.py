"""HDF5 members of archives with a user block: right numbers, and no other base address is believed."""

import io

import h5py
import numpy as np
import pytest

from ptycho_backends.errors import ArchiveError
from ptycho_backends.files.safe_hdf5 import Hdf5Arrays, hdf5_bytes

ARRAYS = {"group/a": np.arange(12.0).reshape(3, 4), "b": np.arange(5, dtype=">i2")}


def with_user_block(block, libver):
    stream = io.BytesIO()
    with h5py.File(stream, "w", userblock_size=block, libver=libver) as file:
        for name, array in ARRAYS.items():
            file[name] = array
    return stream.getvalue()


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("block", [0, 512, 2048])
def test_a_user_block_shifts_nothing(block, libver):
    got = Hdf5Arrays(with_user_block(block, libver), "x.h5")
    assert set(got) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("base", [0, 8, 1024, 2**40, 2**64 - 1])
def test_a_base_address_elsewhere_is_refused(base):
    data = bytearray(with_user_block(512, "earliest"))
    # version 0 of the superblock has it after 24 bytes
    assert int.from_bytes(data[512 + 24 : 512 + 32], "little") == 512
    data[512 + 24 : 512 + 32] = base.to_bytes(8, "little")
    with pytest.raises(ArchiveError, match=r"x\.h5: "):
        Hdf5Arrays(bytes(data), "x.h5")


def test_text_before_a_file_that_knows_nothing_of_it_is_refused():
    with pytest.raises(ArchiveError, match=r"x\.h5: "):
        Hdf5Arrays(bytes(512) + hdf5_bytes(ARRAYS), "x.h5")
