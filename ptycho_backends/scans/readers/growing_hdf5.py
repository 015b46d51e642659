"""HDF5 that is being written, by SWMR or otherwise: frames and positions as far as both are there.

Names are those of `named_parts`, or those that the options give. Each call opens the file anew, so that a writer
that closes its file between frames is followed as well as one that keeps it open.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.files.datasets_hdf5 import DatasetFile
from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.readers.named_parts import PATTERNS, POSITIONS, Finder, X, Y, raw_of_parts
from ptycho_backends.scans.readers.source import Source
from ptycho_backends.scans.scan_options import NO_OPTIONS, ScanOptions, position_unit

TIMESTAMPS = ("timestamps", "timestamp")
"""Times at which the frames were written, in seconds since 1970."""


@dataclass(frozen=True)
class Layout:
    """Paths of the growing data sets of a file.

    Attributes
    ----------
    patterns : str
    positions : tuple of str
        Those of x and y, or of one array (M, 2); empty where the file has none.
    timestamps : str, optional
    """

    patterns: str
    positions: tuple[str, ...] = ()
    timestamps: str | None = None


@dataclass(frozen=True, eq=False)
class Growth:
    """Content of a file at one moment.

    Attributes
    ----------
    frames : int
        Length of the patterns' data set.
    positions : (M, 2) float64 array, [x, y], optional
        Those that are measured, up to the first that is not finite; None where the file holds none.
    unit : str, optional
        Of the positions, where the file states it.
    """

    frames: int
    positions: NDArray[np.float64] | None = None
    unit: str | None = None


def source_of(path: Path, options: ScanOptions = NO_OPTIONS) -> Source:
    return Source(path, path, "HDF5", options)


def layout_of(file: DatasetFile, source: Source) -> Layout | None:
    """The growing data sets, or None where there are no patterns yet.

    Raises
    ------
    ScanError
        If the options name arrays that are not there.
    """
    shapes = _shapes(file, source)
    find = Finder(source, shapes)
    patterns = find.one("patterns", PATTERNS, lambda shape: len(shape) == 3)
    if patterns is None:
        return None
    x, y = find.one("x", X, _is_vector), find.one("y", Y, _is_vector)
    both = find.one("positions", POSITIONS, lambda shape: len(shape) == 2 and shape[1] in (2, 3))
    positions: tuple[str, ...] = () if both is None else (both,)
    if x is not None and y is not None and find.named("positions") is None:
        positions = (x, y)
    stamped = [name for name, shape in shapes.items() if _is_vector(shape) and _leaf(name) in TIMESTAMPS]
    return Layout(patterns, positions, stamped[0] if stamped else None)


def _shapes(file: DatasetFile, source: Source) -> dict[str, tuple[int, ...]]:
    shapes = file.datasets()
    for part in source.options.datasets.values():
        # paths over links, which the listing does not have
        if (shape := file.shape(part)) is not None:
            shapes.setdefault(part, shape)
    return shapes


def _is_vector(shape: tuple[int, ...]) -> bool:
    return len(shape) == 1


def _leaf(name: str) -> str:
    return name.rpartition("/")[2]


def growth_of(file: DatasetFile, layout: Layout) -> Growth:
    """The content of the growing data sets.

    Raises
    ------
    ScanError
    """
    frames = (file.shape(layout.patterns) or (0,))[0]
    if not layout.positions:
        return Growth(frames)
    columns = [file.rows(name, 0, frames) for name in layout.positions]
    if len(columns) == 2:
        known = min(map(len, columns))
        values = np.stack([column[:known] for column in columns], axis=-1).astype(np.float64)
    else:
        values = columns[0][:, :2].astype(np.float64)
        if _leaf(layout.positions[0]) == "encoder":
            values = values[:, ::-1]
    missing = np.flatnonzero(~np.isfinite(values).all(axis=1))
    values = values[: missing[0]] if len(missing) else values
    unit = file.attributes(layout.positions[0]).get("units")
    return Growth(frames, values, position_unit(str(unit)))


def read_first(path: Path, options: ScanOptions, layout: Layout, count: int) -> RawScan:
    """The scan of the first `count` frames, left in the file, with positions where as many are measured.

    Raises
    ------
    ScanError
    """
    source = source_of(path, options)
    with DatasetFile(path) as file:
        growing = {layout.patterns, *layout.positions}
        shapes = {
            name: (min(count, shape[0]), *shape[1:]) if name in growing else shape
            for name, shape in _shapes(file, source).items()
        }

        def array(name: str) -> NDArray:
            return file.rows(name, 0, count) if name in growing else file.array(name)

        def patterns(name: str) -> Any:
            stored = file.growing_patterns(name)
            stored.shape = (min(count, len(stored)), *stored.shape[1:])
            return stored

        raw = raw_of_parts(source, "growing HDF5", shapes, array, patterns)
        if layout.positions and raw.positions is not None:
            unit = file.attributes(layout.positions[0]).get("units")
            raw.positions_unit = position_unit(str(unit)) or raw.positions_unit
    return raw
