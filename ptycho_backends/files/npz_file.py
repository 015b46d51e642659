"""NumPy's NPZ format: a zip of NPY files; each is bounded by its header before it is unpacked."""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.budget import (
    PLAIN,
    SPARSE,
    only,
    require_growth,
)
from ptycho_backends.files.data_pickle import holds_none
from ptycho_backends.files.npy_file import LONGEST_START, ArrayHeader, array_header, mapped_array, shaped
from ptycho_backends.files.safe_zip import ZipMembers

_SUFFIX = ".npy"
# A pickle of None takes less.
_MAX_NONE_BYTES = 4096


class NpzFile:
    """An NPZ file opened for reading; use it in a `with` statement.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    names : tuple of str
        Of the entries, sorted, without '.npy'.

    Raises
    ------
    ScanError
        If the file cannot be read, or is no zip whose parts agree; the text names it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with only(ScanError, self.path, "a readable NPZ file"):
            self._stream = open(self.path, "rb")  # noqa: SIM115 - closed on leaving the block
            try:
                # numpy.savez writes zip64 where an entry is large
                self._members = ZipMembers(self._stream, zip64=True)
            except BaseException:
                self._stream.close()
                raise
        self._member = {name.removesuffix(_SUFFIX): name for name in self._members.sizes}
        self.names = tuple(sorted(self._member))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def __contains__(self, name: str) -> bool:
        return name in self._member

    def header(self, name: str) -> ArrayHeader | None:
        """Shape and dtype of an entry; None if it is no NPY file of a known version."""
        with only(ScanError, self.path, "a readable NPZ file"):
            if not self._named(name).endswith(_SUFFIX):
                return None
            return array_header(self._start(name))

    def is_none(self, name: str) -> bool:
        """Recognise an entry that is None, as `numpy.savez` writes absent arrays; its pickle is never run."""
        header = self.header(name)
        if header is None or not header.dtype.hasobject or header.shape != ():
            return False
        with only(ScanError, self.path, "a readable NPZ file"):
            return holds_none(self._start(name)[header.length : header.length + _MAX_NONE_BYTES])

    def array(self, name: str, *, sparse: bool = False) -> NDArray:
        """Read an entry, checked by its CRC-32.

        Parameters
        ----------
        name : str
        sparse : bool
            True for patterns and images that may be zero almost everywhere, and so shrink to less than other arrays.

        Raises
        ------
        ScanError
            If it is damaged, holds objects of Python, claims another size than it has, or would unpack to far more
            than a genuine one does.
        """
        with only(ScanError, self.path, "a readable NPZ file"):
            header, member = self._numbers(name), self._named(name)
            growth = SPARSE if sparse else PLAIN
            stored = self._members.stored_size(member)
            if self._members.is_compressed(member):
                require_growth(ScanError, name, header.nbytes, stored, growth)
            flat = np.empty(header.count, header.dtype)
            target, place = flat.view(np.uint8) if flat.size else np.empty(0, np.uint8), -header.length
            for piece in self._members.pieces(member, within_budget=False):
                # the header comes first, perhaps in several pieces
                data = np.frombuffer(piece, np.uint8)[max(0, -place) :]
                target[max(0, place) : max(0, place) + len(data)] = data
                place += len(piece)
            return shaped(flat, header)

    def is_swollen(self, name: str) -> bool:
        """True where `array` refuses an entry because it unpacks to far more than it is stored in."""
        with only(ScanError, self.path, "a readable NPZ file"):
            member, size = self._named(name), self._members.sizes[self._named(name)]
            stored = self._members.stored_size(member)
            return self._members.is_compressed(member) and size > max(PLAIN.free, PLAIN.times * stored)

    def mapped(self, name: str) -> NDArray:
        """An entry left in the file, read-only, valid as long as the file stays as it is; its CRC is not checked."""
        with only(ScanError, self.path, "a readable NPZ file"):
            member = self._named(name)
            if self._members.is_compressed(member):
                raise ScanError(
                    f"{name} is compressed, so it cannot be mapped; write the file with "
                    "`save_scan(load_scan(path), new_path, compressed=False)`"
                )
            header, start = self._numbers(name), self._members.data_offset(member)
            if header.nbytes == 0:
                return np.empty(header.shape, header.dtype)
            return mapped_array(self.path, header, start)

    def verify(self) -> None:
        """Read every entry to its end, and compare its CRC-32."""
        with only(ScanError, self.path, "a readable NPZ file"):
            for member in self._member.values():
                for _ in self._members.pieces(member, within_budget=False):
                    pass

    def _named(self, name: str) -> str:
        if name not in self._member:
            raise ScanError(f"{name} missing; the file holds {', '.join(self.names) or 'nothing'}")
        return self._member[name]

    def _start(self, name: str) -> bytes:
        start = b""
        for piece in self._members.pieces(self._named(name), within_budget=False):
            start += piece
            if len(start) >= LONGEST_START + _MAX_NONE_BYTES:
                break
        return start

    def _numbers(self, name: str) -> ArrayHeader:
        """The header of an entry that is stored in full."""
        header = array_header(self._start(name))
        if header is None or header.dtype.hasobject:
            raise ScanError(f"{name}: holds objects of Python, want an array of numbers")
        size = self._members.sizes[self._named(name)]
        if header.length + header.nbytes != size:
            raise ScanError(
                f"{name} claims {header.dtype} of shape {header.shape}, which is not what is stored in {size} bytes"
            )
        return header
