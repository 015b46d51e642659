"""Parts that HDF5 formats share: frames, quantities with units, masks."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.datasets_hdf5 import DatasetFile
from ptycho_backends.files.stored_patterns import JoinedPatterns
from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.readers.source import Source
from ptycho_backends.scans.scan_options import UNITS


def first(file: DatasetFile, names: Sequence[str]) -> str | None:
    """The first of `names` that is an array of numbers in the file."""
    return next((name for name in names if file.shape(name) is not None), None)


def quantity(file: DatasetFile, names: Sequence[str], unit: str) -> float | None:
    """The first of `names` that is a number > 0, in metres or eV; its attribute `units` wins over `unit`.

    A data set of several numbers counts if they are all one.
    """
    for name in names:
        shape = file.shape(name)
        if shape is None or math.prod(shape) == 0:
            continue
        values = file.array(name).reshape(-1)
        value = float(values[0])
        if not np.isfinite(value) or value <= 0 or (values != values[0]).any():
            continue
        return value * unit_of(file, name, unit)
    return None


def unit_of(file: DatasetFile, name: str, unit: str) -> float:
    """Factor to metres or eV of the data set `name`, which is in `unit` unless its attribute states another."""
    stated = str(file.attributes(name).get("units", unit)).strip().lower()
    return UNITS.get(stated, UNITS[unit.lower()])


def frames(source: Source, file: DatasetFile, names: Sequence[str]) -> Any:
    """Patterns (M, H, W) of one data set, or of several one after another; of a grid (rows, columns, H, W) in order.

    Left in the file where `source` wants it.
    """
    shapes = [file.shape(name) for name in names]
    for name, shape in zip(names, shapes, strict=True):
        if shape is None:
            file.array(name)  # raises with the reason: missing, outside the folder, no numbers
        if shape is None or not 2 <= len(shape) <= 4:
            raise ScanError(
                f"{name}: got shape {shape}, want patterns (M, ky, kx); the file has {listed(file)}"
            )
    pixels = sum(math.prod(shape) for shape in shapes if shape is not None)
    parts: list[Any] = []
    for name, shape in zip(names, shapes, strict=True):
        assert shape is not None
        if len(shape) == 3 and source.stays(4 * pixels):
            parts.append(file.patterns(name))
        else:
            parts.append(file.array(name).reshape(-1, *shape[-2:]))
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, np.ndarray) for part in parts) and not source.stays(4 * pixels):
        return np.concatenate(parts)
    return JoinedPatterns(parts)


def listed(file: DatasetFile) -> str:
    """Arrays of a file with their shapes, for messages."""
    found = file.datasets()
    few = [f"{name} {shape}" for name, shape in list(found.items())[:12]]
    return ", ".join(few) + (f" and {len(found) - 12} more" if len(found) > 12 else "") or "no arrays"


def good_where_zero(mask: NDArray, raw: RawScan, name: str) -> None:
    """Set the valid pixels of `raw` by a mask of flags, 0 for a good pixel."""
    mask = mask.reshape(mask.shape[-2:]) if mask.ndim == 3 and len(mask) == 1 else mask
    if mask.shape != raw.shape:
        return
    valid = mask == 0
    # some write True for a good pixel into the same place
    if valid.mean() < 0.5:
        valid = ~valid
        raw.took("mask", name, "not zero where valid, for most pixels are")
    else:
        raw.took("mask", name, "0 where valid")
    raw.valid_pixels = None if valid.all() else valid
