"""Detector frames brought to the side and the centre that a scan wants: background, shift, window, binning.

All work on the last two axes, [ky, kx].
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.files.stored_patterns import StoredPatterns, chunks, release_pages
from ptycho_backends.scans.valid_pixels import MOST_INVALID


@dataclass(frozen=True, eq=False)
class FrameSteps:
    """Steps from a stored frame (H, W) to a pattern (N, N), in this order.

    Parameters
    ----------
    valid : (H, W) bool array, optional
        Pixels that are not valid become 0, so that no marker of theirs enters a sum.
    background : float or (H, W) array
        Subtracted from counts; results below 0 become 0.
    threshold : float
        Values below become 0.
    shift : bool
        Move the zero frequency from pixel [0, 0] to `[H // 2, W // 2]`.
    transpose : bool
        Exchange rows and columns.
    centre : (int, int), [ky, kx]
        Pixel of the zero frequency after the steps above; it becomes `[N // 2, N // 2]` of the window.
    window : int
        Side of the window around the centre, in unbinned pixels; outside the frame it holds zeros.
    bin : int
        Side of the squares of pixels whose counts are summed.
    is_amplitude : bool
        Values are roots of counts; they are squared before sums and rooted afterwards.
    """

    valid: NDArray[np.bool_] | None = None
    background: float | NDArray = 0.0
    threshold: float | None = None
    shift: bool = False
    transpose: bool = False
    centre: tuple[int, int] = (0, 0)
    window: int = 0
    bin: int = 1
    is_amplitude: bool = False

    @property
    def side(self) -> int:
        """N, pixels on the side of a pattern."""
        return self.window // self.bin

    def is_needed(self, shape: tuple[int, int]) -> bool:
        """False where the steps leave frames of `shape` as they are."""
        values = np.any(self.background) or self.threshold is not None
        moved = self.shift or self.transpose or self.bin > 1
        same = shape == (self.window, self.window) and self.centre == (shape[0] // 2, shape[1] // 2)
        return bool(values or moved or not same)

    def values(self, frames: NDArray) -> NDArray:
        """Subtract the background and apply the threshold to frames (..., H, W); 0 at pixels that are not valid."""
        if self.valid is not None:
            frames = np.where(self.valid, frames, np.zeros((), frames.dtype))
        if np.any(self.background):
            counts = frames.astype(np.float32)
            counts = np.square(counts) if self.is_amplitude else counts
            counts = np.maximum(counts - np.asarray(self.background, np.float32), 0)
            frames = np.sqrt(counts) if self.is_amplitude else counts
        if self.threshold is not None:
            frames = np.where(frames < self.threshold, np.zeros((), frames.dtype), frames)
        return frames

    def placed(self, frames: NDArray) -> NDArray:
        """Shift, transpose and cut the window out of frames or masks (..., H, W); zeros outside."""
        if self.shift:
            frames = np.fft.fftshift(frames, axes=(-2, -1))
        if self.transpose:
            frames = np.swapaxes(frames, -2, -1)
        return window(frames, self.centre, self.window)

    def pattern(self, frames: NDArray) -> NDArray:
        """All steps on frames (..., H, W): patterns (..., N, N)."""
        frames = self.placed(self.values(frames))
        if self.bin == 1:
            return np.ascontiguousarray(frames)
        counts = np.square(frames.astype(np.float32)) if self.is_amplitude else frames
        summed = binned(counts, self.bin)
        return np.sqrt(summed) if self.is_amplitude else summed

    def is_mostly_padding(self, shape: tuple[int, int]) -> bool:
        """True where most of the window lies outside frames of `shape`; zeros there are taken for measured ones."""
        return bool(np.mean(self.placed(np.ones(shape, bool))) < 1 - MOST_INVALID)

    def mask(self, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
        """Valid pixels of the patterns: a binned pixel is valid where all its parts are; None where all are.

        Those outside the frame are not valid, unless they are the most.
        """
        valid = np.ones(shape, bool) if self.valid is None else self.valid
        placed = self.placed(valid)
        if self.is_mostly_padding(shape):
            placed = ~self.placed(~valid)
        if self.bin > 1:
            placed = binned(placed.astype(np.uint16), self.bin) == self.bin**2
        return None if placed.all() else placed


class SteppedPatterns(StoredPatterns):
    """Patterns of stored frames (M, H, W), made as they are read."""

    def __init__(self, frames: Any, steps: FrameSteps) -> None:
        self._frames, self._steps = frames, steps
        one = steps.pattern(np.asarray(frames[:1]))
        self.shape, self.dtype = (len(frames), *one.shape[1:]), one.dtype

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        found = np.empty((len(indices), *self.shape[1:]), self.dtype)
        for part in chunks(len(indices), max(self._frames.shape[1:])):
            found[part] = self._steps.pattern(np.asarray(self._frames[indices[part]]))
            release_pages(self._frames)
        return found


def window(frames: NDArray, centre: tuple[int, int], side: int) -> NDArray:
    """(..., side, side) of frames (..., H, W), with their pixel `centre` at `side // 2`; zeros outside."""
    height, width = frames.shape[-2:]
    low = [one - side // 2 for one in centre]
    if low == [0, 0] and (height, width) == (side, side):
        return frames
    found = np.zeros((*frames.shape[:-2], side, side), frames.dtype)
    (y, into_y), (x, into_x) = (
        _overlap(start, side, length) for start, length in zip(low, (height, width), strict=True)
    )
    found[..., into_y, into_x] = frames[..., y, x]
    return found


def _overlap(start: int, side: int, length: int) -> tuple[slice, slice]:
    """Part of `length` pixels inside a window from `start`, and its place in the window."""
    first, last = max(0, start), max(0, min(length, start + side))
    first = min(first, last)
    return slice(first, last), slice(first - start, last - start)


def binned(frames: NDArray, factor: int) -> NDArray:
    """Sums over squares of `factor` x `factor` pixels, in a dtype that holds them."""
    *leading, height, width = frames.shape
    blocks = frames.reshape(*leading, height // factor, factor, width // factor, factor)
    dtype = frames.dtype
    if dtype.kind in "iu":
        # sums of 16-bit counters fit into 32 bits for any factor in use
        dtype = np.dtype(np.int32 if dtype.itemsize <= 2 else np.float64)
    return np.asarray(blocks.sum(axis=(-3, -1), dtype=dtype))


def centre_of_mass(frames: NDArray, valid: NDArray[np.bool_] | None, is_amplitude: bool) -> tuple[int, int]:
    """Pixel `[ky, kx]` of the centre of mass of the mean counts of frames (m, H, W), rounded."""
    counts = np.square(frames.astype(np.float64)) if is_amplitude else frames.astype(np.float64)
    mean = np.nan_to_num(counts, nan=0.0, posinf=0.0, neginf=0.0).clip(min=0).mean(axis=0)
    if valid is not None:
        mean = np.where(valid, mean, 0)
    total = float(mean.sum())
    if total <= 0:
        return mean.shape[0] // 2, mean.shape[1] // 2
    rows, columns = np.indices(mean.shape)
    return round(float((rows * mean).sum()) / total), round(float((columns * mean).sum()) / total)
