"""NumPy's NPY format: a short header, then the numbers; read with bounds, in memory or mapped."""

import io
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.budget import MAX_ARRAY_HEADER, only

MAGIC = b"\x93NUMPY"
# Signature, version, length of the rest in two bytes or four.
_LENGTHS = {(1, 0): struct.Struct("<6xBBH"), (2, 0): struct.Struct("<6xBBL")}
LONGEST_START = 12 + MAX_ARRAY_HEADER


@dataclass(frozen=True)
class ArrayHeader:
    """Announcement of an array; `length` is that of the header itself in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    length: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


def array_header(start: bytes) -> ArrayHeader | None:
    """The header of an NPY file that begins with `start`, of at least `LONGEST_START` bytes or the whole file.

    Returns
    -------
    ArrayHeader or None
        None for a version that holds no plain arrays.

    Raises
    ------
    ScanError
        If it is damaged, or longer than any header of an array of numbers.
    """
    if not start.startswith(MAGIC):
        raise ScanError("not a readable NPY file")
    form = _LENGTHS.get(tuple(start[6:8]))  # type: ignore[arg-type]
    if form is None:
        return None
    if len(start) < form.size:
        raise ScanError("cut short")
    (*_, length) = form.unpack_from(start)
    text = start[form.size : form.size + length]
    if length > MAX_ARRAY_HEADER or len(text) < length:
        raise ScanError(f"a header that claims {length} bytes, want at most {MAX_ARRAY_HEADER}")
    shape, fortran, dtype = npy.read_array_header_1_0(io.BytesIO(struct.pack("<H", length) + text))
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ScanError(f"claims shape {shape!s:.80}")
    return ArrayHeader(shape, dtype, bool(fortran), form.size + length)


def load_npy(path: Path) -> NDArray:
    """The array in an NPY file, of numbers or texts, left in the file and read-only.

    Raises
    ------
    ScanError
        If the file cannot be read, is damaged, holds objects of Python, or claims more than it holds.
    """
    with only(ScanError, path, "a readable NPY file"):
        with open(path, "rb") as stream:
            header = array_header(stream.read(LONGEST_START))
            if header is None or header.dtype.hasobject:
                raise ScanError("holds objects of Python, want an array of numbers")
            size = os.fstat(stream.fileno()).st_size
            if header.length + header.nbytes > size:
                raise ScanError(
                    f"claims {header.dtype} of shape {header.shape}, but holds {size} bytes; it is cut short"
                )
            if header.nbytes == 0:
                return np.empty(header.shape, header.dtype)
        return mapped_array(path, header)


def shaped(flat: NDArray, header: ArrayHeader) -> NDArray:
    """Numbers in the order of the file, as the array that `header` announces."""
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def mapped_array(path: Path, header: ArrayHeader, start: int = 0) -> NDArray:
    """The array that `header` announces, whose NPY data begin at byte `start` of a file; left there, read-only."""
    offset = start + header.length
    return np.asarray(
        np.memmap(path, header.dtype, "r", offset, header.shape, "F" if header.fortran else "C")
    )
