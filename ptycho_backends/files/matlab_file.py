"""MATLAB files: arrays of version 5, and the recognition of version 7.3, which is HDF5.

Only what scans need is read: arrays of numbers, and those in the fields of single structs. Cells, text, sparse
arrays and objects are passed over, so nothing is built by the sizes that a file claims for them. The format is that of
MathWorks' "MAT-File Format", level 5.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.budget import SPARSE, Budget, only

MAX_VARIABLES = 1000
MAX_AXES = 16
MAX_DEPTH = 3
MAX_NAME = 64
_HEADER_BYTES = 128

_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_STRUCT = 2
_NUMERIC_CLASSES = range(6, 16)
_COMPLEX = 0x0800
_CLASS = 0xFF


def is_matlab_73(path: Path) -> bool:
    """Recognise the header of a MATLAB 7.3 file."""
    with open(path, "rb") as stream:
        return stream.read(10) == b"MATLAB 7.3"


def matlab_5_arrays(path: Path) -> dict[str, NDArray]:
    """The arrays of numbers in a MATLAB 5 file, with MATLAB's axes; those in structs as `struct/field`.

    Raises
    ------
    ScanError
        If the file is damaged, or a part of it unpacks to far more than genuine patterns do.
    """
    found: dict[str, NDArray] = {}
    with only(ScanError, path, "a readable MATLAB 5 file"):
        data = np.memmap(path, np.uint8, "r").data
        order = {b"IM": "<", b"MI": ">"}.get(bytes(data[126:128]))
        if order is None:
            raise ScanError("not a readable MATLAB 5 file (no byte order)")
        budget = Budget(ScanError, unpacked=SPARSE.free + SPARSE.times * len(data))
        for kind, part in _elements(data[_HEADER_BYTES:], order, budget, aligned=False):
            if kind == _COMPRESSED:
                inner = _inflated(part, order, budget)
                for inner_kind, inner_part in _elements(inner, order, budget):
                    if inner_kind == _MATRIX:
                        _Matrix(inner_part, order, budget).collect("", found)
            elif kind == _MATRIX:
                _Matrix(part, order, budget).collect("", found)
    return found


def _elements(
    data: memoryview, order: str, budget: Budget, *, aligned: bool = True
) -> Iterator[tuple[int, memoryview]]:
    """Kind and content of each element; compressed ones are not padded to multiples of eight bytes."""
    place = 0
    while place + 8 <= len(data):
        budget.spend_objects()
        kind, size = struct.unpack_from(f"{order}LL", data, place)
        if kind >> 16:  # up to four bytes, within the tag
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4:
                raise ScanError(f"damaged; a short element of {size} bytes")
            yield kind, data[place + 4 : place + 4 + size]
            place += 8
            continue
        if place + 8 + size > len(data):
            raise ScanError(
                f"an element claims {size} bytes of {len(data) - place - 8}; the file is cut short"
            )
        yield kind, data[place + 8 : place + 8 + size]
        place += 8 + (size if kind == _COMPRESSED and not aligned else -(-size // 8) * 8)


def _inflated(part: memoryview, order: str, budget: Budget) -> memoryview:
    """A compressed element: one matrix, whose own size bounds what is unpacked."""
    start = zlib.decompressobj().decompress(part, 8)
    if len(start) < 8:
        raise ScanError("a compressed element that is cut short")
    size = 8 + int(struct.unpack(f"{order}LL", start)[1])
    budget.spend_unpacked("a compressed element", size)
    inflate = zlib.decompressobj()
    data = inflate.decompress(part, size)
    if len(data) < size:
        raise ScanError("a compressed element that is cut short")
    # the checksum comes with the end
    if inflate.decompress(inflate.unconsumed_tail, 1) or not inflate.eof:
        raise ScanError("a compressed element that is longer than it claims")
    return memoryview(data)


def _next(parts: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview]:
    for part in parts:
        return part
    raise ScanError("damaged; an array that lacks a part")


@dataclass
class _Matrix:
    """One array, struct, cell or other value of MATLAB."""

    data: memoryview
    order: str
    budget: Budget

    def collect(self, name: str, found: dict[str, NDArray], depth: int = 0) -> None:
        """Put the numbers in this value into `found`; `name` is that of its field in a struct, if it is in one."""
        parts = _elements(self.data, self.order, self.budget)
        flags = next(parts, (0, memoryview(b"")))[1]
        if len(flags) < 8 or len(found) >= MAX_VARIABLES:
            return
        (word,) = struct.unpack_from(f"{self.order}L", flags)
        kind = word & _CLASS
        if kind not in _NUMERIC_CLASSES and kind != _STRUCT:
            return
        shape = self._integers(_next(parts)[1])
        own = bytes(_next(parts)[1]).decode("latin-1")
        name = name or own
        if len(shape) > MAX_AXES or min(shape, default=0) < 0:
            raise ScanError(f"{name:.60}: claims shape {shape[:MAX_AXES]}")
        if kind == _STRUCT:
            if math.prod(shape) == 1 and depth < MAX_DEPTH:
                self._collect_fields(name, parts, found, depth)
            return
        values = self._numbers(name, shape, _next(parts))
        if word & _COMPLEX:
            values = values + 1j * self._numbers(name, shape, _next(parts))
        found[name] = values

    def _collect_fields(
        self, name: str, parts: Iterator[tuple[int, memoryview]], found: dict[str, NDArray], depth: int
    ) -> None:
        (length,) = self._integers(_next(parts)[1])
        names = bytes(_next(parts)[1])
        if not 0 < length <= MAX_NAME or len(names) // length > MAX_VARIABLES:
            raise ScanError(f"{name:.60}: a struct of fields with names of {length} bytes")
        fields = [names[place : place + length] for place in range(0, len(names), length)]
        for field, (kind, part) in zip(fields, parts, strict=False):
            if kind == _MATRIX:
                inner = f"{name}/{field.partition(bytes(1))[0].decode('latin-1')}"
                _Matrix(part, self.order, self.budget).collect(inner, found, depth + 1)

    def _integers(self, part: memoryview) -> tuple[int, ...]:
        return tuple(np.frombuffer(part, f"{self.order}i4").tolist())

    def _numbers(self, name: str, shape: tuple[int, ...], element: tuple[int, memoryview]) -> NDArray:
        """An array in the machine's byte order; MATLAB stores whole numbers in the smallest type that holds them."""
        kind, part = element
        if kind not in _NUMBERS:
            raise ScanError(f"{name:.60}: numbers of an unknown type {kind}")
        dtype = np.dtype(f"{self.order}{_NUMBERS[kind]}")
        if math.prod(shape) * dtype.itemsize != len(part):
            raise ScanError(f"{name:.60}: claims shape {shape}, but has {len(part)} bytes of {dtype}")
        return np.frombuffer(part, dtype).astype(dtype.newbyteorder("=")).reshape(shape, order="F")
