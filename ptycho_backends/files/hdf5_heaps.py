"""Texts of HDF5 files lie in heaps that have no checksum: one without end would keep the library busy for ever."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ptycho_backends.errors import ScanError
from ptycho_backends.files.budget import Budget

# Larger files are not looked through.
MAX_LOOKED_AT_BYTES = 256 << 20
MAX_ENTRIES = 1_000_000
_PIECE = 8 << 20
_START = b"GCOL\x01\0\0\0"
_SIZE = struct.Struct("<Q")
# Number in the heap, references, reserved, size.
_OBJECT = struct.Struct("<HHLQ")
_ALIGNMENT = 8


def require_heaps_with_ends(path: Path) -> None:
    """Look at the heaps of a file, wherever they are.

    Raises
    ------
    ScanError
        If an entry takes no room, so that HDF5 would read it again and again; if heaps overlap, or are far too many.
    """
    size = path.stat().st_size
    if size > MAX_LOOKED_AT_BYTES:
        return
    budget = Budget(error=ScanError, objects=MAX_ENTRIES)
    left = size
    # not mapped: a file that a writer makes shorter meanwhile would end the process
    with path.open("rb") as stream:
        for start in _starts(stream):
            entries = _heap(stream, start)
            left -= len(entries)
            if left < 0:
                raise ScanError("damaged: its texts lie on top of one another")
            if _has_no_end(entries, budget):
                raise ScanError(f"damaged: its texts (at byte {start}) have no end")


def _starts(stream: IO[bytes]) -> Iterator[int]:
    """Places of the heaps; the stream may be moved meanwhile."""
    begin, overlap = 0, len(_START) - 1
    while True:
        stream.seek(begin)
        piece = stream.read(_PIECE)
        found = piece.find(_START)
        while found >= 0:
            yield begin + found
            found = piece.find(_START, found + len(_START))
        if len(piece) < _PIECE:
            return
        begin += len(piece) - overlap


def _heap(stream: IO[bytes], start: int) -> bytes:
    """The entries of a heap, one after another."""
    stream.seek(start + len(_START))
    head = stream.read(_SIZE.size).ljust(_SIZE.size, b"\0")
    size = _SIZE.unpack(head)[0] - len(_START) - _SIZE.size
    return stream.read(min(size, MAX_LOOKED_AT_BYTES)) if size > 0 else b""


def _has_no_end(entries: bytes, budget: Budget) -> bool:
    place = 0
    while place + _OBJECT.size <= len(entries):
        budget.spend_objects()
        number, _, _, size = _OBJECT.unpack_from(entries, place)
        # as HDF5 computes it, in 64 bits; the free space has the number 0
        room = size if number == 0 else _OBJECT.size + -(-size // _ALIGNMENT) * _ALIGNMENT
        room %= 1 << 64
        if room == 0:
            return True
        place += room
    return False
