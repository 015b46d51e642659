"""Files of `torch.save`, read without PyTorch and without executing anything in them.

Such a file is a zip64 of one folder: `data.pkl`, a pickle in which tensors refer to storages, and
`data/<key>`, the bytes of each storage. The pickle is read as data (`ptycho_backends.files.data_pickle`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ArchiveError
from ptycho_backends.files.budget import MAX_PICKLE_BYTES
from ptycho_backends.files.data_pickle import Global, Vocabulary, load_data
from ptycho_backends.files.safe_zip import ZipMembers

MAX_AXES = 16

_DICTIONARY = ("collections", "OrderedDict")
_TENSOR = ("torch._utils", "_rebuild_tensor_v2")
_DTYPES = {
    ("torch", f"{name}Storage"): np.dtype(code)
    for name, code in {
        "Float": "f4", "Double": "f8", "Half": "f2", "ComplexFloat": "c8", "ComplexDouble": "c16",
        "Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "?",
    }.items()
}  # fmt: skip
_BYTE_ORDERS: Mapping[bytes, Literal["<", ">"]] = {b"little": "<", b"big": ">"}


@dataclass(frozen=True)
class _Storage:
    """Numbers in a row: one member of the zip."""

    member: str
    dtype: np.dtype
    length: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in the file, within the bounds of its storage; `TorchFile.array` gives its numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In numbers, not in bytes."""


class TorchFile:
    """Content of a file of `torch.save`: plain values, and tensors that are read on demand.

    Parameters
    ----------
    members : ZipMembers

    Attributes
    ----------
    content : object
        Plain values and containers with a `StoredTensor` for each tensor.
    pickle : str
        Name of the member that `content` is from, for messages.

    Raises
    ------
    ArchiveError
        If the zip is not such a file, its pickle holds more than data and tensors, or a tensor does not
        lie within its storage.
    """

    def __init__(self, members: ZipMembers) -> None:
        self._members = members
        self._bytes: Mapping[str, bytes] = {}
        pickles = [name for name in members.sizes if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ArchiveError("no data.pkl in a folder of its own, so torch.save did not write it")
        self.pickle = pickles[0]
        self._folder = self.pickle.removesuffix("data.pkl")
        order = f"{self._folder}byteorder"
        text = members.read(order, 16) if order in members.sizes else b"little"
        if text not in _BYTE_ORDERS:
            raise ArchiveError(f"{order}: got {text!r}, want little or big")
        self._byte_order = _BYTE_ORDERS[text]
        known = frozenset({_DICTIONARY, _TENSOR, *_DTYPES})
        vocabulary = Vocabulary(known, _called, _drop_attributes, self._storage)
        self.content = load_data(members.read(self.pickle, MAX_PICKLE_BYTES), self.pickle, vocabulary)

    def read_storages(self, limit: int) -> None:
        """Read every member to its end, so that damage anywhere is found; together at most `limit` bytes."""
        sizes = self._members.sizes
        if sum(sizes.values()) > limit:
            raise ArchiveError(f"declares {sum(sizes.values())} bytes in all, want at most {limit}")
        data = {name: self._members.read(name, limit) for name in sizes}
        self._bytes = {name: data[name] for name in sizes if self.holds_numbers(name)}

    def holds_numbers(self, name: str) -> bool:
        """Recognise the member `name` as a storage."""
        return name.startswith(f"{self._folder}data/")

    def array(self, tensor: StoredTensor) -> NDArray:
        """Read-only numbers of a tensor, in native byte order; needs `read_storages`."""
        storage = tensor.storage
        dtype = storage.dtype.newbyteorder(self._byte_order)
        row = np.frombuffer(self._bytes[storage.member], dtype).astype(storage.dtype, copy=False)
        strides = [stride * row.itemsize for stride in tensor.strides]
        return np.lib.stride_tricks.as_strided(row[tensor.offset :], tensor.shape, strides, writeable=False)

    def _storage(self, reference: Any) -> _Storage:
        """`('storage', class, key, device, length)`; the device was that of another computer."""
        if type(reference) is not tuple or len(reference) != 5 or reference[0] != "storage":
            raise ArchiveError("refers to something that is not a storage")
        _, kind, key, _, length = reference
        if type(kind) is not Global or kind.key not in _DTYPES or type(key) is not str:
            raise ArchiveError("refers to a storage of an unknown kind")
        member, dtype = f"{self._folder}data/{key}", _DTYPES[kind.key]
        if member not in self._members.sizes:
            raise ArchiveError(f"{member}: missing")
        size = self._members.sizes[member]
        if type(length) is not int or length * dtype.itemsize != size:
            raise ArchiveError(f"{member}: {size} bytes, but {length!r:.40} numbers of {dtype} are wanted")
        return _Storage(member, dtype, length)


def _called(function: Global, arguments: tuple) -> Any:
    if function.key == _DICTIONARY and not arguments:
        return {}
    if function.key == _TENSOR and len(arguments) in (6, 7):
        # then come requires_grad, hooks, and additions of a subclass of tensors
        return _tensor(*arguments[:4])
    raise ArchiveError(f"calls {function.module}.{function.name} in an unknown way")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> StoredTensor:
    if type(storage) is not _Storage:
        raise ArchiveError("a tensor without a storage")
    axes = (shape, strides)
    counts = all(type(sizes) is tuple and all(type(n) is int and n >= 0 for n in sizes) for sizes in axes)
    known = counts and len(shape) == len(strides) <= MAX_AXES and type(offset) is int
    if not known or max((offset, *shape, *strides)).bit_length() > 63:
        raise ArchiveError(f"{storage.member}: a tensor of an unknown shape")
    # strides of zero would make many numbers out of few; the first number counts even if there is none
    count = math.prod(max(n, 1) for n in shape)
    last = offset + sum((max(n, 1) - 1) * stride for n, stride in zip(shape, strides, strict=True))
    empty = 0 in shape
    if offset < 0 or count > max(storage.length, 1) or last + (not empty) > storage.length:
        text = f"shape {shape}, strides {strides}, offset {offset}"
        raise ArchiveError(f"{storage.member}: {text:.200} leave its {storage.length} numbers")
    return StoredTensor(storage, offset, shape, strides)


def _drop_attributes(target: Any, state: Any) -> None:
    """Drop `_metadata` of a dictionary of weights, in which torch keeps the versions of its layers."""
    if type(target) is not dict:
        raise ArchiveError("sets the state of something that is not known")
