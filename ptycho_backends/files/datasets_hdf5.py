"""HDF5 files of data sets with attributes, as Ptychodus writes them: read without the C library, written whole.

What `safe_hdf5` refuses in an archive belongs here: attributes, chunks, LZF and gzip. The same rule holds:
pyfive reads the structure, within a ration; the numbers are taken from the file here, checked before room is
made for them.
"""

import io
import itertools
import math
import os
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ArchiveError, ScanError
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.files.safe_hdf5 import MAX_AXES, is_plain_array, scalar_attributes
from ptycho_backends.files.stored_patterns import StoredPatterns

# The index of a scan of 10 GB has 40,000 chunks of 56 bytes each, in nodes of 64.
MAX_STRUCTURE_BYTES = 16 << 20
MAX_STRUCTURE_READS = 100_000
MAX_READ_BYTES = 1 << 20

# What gzip can at most make of a byte; LZF makes less.
MAX_GROWTH = 1032

_FILTER_MESSAGE, _ATTRIBUTE, _ATTRIBUTE_INFO = 0x0B, 0x0C, 0x15
_CONTIGUOUS, _CHUNKED = 1, 2
_UNDEFINED_ADDRESS = 2**64 - 1
_GZIP, _SHUFFLE, _LZF = 1, 2, 32000

# Soft links on the way to a data set: CXI files have one or two.
MAX_SOFT_LINKS = 16

# Unpacked chunks that are kept, for patterns that lie beside the last ones.
MAX_KEPT_BYTES = 64 << 20

_CUT_SHORT = "reaches beyond the end of the file; it is cut short or was never written"

Corner = tuple[int, ...]
Places = dict[Corner, tuple[int, int, int]]
"""Address, size and filter mask of the chunk at each corner."""


class DatasetFile:
    """A file opened for reading; use it in a `with` statement.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    names : frozenset of str
        Of the data sets and groups at the root.

    Raises
    ------
    ScanError
        If the file cannot be read, or is no HDF5 file; the text names it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        try:
            self._stream: BinaryIO = open(self._path, "rb")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise ScanError(f"{path}: cannot be read ({error.strerror or error})") from error
        try:
            with self._explained():
                import pyfive  # late: it takes a fifth of a second, which only those who read should pay

                self._size = os.fstat(self._stream.fileno()).st_size
                self._file = pyfive.File(_RationedStream(self._stream))
                self.names: frozenset[str] = frozenset(self._file._links)
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def attributes(self, name: str = "") -> dict[str, float | int | str]:
        """The single numbers and texts among the attributes of a data set; '' for those of the file."""
        with self._explained():
            objects = self._file._dataobjects if not name else self._objects(name)
            for message in objects.find_msg_type(_ATTRIBUTE_INFO):
                start = message["offset_to_message"]
                # the address follows two bytes, and two more if the order of creation is kept
                start += 4 if objects.msg_data[start + 1] & 1 else 2
                if int.from_bytes(objects.msg_data[start : start + 8], "little") != _UNDEFINED_ADDRESS:
                    raise ArchiveError(
                        f"{name or 'file'}: attributes in a heap of their own, want plain ones"
                    )
            return {
                key: plain
                for key, value in scalar_attributes(objects).items()
                if (plain := _plain(value)) is not None
            }

    def array(self, name: str) -> NDArray:
        """The data set `name`, numbers in the machine's byte order.

        Raises
        ------
        ScanError
            If it is missing, no plain array of numbers, damaged, or claims to be larger than the file can hold.
        """
        with self._explained():
            dataset, shape, dtype = self._described(name)
            if math.prod(shape) == 0:
                return np.empty(shape, dtype.newbyteorder("="))
            if dataset.id.layout_class == _CONTIGUOUS:
                data = self._bytes(name, int(dataset.id.data_offset), math.prod(shape) * dtype.itemsize)
                array = np.frombuffer(data, dtype).reshape(shape)
            else:
                array = np.empty(shape, dtype)
                side, filters, places = self._chunks(name, dataset, shape)
                wanted = math.prod(side) * dtype.itemsize
                for corner, (address, size, mask) in places.items():
                    part = _part(name, self._bytes(name, address, size), filters, mask, wanted, dtype)
                    _place(array, corner, part.reshape(side))
            return array.astype(dtype.newbyteorder("="), copy=not array.flags.writeable)

    def patterns(self, name: str) -> "NDArray | StoredPatterns":
        """The data set `name`, (M, N, N), left in the file and read as it is indexed, after this is closed too.

        One that is neither chunked nor compressed is mapped into memory. Of a chunked one, whole chunks are
        read and unpacked for each pattern that is asked for, and the last ones kept.

        Parameters
        ----------
        name : str
            At the root, or a path such as `/entry_1/data_1/data`; it may lead over soft links.

        Raises
        ------
        ScanError
            As `array`.
        """
        with self._explained():
            dataset, shape, dtype = self._described(name)
            if len(shape) != 3:
                raise ArchiveError(f"{name}: got shape {shape}, want patterns (M, N, N)")
            if math.prod(shape) == 0:
                return np.empty(shape, dtype)
            if dataset.id.layout_class == _CONTIGUOUS:
                address = int(dataset.id.data_offset)
                if address + math.prod(shape) * dtype.itemsize > self._size:
                    raise ArchiveError(f"{name}: {_CUT_SHORT}")
                return np.asarray(np.memmap(self._path, dtype, "r", address, shape))
            return ChunkedPatterns(self._path, name, shape, dtype, *self._chunks(name, dataset, shape))

    def _described(self, name: str) -> tuple[Any, tuple[int, ...], np.dtype]:
        """The data set as pyfive sees it, its shape and its dtype; both can be true."""
        group, last = self._parent(name)
        dataset = group.get_lazy_view(last)
        shape, dtype = dataset.shape, dataset.dtype
        if shape is None or not isinstance(dtype, np.dtype) or dtype.kind not in "iufc":
            raise ArchiveError(f"{name}: got {dtype}, want numbers")
        if len(shape) > MAX_AXES:
            raise ArchiveError(f"{name}: {len(shape)} axes, want at most {MAX_AXES}")
        shape = tuple(int(size) for size in shape)
        if math.prod(shape) * dtype.itemsize > MAX_GROWTH * self._size:
            raise ArchiveError(
                f"{name}: claims shape {shape}, more than a file of {self._size} bytes can hold"
            )
        if math.prod(shape) and dataset.id.layout_class not in (_CONTIGUOUS, _CHUNKED):
            raise ArchiveError(f"{name}: neither contiguous nor chunked")
        return dataset, shape, dtype

    def number(self, name: str) -> float:
        """The data set `name`, which holds a single real number."""
        value = self.array(name)
        if value.size != 1 or value.dtype.kind not in "iuf":
            raise ScanError(
                f"{self._path}: {name}: got {value.dtype} of shape {value.shape}, want one number"
            )
        return float(value.reshape(()))

    def _objects(self, name: str) -> Any:
        group, last = self._parent(name)
        return self._file._get_dataobjects(group._links[last])

    def _parent(self, name: str) -> tuple[Any, str]:
        """The group that the array `name` is in, and the array's own name there; every step is looked at."""
        also = frozenset({_FILTER_MESSAGE, _ATTRIBUTE, _ATTRIBUTE_INFO})
        steps, group, links_left = name.strip("/").split("/"), self._file, MAX_SOFT_LINKS
        while True:
            step = steps.pop(0)
            if step not in group._links:
                held = ", ".join(sorted(group._links)) or "nothing"
                raise ArchiveError(f"{name} missing; the file holds {held}")
            address = group._links[step]
            if isinstance(address, str) and "/" in name.strip("/"):
                links_left -= 1
                if links_left < 0:
                    raise ArchiveError(f"{name}: its links lead in circles")
                # from the root if it says so, else from the group that holds it
                group = self._file if address.startswith("/") else group
                steps = [*(part for part in address.split("/") if part not in ("", ".")), *steps]
                continue
            is_array = is_plain_array(self._file, name, address, also)
            if is_array == bool(steps):
                raise ArchiveError(
                    f"{name}: {'an array, want a group' if steps else 'a group, want an array'}"
                )
            if is_array:
                return group, step
            group = group[step]

    def _bytes(self, name: str, address: int, count: int) -> bytes:
        if address + count > self._size:
            raise ArchiveError(f"{name}: {_CUT_SHORT}")
        self._stream.seek(address)
        return self._stream.read(count)

    def _chunks(self, name: str, dataset: Any, shape: tuple[int, ...]) -> "tuple[Corner, list[int], Places]":
        """Size of a chunk, filters, and where each chunk is; that all are there has been checked."""
        side = tuple(int(size) for size in dataset.chunks)
        filters = [entry["filter_id"] for entry in dataset.id.filter_pipeline or ()]
        foreign = sorted(set(filters) - {_GZIP, _SHUFFLE, _LZF})
        if foreign:
            raise ArchiveError(f"{name}: compressed with filter {foreign[0]}, want LZF or gzip")
        if len(side) != len(shape) or min(side) < 1:
            raise ArchiveError(f"{name}: chunks of {side} in an array of {shape}")
        corners = itertools.product(
            *(range(0, length, step) for length, step in zip(shape, side, strict=True))
        )
        index = dataset.id.index
        # one by one, so that a shape that claims more chunks than there are ends at the first missing one
        places: Places = {}
        for corner in corners:
            if corner not in index:
                raise ArchiveError(f"{name}: the part at {corner} was never written, or is lost")
            place = index[corner]
            places[corner] = int(place.byte_offset), int(place.size), int(place.filter_mask)
        if sum(size for _, size, _ in places.values()) > self._size:
            raise ArchiveError(f"{name}: parts of more bytes than the file has; they overlap")
        return side, filters, places

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn whatever pyfive meets damage with into one error that names the file."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                yield
        except ArchiveError as error:
            raise ScanError(f"{self._path}: {error}") from None
        except ScanError:
            raise
        except OSError as error:
            raise ScanError(f"{self._path}: cannot be read ({error.strerror or error})") from error
        except Exception as error:
            detail = f"{type(error).__name__}: {error}".rstrip(": ")
            raise ScanError(f"{self._path}: not a readable HDF5 file ({detail})") from error


class ChunkedPatterns(StoredPatterns):
    """Patterns in chunks of an HDF5 file; made by `DatasetFile.patterns`."""

    def __init__(
        self,
        path: Path,
        name: str,
        shape: Corner,
        dtype: np.dtype,
        side: Corner,
        filters: list[int],
        places: Places,
    ) -> None:
        self.shape, self.dtype = shape, dtype.newbyteorder("=")
        self._path, self._name, self._stored = path, name, dtype
        self._side, self._filters, self._places = side, filters, places
        self._kept: dict[int, NDArray] = {}

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        found = np.empty((len(indices), *self.shape[1:]), self.dtype)
        blocks = indices // self._side[0]
        try:
            with open(self._path, "rb") as stream:
                for block in np.unique(blocks).tolist():
                    here = np.flatnonzero(blocks == block)
                    found[here] = self._block(stream, block)[indices[here] - block * self._side[0]]
        except (OSError, ArchiveError, zlib.error) as error:
            raise ScanError(f"{self._path}: {error}") from error
        return found

    def _block(self, stream: BinaryIO, block: int) -> NDArray:
        """All patterns that share chunks with one, numbers in the machine's byte order."""
        if block in self._kept:
            return self._kept[block]
        first = block * self._side[0]
        patterns = np.empty((min(self._side[0], len(self) - first), *self.shape[1:]), self.dtype)
        wanted = math.prod(self._side) * self.dtype.itemsize
        rows, columns = (range(0, self.shape[axis], self._side[axis]) for axis in (1, 2))
        for row, column in itertools.product(rows, columns):
            address, size, mask = self._places[first, row, column]
            stream.seek(address)
            part = _part(self._name, stream.read(size), self._filters, mask, wanted, self._stored)
            _place(patterns, (0, row, column), part.reshape(self._side))
        while self._kept and (len(self._kept) + 1) * patterns.nbytes > MAX_KEPT_BYTES:
            del self._kept[next(iter(self._kept))]
        self._kept[block] = patterns
        return patterns

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}


def _part(name: str, stored: bytes, filters: list[int], mask: int, wanted: int, dtype: np.dtype) -> NDArray:
    """The numbers of a chunk of `wanted` bytes."""
    data = _decoded(stored, filters, mask, wanted, dtype.itemsize)
    if len(data) != wanted:
        raise ArchiveError(f"{name}: a part is damaged")
    return np.frombuffer(data, dtype)


def _place(array: NDArray, corner: Corner, part: NDArray) -> None:
    """Write a chunk to its place; what it has beyond the array's end is left out."""
    where = tuple(slice(start, start + step) for start, step in zip(corner, part.shape, strict=True))
    target = array[where]
    target[...] = part[tuple(map(slice, target.shape))]


class _RationedStream(io.RawIOBase):
    """A file of which only so much can be read, so that a structure that leads in circles comes to an end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._position = stream, 0
        self._bytes_left, self._reads_left = MAX_STRUCTURE_BYTES, MAX_STRUCTURE_READS

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._position = self._stream.seek(offset, whence)
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_READ_BYTES:
            raise ArchiveError(f"a piece of its structure claims {size} bytes, more than {MAX_READ_BYTES}")
        self._bytes_left -= size
        self._reads_left -= 1
        if self._bytes_left < 0 or self._reads_left < 0:
            raise ArchiveError("its structure is far larger than a scan's, or leads in circles")
        self._stream.seek(self._position)
        data = self._stream.read(size)
        self._position += len(data)
        return data


def _plain(value: Any) -> float | int | str | None:
    """An attribute's value as Python has it; None for what is neither a number nor a text."""
    if isinstance(value, bytes | str):
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if isinstance(value, np.integer | np.bool_):
        return int(value)
    return float(value) if isinstance(value, np.floating) else None


def _decoded(data: bytes, filters: list[int], mask: int, size: int, itemsize: int) -> bytes:
    """Undo the filters of a chunk, last one first; one whose bit is set in `mask` was left out."""
    for number, kind in reversed(list(enumerate(filters))):
        if mask >> number & 1:
            continue
        if kind == _LZF:
            data = lzf_decompressed(data, size)
        elif kind == _GZIP:
            data = zlib.decompressobj().decompress(data, size + 1)
        elif len(data) == size:
            data = np.frombuffer(data, np.uint8).reshape(itemsize, -1).T.tobytes()
    return data


def lzf_decompressed(data: bytes, size: int) -> bytes:
    """What LZF, HDF5's quick compression, made `data` of.

    A byte below 32 is followed by one byte more than it says, as they are. Any other refers to what came out
    before: three bits tell how many bytes (7: the next byte tells how many more), thirteen how far back.

    Parameters
    ----------
    data : bytes
    size : int
        Bytes that must come out.

    Raises
    ------
    ArchiveError
        If more or fewer come out, or `data` end early.
    """
    out = bytearray()
    position, end = 0, len(data)
    try:
        while position < end and len(out) < size:
            control = data[position]
            position += 1
            if control < 32:
                out += data[position : position + control + 1]
                position += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += data[position]
                position += 1
            start = len(out) - ((control & 0x1F) << 8) - data[position] - 1
            position += 1
            length += 2
            if start < 0:
                raise ArchiveError("compressed data refer to what is not there")
            seen = out[start : start + length]
            # it may refer to bytes that it is itself about to produce
            out += seen if len(seen) == length else (seen * (length // len(seen) + 1))[:length]
    except IndexError:
        raise ArchiveError("compressed data end early") from None
    if len(out) != size or position != end:
        raise ArchiveError(f"compressed data hold {len(out)} bytes, want {size}")
    return bytes(out)


def write_datasets(
    path: str | os.PathLike[str],
    arrays: Mapping[str, NDArray],
    attributes: Mapping[str, Mapping[str, Any]],
    compression: str | None = None,
) -> Path:
    """Write data sets at the root, and attributes of them and (under the name '') of the file; atomically.

    Parameters
    ----------
    path : path
    arrays : mapping of arrays
    attributes : mapping of mappings
        Names of data sets to their attributes.
    compression : {'lzf'}, optional
        For all that are no scalars.

    Raises
    ------
    OutputError
        If the file cannot be written; what was there before is untouched.
    """
    import h5py  # late: only those who write need the C library

    path = Path(path)
    # by its name, because h5py would read and seek in a stream, and this one is for writing
    with replaced_atomically(path) as stream, h5py.File(stream.name, "w", track_order=False) as file:
        for name, array in arrays.items():
            filters = {"compression": compression} if np.ndim(array) and np.size(array) else {}
            file.create_dataset(name, data=array, track_times=False, **filters)
        for name, values in attributes.items():
            owner = file[name] if name else file
            for key, value in values.items():
                owner.attrs[key] = value
    return path
