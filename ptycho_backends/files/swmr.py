"""HDF5 files that a writer has open (SWMR), or had when it ended: their structure is looked at before HDF5 reads it.

A reader of SWMR tries again where a checksum is wrong, because the writer may be about to write it. In a damaged file
it does so for ever. As a closed file, the same one is an error at once.
"""

import io
import os
import struct
import time
from pathlib import Path
from typing import Any

from ptycho_backends.errors import ScanError
from ptycho_backends.files.budget import MAX_OBJECTS, Budget

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Of version 3, the only one with marks of writers: signature, version, sizes, marks, four addresses, checksum.
SUPERBLOCK = struct.Struct("<8sBBBBQQQQL")
VERSION, SIZE_OF_ADDRESSES = 3, 8
# A block that is being written is whole a moment later.
TRIES, SECONDS_BETWEEN = 3, 0.2


def require_whole_structure(path: Path) -> None:
    """Go through headers, attributes and lists of chunks of a file as if it were closed.

    Raises
    ------
    ScanError
        If a part cannot be read.
    """
    for left in reversed(range(TRIES)):
        try:
            _go_through(path)
            return
        except ScanError:
            raise
        except Exception as error:
            if not left:
                raise ScanError(
                    f"its structure is damaged ({error}); it was left open by the program that wrote it"
                ) from error
            time.sleep(SECONDS_BETWEEN)


def _go_through(path: Path) -> None:
    import h5py

    budget = Budget(error=ScanError, objects=MAX_OBJECTS)
    with AsClosed(path) as stream, h5py.File(stream, "r") as file:

        def look(name: bytes) -> None:
            found = h5py.h5o.open(file.id, name)
            budget.spend_objects()
            budget.check_clock()
            for number in range(h5py.h5a.get_num_attrs(found)):
                h5py.h5a.open(found, index=number)
                budget.spend_objects()
            if (
                isinstance(found, h5py.h5d.DatasetID)
                and found.get_create_plist().get_layout() == h5py.h5d.CHUNKED
            ):
                found.get_num_chunks()

        look(b".")
        h5py.h5o.visit(file.id, look)


class AsClosed(io.RawIOBase):
    """Bytes of an HDF5 file without the mark that a writer has it open, and with its present end.

    Parameters
    ----------
    path : path
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed below
        self._size = os.fstat(self._file.fileno()).st_size
        self._start, self._superblock = self._closed_superblock()

    def _closed_superblock(self) -> tuple[int, bytes]:
        """Place and bytes of the superblock, which lies at 0 or a power of two from 512 on."""
        start = 0
        while start < self._size:
            self._file.seek(start)
            block = self._file.read(SUPERBLOCK.size) or b""
            if block.startswith(SIGNATURE) and len(block) == SUPERBLOCK.size:
                return start, self._closed(block)
            start = max(512, 2 * start)
        return 0, b""

    def _closed(self, block: bytes) -> bytes:
        signature, version, address_bytes, length_bytes, _, base, *others = SUPERBLOCK.unpack(block)
        if (version, address_bytes) != (VERSION, SIZE_OF_ADDRESSES):
            return block
        extension, _, root, _ = others
        end = max(0, self._size - base)
        fields = (signature, version, address_bytes, length_bytes, 0, base, extension, end, root, 0)
        closed = SUPERBLOCK.pack(*fields)[: -struct.calcsize("<L")]
        return closed + struct.pack("<L", checksum(closed))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        # the end stays where it was, though the writer goes on
        return (
            self._file.seek(self._size + offset) if whence == os.SEEK_END else self._file.seek(offset, whence)
        )

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        start = self._file.tell()
        count = self._file.readinto(buffer) or 0
        first = max(start, self._start)
        last = min(start + count, self._start + len(self._superblock))
        if first < last:
            closed = self._superblock[first - self._start : last - self._start]
            memoryview(buffer).cast("B")[first - start : last - start] = closed
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def checksum(data: bytes) -> int:
    """Checksum of metadata in HDF5: Jenkins' lookup3 (`hashlittle`) with the initial value 0."""
    a = b = c = (0xDEADBEEF + len(data)) & 0xFFFFFFFF
    whole = max(0, (len(data) - 1) // 12)
    for number in range(whole):
        x, y, z = struct.unpack_from("<3L", data, 12 * number)
        a, b, c = a + x, b + y, c + z
        a, c = (a - c) ^ _turned(c, 4), c + b
        b, a = (b - a) ^ _turned(a, 6), a + c
        c, b = (c - b) ^ _turned(b, 8), b + a
        a, c = (a - c) ^ _turned(c, 16), c + b
        b, a = (b - a) ^ _turned(a, 19), a + c
        c, b = (c - b) ^ _turned(b, 4), b + a
        a, b, c = a & 0xFFFFFFFF, b & 0xFFFFFFFF, c & 0xFFFFFFFF
    rest = data[12 * whole :]
    if not rest:
        return c
    x, y, z = struct.unpack("<3L", rest.ljust(12, b"\0"))
    a, b, c = a + x, b + y, c + z
    for left, right, turn in (
        (2, 1, 14),
        (0, 2, 11),
        (1, 0, 25),
        (2, 1, 16),
        (0, 2, 4),
        (1, 0, 14),
        (2, 1, 24),
    ):
        values = [a, b, c]
        values[left] = ((values[left] ^ values[right]) - _turned(values[right], turn)) & 0xFFFFFFFF
        a, b, c = values
    return c


def _turned(value: int, bits: int) -> int:
    """32 bits, rotated to the left."""
    value &= 0xFFFFFFFF
    return (value << bits | value >> (32 - bits)) & 0xFFFFFFFF
