"""Sources of frames that are being written: files that appear in a folder, a data set that grows.

A source never loses a frame: what has not been taken waits on the disk. What cannot be read is tried again, and named
once that is given up.
"""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.datasets_hdf5 import DatasetFile
from ptycho_backends.files.stored_patterns import ChosenPatterns, JoinedPatterns
from ptycho_backends.files.tiff_file import TiffPatterns
from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.readers.folder import TIFF_SUFFIXES
from ptycho_backends.scans.readers.growing_hdf5 import (
    Growth,
    Layout,
    growth_of,
    layout_of,
    read_first,
    source_of,
)
from ptycho_backends.scans.readers.source import LARGE_BYTES
from ptycho_backends.scans.scan_options import NO_OPTIONS, ScanOptions

PATIENCE_S = 5.0
"""A file that cannot be read is given up when it has not changed for so long."""

# Pauses between two attempts at a file that cannot be read, and before the first number in a folder is believed.
RETRY_S, SETTLE_S = 0.2, 0.5
# A folder is listed again only after so many times the duration of a listing.
LISTING_PAUSE = 4.0

# Changes of a file within this time may leave its time as it was.
CLOCK_TICK_S = 0.1
# Frames in which light is looked for behind a dark stretch.
SAMPLED_FRAMES = 16

FRAME_SUFFIXES = (*TIFF_SUFFIXES, ".npy")

Clock = Callable[[], float]
"""Seconds since 1970."""


@dataclass(frozen=True, eq=False)
class Taken:
    """Frames taken from a source.

    Attributes
    ----------
    numbers : (n,) int64
        Of the frames in the scan, which are the rows of its positions.
    frames : (n, H, W) real array, [ky, kx]
    written_s : (n,) float64
        Times at which they were written, in seconds since 1970.
    """

    numbers: NDArray[np.int64]
    frames: NDArray
    written_s: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.numbers)


class FrameSource(Protocol):
    """Frames of a scan that is being written.

    Attributes
    ----------
    left_out : list of str
        Files and frames that were given up, each with the reason.
    seen : int
        Frames that were written so far, as far as it is known.
    """

    left_out: list[str]

    @property
    def seen(self) -> int: ...

    def poll(self, ended: bool = False) -> None:
        """Look for new frames; `ended` where none will follow."""
        ...

    def take(self, most: int, below: int) -> Taken | None:
        """At most `most` new frames with numbers below `below`; None where none can be read now."""
        ...

    def stored(self, numbers: NDArray[np.int64]) -> RawScan:
        """The scan of frames that were taken, without positions unless the file has them."""
        ...


class FolderFrames:
    """TIFF and NPY files of a folder, of one frame or several each.

    The last number in a file's name orders the files. The smallest one of the first files is that of the first; a
    missing file leaves a gap in the numbers of the frames.

    Parameters
    ----------
    folder : Path
    patience_s : float
    clock : callable, optional
    """

    def __init__(self, folder: Path, patience_s: float = PATIENCE_S, clock: Clock = time.time) -> None:
        self._folder, self._patience_s, self._clock = folder, patience_s, clock
        self.left_out: list[str] = []
        self._known: set[str] = set()
        self._waiting: dict[int, Path] = {}
        self._trouble: dict[int, tuple[float, tuple[int, int]]] = {}
        self._read: dict[int, tuple[Path, int]] = {}
        self._first: int | None = None
        self._first_seen_s: float | None = None
        self._of_one: tuple[int, tuple[int, ...]] | None = None
        self._listed_s = self._listing_s = 0.0
        self._ended = False

    @property
    def seen(self) -> int:
        each = 1 if self._of_one is None else self._of_one[0]
        return sum(count for _, count in self._read.values()) + each * len(self._waiting)

    def poll(self, ended: bool = False) -> None:
        self._ended = ended
        now = self._clock()
        if not ended and now - self._listed_s < LISTING_PAUSE * self._listing_s:
            return
        started = time.perf_counter()
        try:
            with os.scandir(self._folder) as entries:
                names = [entry.name for entry in entries if entry.name not in self._known]
        except FileNotFoundError:
            return
        for name in names:
            path = self._folder / name
            if name.startswith(".") or path.suffix.lower() not in FRAME_SUFFIXES:
                continue
            self._known.add(name)
            digits = re.findall(r"\d+", path.stem)
            if not digits:
                self.left_out.append(f"{name}: no number in its name, so its place in the scan is not known")
                continue
            self._enter(int(digits[-1]), path)
        self._listed_s, self._listing_s = now, time.perf_counter() - started
        if self._waiting and self._first_seen_s is None:
            self._first_seen_s = now
        settled = self._first_seen_s is not None and now - self._first_seen_s >= SETTLE_S
        if self._first is None and self._waiting and (settled or ended):
            self._first = min(self._waiting)

    def _enter(self, number: int, path: Path) -> None:
        if number in self._waiting or number in self._read:
            self.left_out.append(f"{path.name}: there is another file of the number {number}")
        elif self._first is not None and number < self._first:
            self.left_out.append(f"{path.name}: came after the scan had begun with the number {self._first}")
        else:
            self._waiting[number] = path

    def take(self, most: int, below: int) -> Taken | None:
        if self._first is None:
            return None
        now, numbers, frames, written = self._clock(), list[int](), list[NDArray](), list[float]()
        for number in sorted(self._waiting):
            place = self._row_of(number)
            if place >= below or len(numbers) >= most:
                break
            if number in self._trouble and not self._ended and now - self._trouble[number][0] < RETRY_S:
                continue
            path = self._waiting[number]
            try:
                state = _state(path)
                found = _frames_of(path)
                self._require_fitting(path, found)
            except (ScanError, OSError) as error:
                self._note_trouble(number, path, str(error), now)
                continue
            place = self._row_of(number)
            if place + len(found) > below and not (self._ended and place < below):
                # positions of all its frames are needed
                continue
            found = found[: below - place]
            del self._waiting[number]
            self._trouble.pop(number, None)
            self._read[number] = path, len(found)
            numbers += range(place, place + len(found))
            frames += [found]
            written += [state[1] * 1e-9] * len(found)
        if not numbers:
            return None
        return Taken(np.array(numbers), np.concatenate(frames), np.array(written))

    def _row_of(self, number: int) -> int:
        assert self._first is not None
        return (number - self._first) * (1 if self._of_one is None else self._of_one[0])

    def _require_fitting(self, path: Path, found: NDArray) -> None:
        if self._of_one is None:
            self._of_one = len(found), found.shape[1:]
        count, frame = self._of_one
        if found.shape[1:] != frame or len(found) > count:
            raise ScanError(f"got {len(found)} frames of {found.shape[1:]}, want {count} of {frame}")

    def _note_trouble(self, number: int, path: Path, reason: str, now: float) -> None:
        """Try the file again later; give it up where it has not changed for the patience."""
        try:
            state = _state(path)
        except OSError:
            state = (-1, -1)
        since = self._trouble.get(number)
        first_s = since[0] if since is not None and since[1] == state else now
        stale = now - max(first_s, state[1] * 1e-9) >= self._patience_s and since is not None
        if stale or self._ended:
            del self._waiting[number]
            self._trouble.pop(number, None)
            reason = reason.removeprefix(f"{path}: ")
            self.left_out.append(f"{path.name}: {reason}")
        else:
            self._trouble[number] = first_s, state

    def stored(self, numbers: NDArray[np.int64]) -> RawScan:
        wanted = np.unique(numbers)
        used = [
            (self._row_of(number), *self._read[number])
            for number in sorted(self._read)
            if np.any(
                (wanted >= self._row_of(number)) & (wanted < self._row_of(number) + self._read[number][1])
            )
        ]
        joined = JoinedPatterns([_left_in_file(path) for _, path, _ in used])
        rows = np.concatenate([place + np.arange(len(_left_in_file(path))) for place, path, _ in used])
        patterns: Any = ChosenPatterns(joined, np.searchsorted(rows, wanted))
        raw = RawScan(format="folder", name=self._folder.resolve().name, patterns=_in_memory(patterns))
        names = f"{used[0][1].name} .. {used[-1][1].name}"
        raw.took("patterns", f"{len(used)} files, {names}")
        return raw


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _left_in_file(path: Path) -> Any:
    if path.suffix.lower() in TIFF_SUFFIXES:
        return TiffPatterns(path)
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ScanError(f"{path}: not a readable NPY file, or not written in full yet ({error})") from error
    if values.ndim not in (2, 3) or values.dtype.kind not in "iuf" or 0 in values.shape:
        raise ScanError(f"{path}: got {values.dtype} of shape {values.shape}, want frames (ky, kx)")
    return values if values.ndim == 3 else values[None]


def _frames_of(path: Path) -> NDArray:
    """Frames (n, H, W) of a file, read in full."""
    try:
        return np.array(_left_in_file(path)[:])
    except (ScanError, OSError):
        raise
    except Exception as error:  # damage makes libraries raise almost anything
        raise ScanError(f"{path}: not readable ({error})") from error


def _in_memory(patterns: Any) -> Any:
    """Patterns in memory, unless they are large."""
    nbytes = int(np.prod(patterns.shape, dtype=object)) * patterns.dtype.itemsize
    return patterns if nbytes > LARGE_BYTES else np.asarray(patterns)


class Hdf5Frames:
    """A data set of frames that grows in an HDF5 file, with positions beside it or from elsewhere.

    Frames at its end that are zero in all pixels wait until another follows: a data set may be longer than what was
    written of it.

    Parameters
    ----------
    path : Path
        Need not exist yet.
    options : ScanOptions
        Names of the data sets, if they are not those in common use.
    patience_s : float
    clock : callable, optional
    """

    def __init__(
        self,
        path: Path,
        options: ScanOptions = NO_OPTIONS,
        patience_s: float = PATIENCE_S,
        clock: Clock = time.time,
    ) -> None:
        self._path, self._options, self._patience_s, self._clock = path, options, patience_s, clock
        self.left_out: list[str] = []
        self._layout: Layout | None = None
        self._growth = Growth(0)
        self._next = 0
        self._marks: list[tuple[int, float]] = []
        self._polled_s = clock()
        self._state: tuple[int, int] | None = None
        self._trouble_s: float | None = None
        self._reason = ""
        self._ended = False
        self._dark_from: int | None = None

    @property
    def seen(self) -> int:
        return self._growth.frames if self._dark_from is None else self._dark_from

    @property
    def known(self) -> NDArray[np.float64] | None:
        """(M, 2) positions of the file so far, `[x, y]` in its unit; None where it has none."""
        return self._growth.positions

    @property
    def unit(self) -> str | None:
        """Unit of `known`, where the file states it."""
        return self._growth.unit

    def poll(self, ended: bool = False) -> None:
        self._ended = ended
        before_s, self._polled_s = self._polled_s, self._clock()
        try:
            state = _state(self._path)
        except OSError:
            return
        if state == self._state and not ended and self._polled_s - state[1] * 1e-9 > CLOCK_TICK_S:
            return
        try:
            with DatasetFile(self._path, known=self._layout is not None) as file:
                if self._layout is None:
                    self._layout = layout_of(file, source_of(self._path, self._options))
                if self._layout is None:
                    return
                self._growth = growth_of(file, self._layout)
        except ScanError as error:
            # its head may be half-written, or its writer may have it for itself
            self._reason = str(error)
            return
        self._state, self._dark_from = state, None
        if self._growth.frames > (self._marks[-1][0] if self._marks else 0):
            # written since the last look at the earliest
            self._marks.append((self._growth.frames, before_s))

    def take(self, most: int, below: int) -> Taken | None:
        stop = min(self._next + most, self.seen, below)
        if self._layout is None or stop <= self._next:
            return None
        try:
            with DatasetFile(self._path, known=self._layout is not None) as file:
                frames = file.rows(self._layout.patterns, self._next, stop)
                written = self._written(file, self._next, stop)
        except ScanError as error:
            return self._without_damaged(str(error), stop)
        frames = self._written_in_full(frames, stop)
        if len(frames) == 0:
            return None
        numbers = np.arange(self._next, self._next + len(frames))
        self._next += len(frames)
        self._trouble_s = None
        return Taken(numbers, frames, written[: len(frames)])

    def _written_in_full(self, frames: NDArray, stop: int) -> NDArray:
        """`frames` up to the last that has light; all of them where light follows."""
        lit = np.flatnonzero(frames.reshape(len(frames), -1).any(axis=1))
        count = int(lit[-1]) + 1 if len(lit) else 0
        if count == len(frames):
            return frames
        first = self._next + count
        if count == 0 and self._is_lit_after(stop):
            return frames
        if count == 0 or stop == self._growth.frames:
            self._dark_from = first
            if self._ended:
                self.left_out.append(
                    f"{self._path.name}: frames {first} .. {self._growth.frames - 1} at its end are empty, or were "
                    "never written"
                )
        return frames[:count]

    def _is_lit_after(self, start: int) -> bool:
        """True where some of the frames from `start` on have light."""
        assert self._layout is not None
        few = np.unique(np.linspace(start, self._growth.frames - 1, SAMPLED_FRAMES).astype(int))
        try:
            with DatasetFile(self._path, known=self._layout is not None) as file:
                return start < self._growth.frames and any(
                    file.rows(self._layout.patterns, number, number + 1).any() for number in few.tolist()
                )
        except ScanError:
            return False

    def _written(self, file: DatasetFile, start: int, stop: int) -> NDArray[np.float64]:
        assert self._layout is not None
        if self._layout.timestamps is not None:
            stamps = file.rows(self._layout.timestamps, start, stop).astype(np.float64)
            if len(stamps) == stop - start and (stamps > 0).all():
                return stamps
        lengths, times = (np.array(column) for column in zip(*self._marks, strict=True))
        return times[
            np.minimum(np.searchsorted(lengths, np.arange(start, stop), side="right"), len(times) - 1)
        ]

    def _without_damaged(self, reason: str, stop: int) -> Taken | None:
        """Wait for the damage to pass; then step over the first frame, or take it, and go on with the others."""
        assert self._layout is not None
        now = self._clock()
        if self._trouble_s is None:
            self._trouble_s = now
        if now - self._trouble_s < self._patience_s and not self._ended:
            return None
        number, self._next = self._next, self._next + 1
        try:
            with DatasetFile(self._path, known=self._layout is not None) as file:
                frame = file.rows(self._layout.patterns, number, number + 1)
                return Taken(np.array([number]), frame, self._written(file, number, number + 1))
        except ScanError:
            self.left_out.append(
                f"{self._path.name}: frame {number}: {reason.removeprefix(f'{self._path}: ')}"
            )
            return None

    def stored(self, numbers: NDArray[np.int64]) -> RawScan:
        assert self._layout is not None
        wanted = np.unique(numbers)
        raw = read_first(self._path, self._options, self._layout, int(wanted[-1]) + 1)
        if len(wanted) < len(raw.patterns):
            raw.patterns = ChosenPatterns(raw.patterns, wanted)
        raw.patterns = _in_memory(raw.patterns)
        # those of the first frames, which the caller chooses from
        raw.positions = None
        return raw

    @property
    def trouble(self) -> str:
        """Why nothing could be read so far; '' where something could."""
        if self._layout is not None:
            return ""
        return (
            self._reason
            or f"{self._path}: no data set of patterns yet; it may be named with --dataset patterns=PATH"
        )
