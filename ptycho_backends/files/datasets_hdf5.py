"""HDF5 files of data sets with attributes, as detectors and Ptychodus write them: read and written with h5py.

These are files that a user names on their own machine; compression, virtual data sets and links to files
beside them are theirs to choose, so the C library reads them. Models come from strangers, and are read by `safe_hdf5`.
"""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.budget import BY_FRAME, PLAIN, SPARSE
from ptycho_backends.files.file_kind import require_hdf5
from ptycho_backends.files.hdf5_chunks import Chunks
from ptycho_backends.files.hdf5_output import created_hdf5
from ptycho_backends.files.located_hdf5 import (
    MAX_CHUNK_BYTES,
    Hdf5Tree,
    holds_numbers,
    member_names,
    open_hdf5,
)
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.files.stored_patterns import StoredPatterns

if TYPE_CHECKING:
    import h5py

# Unpacked chunks that are kept, for patterns that lie beside the last ones.
MAX_KEPT_BYTES = 64 << 20
_CACHE_SLOTS = 10_007
MAX_TEXT = 1 << 16

# Of a listing of unknown files.
MAX_LISTED, MAX_GROUPS, MAX_LOOKED_AT = 1000, 200, 4000
MAX_DEPTH = 8


class DatasetFile:
    """An HDF5 file opened for reading; use it in a `with` statement.

    Names of data sets are paths from the root. They may lead over soft links, and over external links and
    through virtual data sets to files below the file's own folder.

    Parameters
    ----------
    path : path
    known : bool
        It was open before: its structure is not looked through again.

    Attributes
    ----------
    names : frozenset of str
        Of the data sets and groups at the root.

    Raises
    ------
    ScanError
        If the file cannot be read, or is no HDF5 file; the text names it.
    """

    def __init__(self, path: str | os.PathLike[str], known: bool = False) -> None:
        self._path = Path(path)
        require_hdf5(self._path)
        with _explained(self._path):
            self._tree = Hdf5Tree(self._path, known)
            self.names: frozenset[str] = member_names(self._tree.file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tree.close()

    def attributes(self, name: str = "") -> dict[str, float | int | str]:
        """The single numbers and texts among the attributes of a data set or group; '' for those of the file."""
        found = {}
        with _explained(self._path):
            attributes = self._tree.find(name).attrs
            for key in attributes:
                # an array of any size may be claimed, so its values are not looked at
                known = attributes.get_id(key)
                if known.shape not in ((), (1,)) or known.dtype.itemsize > MAX_TEXT:
                    continue
                value = attributes[key]
                if (plain := _plain(value.item() if np.ndim(value) else value)) is not None:
                    found[key] = plain
        return found

    def holds(self, *names: str) -> bool:
        """True where there is a data set or group at every one of the paths `names`."""
        for name in names:
            try:
                with _explained(self._path):
                    self._tree.find(name)
            except ScanError:
                return False
        return True

    def is_entry(self, name: str) -> bool:
        """Recognise a group that NeXus marks as an entry."""
        try:
            return self.attributes(name).get("NX_class") == "NXentry"
        except ScanError:
            return False

    def members(self, name: str = "") -> list[str]:
        """Names in the group `name`, sorted; none if it is an array or absent."""
        import h5py

        try:
            with _explained(self._path):
                found = self._tree.find(name)
                return sorted(member_names(found)) if isinstance(found, h5py.Group) else []
        except ScanError:
            return []

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of the data set `name`; None if there is none, or it holds no numbers."""
        import h5py

        try:
            with _explained(self._path):
                found = self._tree.find(name)
                is_array = isinstance(found, h5py.Dataset) and found.shape is not None
                return tuple(found.shape) if is_array and holds_numbers(found.dtype) else None
        except ScanError:
            return None

    def text(self, name: str) -> str | None:
        """The text in the data set `name`; None if it is absent, or no text."""
        import h5py

        try:
            with _explained(self._path):
                found = self._tree.find(name)
                is_text = isinstance(found, h5py.Dataset) and found.dtype.kind in "OS" and found.size == 1
                # elsewhere there may be anything of the machine's
                is_text = is_text and not found.external and not found.is_virtual and found.chunks is None
                value = found[()] if is_text and found.dtype.itemsize <= MAX_TEXT else None
        except ScanError:
            return None
        value = value.reshape(-1)[0] if isinstance(value, np.ndarray) else value
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def datasets(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays of numbers in the file, by their paths; at most `MAX_LISTED` of them."""
        found: dict[str, tuple[int, ...]] = {}
        # groups may hold themselves, so their number is limited too
        open_groups, visited, looked_at = [("", 0)], 0, 0
        while open_groups and len(found) < MAX_LISTED and visited < MAX_GROUPS and looked_at < MAX_LOOKED_AT:
            group, depth = open_groups.pop(0)
            visited += 1
            members = self.members(group)[:MAX_LISTED]
            looked_at += len(members)
            for member in members:
                path = f"{group}/{member}"
                shape = self.shape(path)
                if shape is not None:
                    found[path] = shape
                elif depth < MAX_DEPTH:
                    open_groups.append((path, depth + 1))
        return found

    def array(self, name: str, *, sparse: bool = False) -> NDArray:
        """Read the data set `name`, numbers in the machine's byte order.

        Parameters
        ----------
        name : str
        sparse : bool
            True for patterns, which may be zero almost everywhere and so shrink to less than other arrays.

        Raises
        ------
        ScanError
            If it is missing, no plain array of numbers, damaged, or unpacks to far more than a genuine one does.
        """
        with _explained(self._path):
            dataset = self._tree.dataset(name, SPARSE if sparse else PLAIN)
            if dataset.chunks is not None and dataset.ndim and not dataset.is_virtual:
                Chunks(name, dataset).require_bounded(dataset, 0, len(dataset))
            array = np.empty(dataset.shape, dataset.dtype.newbyteorder("="))
            if array.size:
                dataset.read_direct(array)
            return array if array.dtype.names is None else array["real"] + 1j * array["imag"]

    def rows(self, name: str, start: int, stop: int) -> NDArray:
        """Rows `start` to `stop` along the first axis of the data set `name`, as far as there are any.

        For files that are still being written: parts that were never written are read as the file's fill value.

        Raises
        ------
        ScanError
            If there is no plain data set of numbers at that path, or its parts are in other files.
        """
        with _explained(self._path):
            dataset = self._tree.growing_dataset(name)
            return np.asarray(dataset[start : min(stop, len(dataset))])

    def growing_patterns(self, name: str) -> "Hdf5Patterns":
        """The data set `name`, (M, H, W), as long as it is now, left in its file; not all of it need be written.

        Raises
        ------
        ScanError
            As `rows`.
        """
        with _explained(self._path):
            return Hdf5Patterns(self._tree.growing_dataset(name))

    def number(self, name: str) -> float:
        """Read the data set `name`, which holds a single real number."""
        value = self.array(name)
        if value.size != 1 or value.dtype.kind not in "iuf":
            raise ScanError(
                f"{self._path}: {name}: got {value.dtype} of shape {value.shape}, want one number"
            )
        return float(value.reshape(()))

    def patterns(self, name: str) -> "NDArray | StoredPatterns":
        """The data set `name`, (M, N, N), left in its file and read as it is indexed, after this is closed too.

        One that lies in one piece is mapped into memory. Of a chunked one, whole chunks are read and unpacked
        for each pattern, and the last ones kept.

        Raises
        ------
        ScanError
            As `array`.
        """
        with _explained(self._path):
            dataset = self._tree.dataset(name, BY_FRAME)
            shape, dtype = dataset.shape, dataset.dtype
            if len(shape) != 3:
                raise ScanError(f"{name}: got shape {shape}, want patterns (M, N, N)")
            if dataset.size == 0:
                return np.empty(shape, dtype)
            if _is_in_one_piece(dataset):
                address = dataset.id.get_offset()
                if address + dataset.nbytes > os.path.getsize(dataset.file.filename):
                    raise ScanError(f"{name}: reaches beyond the end of the file; it is cut short")
                return np.asarray(np.memmap(dataset.file.filename, dtype, "r", address, shape))
            return Hdf5Patterns(dataset)


class Hdf5Patterns(StoredPatterns):
    """Patterns in an HDF5 file, made by `DatasetFile.patterns`.

    Each process opens the file for itself when it first reads. It is closed with the last reference to them.
    """

    def __init__(self, dataset: "h5py.Dataset") -> None:
        self.shape, self.dtype = dataset.shape, dataset.dtype.newbyteorder("=")
        self._path, self._name = dataset.file.filename, dataset.name
        self._kept_bytes = _kept_bytes(dataset)
        is_packed = dataset.chunks is not None and not dataset.is_virtual
        self._chunks = Chunks(self._name, dataset) if is_packed else None
        self._opened: tuple[int, h5py.Dataset] | None = None

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        wanted, inverse = np.unique(indices, return_inverse=True)
        found = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        # neighbours in the file are read together
        runs = np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(wanted) != 1) + 1)
        with _explained(self._path):
            dataset = self._dataset()
            for run in runs if len(wanted) else ():
                first, last = wanted[run[0]], wanted[run[-1]]
                if self._chunks is not None:
                    self._chunks.require_bounded(dataset, first, last)
                dataset.read_direct(found, np.s_[first : last + 1], np.s_[run[0] : run[-1] + 1])
        return found if np.array_equal(wanted, indices) else found[inverse]

    def _dataset(self) -> "h5py.Dataset":
        # a forked process has its parent's handle, which is not its own to use
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), self._open()
        return self._opened[1]

    def _open(self) -> "h5py.Dataset":
        import h5py
        from h5py import h5d, h5p

        file = open_hdf5(Path(self._path), known=True)
        access = h5p.create(h5p.DATASET_ACCESS)
        access.set_chunk_cache(_CACHE_SLOTS, self._kept_bytes, 0.75)
        return h5py.Dataset(h5d.open(file.id, self._name.encode(), access))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def _kept_bytes(dataset: "h5py.Dataset") -> int:
    """Size of a cache for the chunks of neighbouring patterns, and for those of one pattern if they are larger."""
    if dataset.chunks is None:
        return MAX_KEPT_BYTES
    of_one = dataset.chunks[0] * math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
    # chunks that span the whole scan must not bring all of it into memory
    return max(MAX_KEPT_BYTES, min(2 * of_one, MAX_CHUNK_BYTES))


def _is_in_one_piece(dataset: "h5py.Dataset") -> bool:
    """Recognise a data set whose numbers lie in the file as NumPy has them in memory."""
    from h5py import h5d, h5t

    is_contiguous = dataset.id.get_create_plist().get_layout() == h5d.CONTIGUOUS
    return is_contiguous and dataset.id.get_type() == h5t.py_create(dataset.dtype)


@contextmanager
def _explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn any error of h5py into one that names the file."""
    try:
        yield
    except ScanError as error:
        raise ScanError(f"{path}: {error}") from error.__cause__
    except MemoryError as error:
        raise ScanError(f"{path}: needs more memory than there is; leave the patterns in the file") from error
    except Exception as error:  # the C library meets damage with many kinds of exception
        raise ScanError(f"{path}: not a readable HDF5 file ({error})") from error


def _plain(value: Any) -> float | int | str | None:
    """An attribute's value as Python has it; None for other values than numbers and texts."""
    if isinstance(value, bytes | str):
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if isinstance(value, np.integer | np.bool_):
        return int(value)
    return float(value) if isinstance(value, np.floating) else None


def write_datasets(
    path: str | os.PathLike[str],
    arrays: Mapping[str, NDArray],
    attributes: Mapping[str, Mapping[str, Any]],
    compression: str | None = None,
    *,
    checksums: bool = True,
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
    checksums : bool
        Fletcher-32 for each chunk, which every HDF5 library checks; False leaves arrays in one piece, to be mapped.

    Raises
    ------
    OutputError
        If the file cannot be written; an earlier file is untouched.
    """
    path = Path(path)
    with replaced_atomically(path) as stream, created_hdf5(stream) as file:
        _fill(file, arrays, attributes, compression, checksums)
    return path


def _fill(
    file: "h5py.File",
    arrays: Mapping[str, NDArray],
    attributes: Mapping[str, Mapping[str, Any]],
    compression: str | None,
    checksums: bool,
) -> None:
    for name, array in arrays.items():
        filters: dict[str, Any] = {}
        if np.ndim(array) and np.size(array):
            filters = {"compression": compression, "fletcher32": checksums}
        file.create_dataset(name, data=array, track_times=False, **filters)
    for name, values in attributes.items():
        owner = file[name] if name else file
        for key, value in values.items():
            owner.attrs[key] = value
