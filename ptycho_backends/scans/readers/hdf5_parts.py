"""Parts that HDF5 formats share: frames, quantities with units, masks."""

import logging
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
from ptycho_backends.scans.scan_options import unit_factor

log = logging.getLogger(__name__)

# A quantity may be stored once for each pattern.
MAX_NUMBERS = 10_000_000


def first(file: DatasetFile, names: Sequence[str]) -> str | None:
    """The first of `names` that is an array of numbers in the file."""
    return next((name for name in names if file.shape(name) is not None), None)


def quantity(file: DatasetFile, names: Sequence[str], unit: str) -> float | None:
    """The first of `names` that is a number > 0, in metres or eV; its attribute `units` wins over `unit`.

    A data set of several numbers counts if they are all one.
    """
    for name in names:
        shape = file.shape(name)
        if shape is None or not 0 < math.prod(shape) <= MAX_NUMBERS:
            continue
        values = file.array(name).reshape(-1)
        value = float(values[0])
        if not np.isfinite(value) or value <= 0 or (values != values[0]).any():
            continue
        try:
            return value * unit_of(file, name, unit)
        except ScanError as error:
            log.warning("%s; left out", error)
    return None


def unit_of(file: DatasetFile, name: str, unit: str) -> float:
    """Factor to metres or eV of the data set `name`, which is in `unit` unless its attribute states another.

    Raises
    ------
    ScanError
        If it states one that is not known.
    """
    of_energy = unit_factor(unit) is None
    stated = str(file.attributes(name).get("units", "")).strip()
    factor = unit_factor(stated or unit, of_energy)
    if factor is None:
        wanted = "eV, keV or J" if of_energy else "m, mm, um or nm"
        raise ScanError(f"{name}: got units {stated!r}, want {wanted}")
    return factor


def beam_centre(
    file: DatasetFile, detector: str, sides: Sequence[float | None]
) -> tuple[float, float] | None:
    """Pixel `[ky, kx]` of the zero frequency by NeXus's `beam_center_x` and `_y`; None where it is unknown or 0.

    Some write pixels there, as their unit says or for lack of one, others lengths.
    """
    found = []
    for axis, side in (("y", sides[1]), ("x", sides[0])):
        name = f"{detector}/beam_center_{axis}"
        if file.shape(name) not in ((), (1,)):
            return None
        value = float(file.array(name).reshape(-1)[0])
        factor = unit_factor(str(file.attributes(name).get("units", "")))
        if factor is not None and side:
            value *= factor / side
        elif factor is not None:
            return None
        found.append(value)
    ky, kx = found
    return (ky, kx) if ky >= 1 and kx >= 1 else None


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
            parts.append(file.array(name, sparse=True).reshape(-1, *shape[-2:]))
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
