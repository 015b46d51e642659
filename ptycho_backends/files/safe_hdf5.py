"""HDF5 files of models, which may come from anyone: plain arrays only, in bounded memory, no C parser.

The HDF5 C library had a dozen memory-corruption CVEs that only its version 2 mends, and TensorFlow pins
an older one through h5py. Files are therefore read with pyfive, which is pure Python. That leaves files
made to exhaust memory or time. So every object is looked at before pyfive opens it, pyfive's reading of
the structure is rationed, and the numbers themselves are taken straight from the file's bytes.
"""

import io
import math
import secrets
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ArchiveError
from ptycho_backends.files import _pyfive

# The structure of a genuine file with optimizer takes 0.1 MB in 1,800 reads, the largest of 4 kB.
MAX_STRUCTURE_BYTES = 2 << 20
MAX_STRUCTURE_READS = 30_000
MAX_READ_BYTES = 1 << 16
MAX_ARRAYS = 2_000
MAX_DEPTH = 10
MAX_AXES = 8

# Header messages (HDF5 File Format Specification 3.0, section IV.A.2) that plain arrays and groups have.
# Deliberately absent: filters, external files, attributes of arrays, shared message tables.
_SYMBOL_TABLE, _ATTRIBUTE_INFO = 0x11, 0x15
_HARMLESS = {0x00, 0x0E, 0x10, 0x12, 0x16}  # padding, times, continuation, reference count
_ARRAY_MESSAGES = {_pyfive.DATASPACE, 0x03, 0x04, 0x05, 0x08} | _HARMLESS
_GROUP_MESSAGES = {0x02, _pyfive.LINK, 0x0A, _pyfive.ATTRIBUTE, _SYMBOL_TABLE, _ATTRIBUTE_INFO} | _HARMLESS

SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class StoredArray:
    """Place of an array in the file; checked against the file's size, not yet read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    address: int
    """From the first byte of the file, a user block included."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Hdf5Arrays(Mapping[str, NDArray]):
    """The arrays of an HDF5 file by their paths (`group/array`); each is read on access.

    Parameters
    ----------
    data : bytes
        The whole file.
    member : str
        Name of the file within its archive, for messages.
    group : str
        Look only below this group of the root; '' for the whole file.
    with_names : bool
        Read the attribute `name` of the groups as well; see `names`.

    Raises
    ------
    ArchiveError
        If the file is damaged, or holds anything but groups and contiguous arrays of numbers:
        soft or external links, external, virtual, chunked or filtered data sets.
    """

    def __init__(self, data: bytes, member: str, *, group: str = "", with_names: bool = False) -> None:
        self.stored: dict[str, StoredArray] = {}
        self.names: dict[str, str] = {}
        """Attribute `name` of each group that has one, by the group's path."""
        self._data, self._with_names, self._base_address = data, with_names, 0
        try:
            # An error rather than a warning: pyfive warns where it gives up on part of a file.
            with warnings.catch_warnings(), _pyfive.quiet():
                warnings.simplefilter("error")
                self._collect(group)
        except ArchiveError as error:
            raise ArchiveError(f"{member}: {error}") from None
        except Exception as error:  # pyfive meets damage with every kind of exception, assertions too
            detail = f"{type(error).__name__}: {error}".rstrip(": ")
            raise ArchiveError(f"{member}: not a readable HDF5 file ({detail})") from error

    def __getitem__(self, path: str) -> NDArray:
        stored = self.stored[path]
        count = math.prod(stored.shape)
        flat = np.frombuffer(self._data, stored.dtype, count=count, offset=stored.address)
        return flat.reshape(stored.shape).copy()

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def _collect(self, group: str) -> None:
        root, self._base_address = _pyfive.open_root(_RationedFile(self._data))
        if self._data[self._base_address : self._base_address + 8] != SIGNATURE:
            raise ArchiveError("its base address is not where it starts")
        if group:
            if group not in root.links:
                raise ArchiveError(f"group {group!r} missing")
            _is_plain_array(root, group, group)
            self._walk(root.group(group), f"{group}/", 1)
        else:
            self._walk(root, "", 0)
        total = sum(stored.nbytes for stored in self.stored.values())
        if total > len(self._data):
            raise ArchiveError(f"arrays of {total} bytes in a file of {len(self._data)}; they overlap")

    def _walk(self, group: _pyfive.Group, prefix: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ArchiveError(f"{prefix}: groups nested too deeply")
        if self._with_names:
            self._read_name(group.header, prefix)
        for name in group.links:
            path = f"{prefix}{name}"
            if _is_plain_array(group, name, path):
                self.stored[path] = self._located(path, group.array(name))
            else:
                self._walk(group.group(name), f"{path}/", depth + 1)
            if len(self.stored) > MAX_ARRAYS:
                raise ArchiveError(f"more than {MAX_ARRAYS} arrays")

    def _located(self, path: str, array: Any) -> StoredArray:
        shape, dtype = array.shape, array.dtype
        if shape is None or not isinstance(dtype, np.dtype) or dtype.kind not in "iufc":
            raise ArchiveError(f"{path}: got {dtype}, want numbers")
        if len(shape) > MAX_AXES:
            raise ArchiveError(f"{path}: {len(shape)} axes, want at most {MAX_AXES}")
        if _pyfive.layout_class(array) != _pyfive.CONTIGUOUS:
            raise ArchiveError(f"{path}: chunked, compact or virtual, want a contiguous array")
        address = self._base_address + _pyfive.data_address(array)
        stored = StoredArray(tuple(int(size) for size in shape), dtype, address)
        if stored.address + stored.nbytes > len(self._data):
            raise ArchiveError(f"{path}: shape {stored.shape} reaches beyond the end of the file")
        return stored

    def _read_name(self, header: _pyfive.Header, prefix: str) -> None:
        value = header.scalar_attributes().get("name")
        if isinstance(value, bytes | str):
            text = value.decode("utf-8") if isinstance(value, bytes) else value
            self.names[prefix.rstrip("/")] = text


def _is_plain_array(group: _pyfive.Group, name: str, path: str) -> bool:
    """Recognise an array; refuse a member that is neither a plain array nor a plain group."""
    if isinstance(group.links[name], str):
        raise ArchiveError(f"{path}: a soft link, want the array itself")
    header = group.header_of(name)
    if foreign := header.messages - (_ARRAY_MESSAGES if header.is_array else _GROUP_MESSAGES):
        kinds = ", ".join(_MESSAGE_NAMES.get(kind, f"message {kind:#x}") for kind in sorted(foreign))
        raise ArchiveError(f"{path}: {kinds} not allowed here")
    if header.has_external_link:
        raise ArchiveError(f"{path}: an external link, want the array itself")
    return header.is_array


_MESSAGE_NAMES = {
    0x07: "external files are",
    0x0B: "a filter is",
    _pyfive.ATTRIBUTE: "an attribute is",
    _ATTRIBUTE_INFO: "an attribute is",
}


class _RationedFile(io.BytesIO):
    """Bytes of which only so much can be read, so that a structure that leads in circles comes to an end."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._bytes_left, self._reads_left = MAX_STRUCTURE_BYTES, MAX_STRUCTURE_READS

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_READ_BYTES:
            raise ArchiveError(f"a piece of its structure claims {size} bytes, more than {MAX_READ_BYTES}")
        self._bytes_left -= size
        self._reads_left -= 1
        if self._bytes_left < 0 or self._reads_left < 0:
            raise ArchiveError("its structure is far larger than a model's, or leads in circles")
        return super().read(size)


def hdf5_bytes(arrays: Mapping[str, NDArray]) -> bytes:
    """An HDF5 file of contiguous arrays by their paths; the same arrays give the same bytes."""
    import h5py  # late: only writing needs the C library

    if len(arrays) > MAX_ARRAYS:
        raise ArchiveError(f"{len(arrays)} arrays, more than the {MAX_ARRAYS} that can be read again")

    with h5py.File(
        f"in-memory-{secrets.token_hex(8)}", "w", driver="core", backing_store=False, track_order=False
    ) as file:
        for path, array in arrays.items():
            file.create_dataset(path, data=array, track_times=False)
        file.flush()
        return file.id.get_file_image()
