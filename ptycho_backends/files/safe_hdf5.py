"""Reading HDF5 files that may come from anyone: plain arrays only, in bounded memory, no C parser.

The HDF5 C library had a dozen memory-corruption CVEs that only its version 2 mends, and TensorFlow pins
an older one through h5py. Files are therefore read with pyfive, which is pure Python. That leaves files
made to exhaust memory or time, so every object is looked at before pyfive opens it, what pyfive may read
of the structure is rationed, and the numbers themselves are taken straight from the file's bytes.
"""

import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ArchiveError

# The structure of a genuine file with optimizer takes 0.1 MB in 1,800 reads, the largest of 4 kB.
MAX_STRUCTURE_BYTES = 2 << 20
MAX_STRUCTURE_READS = 30_000
MAX_READ_BYTES = 1 << 16
MAX_ARRAYS = 2_000
MAX_DEPTH = 10
MAX_AXES = 8

# Header messages (HDF5 File Format Specification 3.0, section IV.A.2) that plain arrays and groups have.
# What is missing is the point: filters, external files, attributes of arrays, shared message tables.
_DATASPACE, _LINK, _ATTRIBUTE, _SYMBOL_TABLE, _ATTRIBUTE_INFO = 0x01, 0x06, 0x0C, 0x11, 0x15
_HARMLESS = {0x00, 0x0E, 0x10, 0x12, 0x16}  # padding, times, continuation, reference count
_ARRAY_MESSAGES = {_DATASPACE, 0x03, 0x04, 0x05, 0x08} | _HARMLESS
_GROUP_MESSAGES = {0x02, _LINK, 0x0A, _ATTRIBUTE, _SYMBOL_TABLE, _ATTRIBUTE_INFO} | _HARMLESS
_CONTIGUOUS = 1


@dataclass(frozen=True)
class StoredArray:
    """Where an array lies in the file; checked against the file's size, not yet read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    address: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Hdf5Arrays(Mapping[str, NDArray]):
    """The arrays of an HDF5 file by their paths (`group/array`); each is read when it is asked for.

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
        self._data, self._member, self._with_names = data, member, with_names
        try:
            # An error rather than a warning: pyfive warns where it gives up on part of a file.
            with warnings.catch_warnings(), _pyfive_quiet():
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
        import pyfive  # late: it takes a fifth of a second, which only those who read files should pay

        file = pyfive.File(_RationedFile(self._data))
        if file.userblock_size:
            raise ArchiveError("a user block precedes the file")
        if group:
            links = file._links
            if group not in links:
                raise ArchiveError(f"group {group!r} missing")
            is_plain_array(file, group, links[group])
            self._walk(file, file[group], f"{group}/", 1)
        else:
            self._walk(file, file, "", 0)
        total = sum(stored.nbytes for stored in self.stored.values())
        if total > len(self._data):
            raise ArchiveError(f"arrays of {total} bytes in a file of {len(self._data)}; they overlap")

    def _walk(self, file: Any, group: Any, prefix: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ArchiveError(f"{prefix}: groups nested too deeply")
        if self._with_names:
            self._read_name(group, prefix)
        for name, address in group._links.items():
            path = f"{prefix}{name}"
            if is_plain_array(file, path, address):
                self.stored[path] = self._located(path, group.get_lazy_view(name))
            else:
                self._walk(file, group[name], f"{path}/", depth + 1)
            if len(self.stored) > MAX_ARRAYS:
                raise ArchiveError(f"more than {MAX_ARRAYS} arrays")

    def _located(self, path: str, dataset: Any) -> StoredArray:
        shape, dtype = dataset.shape, dataset.dtype
        if shape is None or not isinstance(dtype, np.dtype) or dtype.kind not in "iufc":
            raise ArchiveError(f"{path}: got {dtype}, want numbers")
        if len(shape) > MAX_AXES:
            raise ArchiveError(f"{path}: {len(shape)} axes, want at most {MAX_AXES}")
        if dataset.id.layout_class != _CONTIGUOUS:
            raise ArchiveError(f"{path}: chunked, compact or virtual, want a contiguous array")
        stored = StoredArray(tuple(int(size) for size in shape), dtype, int(dataset.id.data_offset))
        if stored.address + stored.nbytes > len(self._data):
            raise ArchiveError(f"{path}: shape {stored.shape} reaches beyond the end of the file")
        return stored

    def _read_name(self, group: Any, prefix: str) -> None:
        value = scalar_attributes(group._dataobjects).get("name")
        if isinstance(value, bytes | str):
            text = value.decode("utf-8") if isinstance(value, bytes) else value
            self.names[prefix.rstrip("/")] = text


def is_plain_array(file: Any, path: str, address: Any, also: frozenset[int] = frozenset()) -> bool:
    """Whether the object is an array; refuses whatever is neither a plain one nor a group.

    Parameters
    ----------
    file : pyfive.File
    path : str
        Of the object, for messages.
    address
        What the link to it says.
    also : set of int
        Header messages that an array may have beside those of a plain one.

    Raises
    ------
    ArchiveError
    """
    if isinstance(address, str):
        raise ArchiveError(f"{path}: a soft link, want the array itself")
    objects = file._get_dataobjects(address)
    messages = {message["type"] for message in objects.msgs}
    is_array = _DATASPACE in messages
    foreign = messages - (_ARRAY_MESSAGES | also if is_array else _GROUP_MESSAGES)
    if foreign:
        kinds = ", ".join(_MESSAGE_NAMES.get(kind, f"message {kind:#x}") for kind in sorted(foreign))
        raise ArchiveError(f"{path}: {kinds} not allowed here")
    for start in (message["offset_to_message"] for message in objects.find_msg_type(_LINK)):
        _, flags, kind = objects.msg_data[start : start + 3]
        # Without the flag there is no such field, and the link is a hard one.
        if flags & 0x08 and kind >= 64:
            raise ArchiveError(f"{path}: an external link, want the array itself")
    return is_array


def scalar_attributes(objects: Any) -> dict[str, Any]:
    """Attributes of an object that hold one value each, as pyfive unpacks them; others are left alone.

    Parameters
    ----------
    objects : pyfive.dataobjects.DataObjects
    """
    from pyfive.dataobjects import determine_data_shape

    found = {}
    for message in objects.msgs:
        if message["type"] != _ATTRIBUTE:
            continue
        start, buffer = message["offset_to_message"], objects.msg_data
        version = buffer[start]
        sizes = np.frombuffer(buffer, "<u2", count=3, offset=start + 2).tolist()
        if version == 1:  # header of 8 bytes; name and type are padded to multiples of 8
            dataspace = start + 8 + sum(-(-size // 8) * 8 for size in sizes[:2])
        else:
            dataspace = start + 9 + sum(sizes[:2])
        # pyfive makes room for as many values as are declared before it reads the first one
        shape, _ = determine_data_shape(buffer, dataspace)
        if shape == ():
            key, value = objects.unpack_attribute(start)
            found[key] = value
    return found


_MESSAGE_NAMES = {
    0x07: "external files are",
    0x0B: "a filter is",
    _ATTRIBUTE: "an attribute is",
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
    import h5py  # late: only those who write need the C library

    with h5py.File("in-memory", "w", driver="core", backing_store=False, track_order=False) as file:
        for path, array in arrays.items():
            file.create_dataset(path, data=array, track_times=False)
        file.flush()
        return file.id.get_file_image()


@contextmanager
def _pyfive_quiet() -> Iterator[None]:
    """pyfive tells of every object at INFO, which is the level of Ptychodus's log; unless it was asked to."""
    logger = logging.getLogger("pyfive")
    level = logger.level
    if level == logging.NOTSET:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
