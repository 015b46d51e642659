"""Patterns that stay in their file: read on access, and released again."""

import mmap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ptycho_backends.errors import ScanError

# Pixels that are converted at once where a whole scan is walked through: about 32 MB in float64.
CHUNK_PIXELS = 1024 * 64**2


class StoredPatterns(ABC):
    """Patterns that are indexed like an array (M, N, N) and read from where they are kept.

    The first axis takes a slice, an integer, or an integer array of any shape; the result is an array in
    memory. `numpy.asarray` reads everything.

    Attributes
    ----------
    shape : (M, N, N)
    dtype : numpy.dtype
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @abstractmethod
    def read(self, indices: NDArray[np.int64]) -> NDArray:
        """(K, N, N) patterns of the numbers (K,), each in `0 .. M - 1`, in that order."""

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray:
        if isinstance(key, slice):
            key = np.arange(*key.indices(len(self)))
        wanted = np.asarray(key)
        if wanted.dtype.kind not in "iu":
            raise IndexError(f"patterns: got an index of {wanted.dtype}, want integers or a slice")
        flat = wanted.reshape(-1).astype(np.int64)
        if flat.size and not (-len(self) <= flat.min() and flat.max() < len(self)):
            raise IndexError(f"patterns: got an index outside the {len(self)} that there are")
        return self.read(flat % max(1, len(self))).reshape(*wanted.shape, *self.shape[1:])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray:
        if copy is False:
            raise ValueError("patterns: they are in a file, so an array of them is a copy")
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)


class ChosenPatterns(StoredPatterns):
    """Some patterns of a file, left where they are.

    Parameters
    ----------
    patterns : (M, N, N) array or StoredPatterns
    numbers : (m,) int64
    """

    def __init__(self, patterns: Any, numbers: NDArray[np.int64]) -> None:
        self._patterns, self._numbers = patterns, numbers
        self.shape, self.dtype = (len(numbers), *patterns.shape[1:]), patterns.dtype

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        chosen = np.asarray(self._patterns[self._numbers[indices]])
        release_pages(self._patterns)
        return chosen


class ClippedPatterns(StoredPatterns):
    """Patterns with zero in place of negative values, except at the pixels `kept` (N, N)."""

    def __init__(self, patterns: NDArray, kept: NDArray[np.bool_] | None = None) -> None:
        self._patterns, self.shape, self.dtype = patterns, patterns.shape, patterns.dtype
        self._kept = kept

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        chosen = self._patterns[indices]
        release_pages(self._patterns)
        below = chosen < 0
        chosen[below if self._kept is None else below & ~self._kept] = 0
        return chosen


class JoinedPatterns(StoredPatterns):
    """Patterns of several parts, one after another.

    Parameters
    ----------
    parts : sequence of (m, H, W) arrays or StoredPatterns
        Of equal frames.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        frame = {tuple(part.shape[1:]) for part in parts}
        if len(frame) != 1:
            raise ScanError(f"patterns: got parts of frames {sorted(frame)}, want frames of one size")
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.shape = (int(self._starts[-1]), *parts[0].shape[1:])
        self.dtype = np.result_type(*(part.dtype for part in parts))

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        found = np.empty((len(indices), *self.shape[1:]), self.dtype)
        which = np.searchsorted(self._starts, indices, side="right") - 1
        for number in np.unique(which):
            mine = which == number
            found[mine] = self._parts[number][indices[mine] - self._starts[number]]
            release_pages(self._parts[number])
        return found


def chunks(count: int, side: int, at_most: int = 1024) -> Iterator[slice]:
    """Parts of `count` patterns of `side` x `side` pixels that fit into little memory."""
    step = max(1, min(at_most, CHUNK_PIXELS // max(1, side * side)))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def is_file_backed(patterns: Any) -> bool:
    """Recognise patterns that are read from a file on each access, mapped or otherwise."""
    return isinstance(patterns, StoredPatterns) or _mapping(patterns) is not None


def release_pages(patterns: Any) -> None:
    """Give back the memory of the pages that were read of a mapped array; they are read again on access."""
    mapping = _mapping(patterns)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _mapping(patterns: Any) -> mmap.mmap | None:
    """The mapping of a file that an array is a view of; None if it is none."""
    mapped, base = False, patterns
    while isinstance(base, np.ndarray):
        # of a private copy ("c") memory is the only place where changes are
        mapped |= isinstance(base, np.memmap) and base.mode != "c"
        base = base.base
    return base if mapped and isinstance(base, mmap.mmap) else None
