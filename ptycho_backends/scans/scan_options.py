"""Options for reading a scan: units, axes, side and centre of the patterns, and places of parts in files."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from ptycho_backends.errors import ConfigError
from ptycho_backends.scans.raw_scan import POSITION_UNITS

JOULE_EV = 1 / 1.602176634e-19
"""Energy of 1 J in eV."""

_PREFIXES = {"": 1.0, "centi": 1e-2, "milli": 1e-3, "micro": 1e-6, "nano": 1e-9, "pico": 1e-12}
LENGTHS = {
    "m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "nm": 1e-9, "pm": 1e-12, "micron": 1e-6, "angstrom": 1e-10,
    "ang": 1e-10, "a": 1e-10, "å": 1e-10, "ångström": 1e-10,
    **{prefix + metre: factor for prefix, factor in _PREFIXES.items() for metre in ("meter", "metre")},
}  # fmt: skip
"""Units of length in metres, by their names in lower case and in the singular."""
ENERGIES = {"ev": 1.0, "kev": 1e3, "j": JOULE_EV, "joule": JOULE_EV}
"""Units of energy in eV, likewise."""
PIXELS = ("px", "pixel")


def unit_factor(text: str, of_energy: bool = False) -> float | None:
    """Factor of a unit to metres or to eV, however it is spelt ('µm', 'micrometres', 'keV'); None for another one."""
    return (ENERGIES if of_energy else LENGTHS).get(_unit_name(text))


def position_unit(text: str) -> str | None:
    """The unit of positions that `text` means, one of `POSITION_UNITS` or 'px'; None for another one."""
    name = _unit_name(text)
    if name in PIXELS:
        return "px"
    return next((unit for unit, side in POSITION_UNITS.items() if LENGTHS.get(name) == side), None)


def _unit_name(text: str) -> str:
    """A unit in lower case, in the singular, with `u` for either sign of micro."""
    name = text.strip().lower().replace("µ", "u").replace("μ", "u")
    return name if name in LENGTHS else name.removesuffix("s")


DATASET_NAMES = (
    "patterns", "positions", "x", "y", "probe", "object", "mask", "energy", "distance", "detector_pixel", "pixel_size",
)  # fmt: skip
"""Parts of a scan whose places in a file may be named."""


@dataclass(frozen=True)
class ScanOptions:
    """Wishes for reading a scan; None takes the value of the file, or needs none.

    Parameters
    ----------
    positions_unit : {'m', 'mm', 'um', 'nm', 'px'}, optional
        Of the positions in the file; 'px' are object pixels of the patterns as they are in the file.
    energy_eV, distance_m : float, optional
        Of the photons; from the sample to the detector.
    detector_pixel_m : float or (float, float), [x, y], optional
    pixel_size_m : float, optional
        Side of an object pixel of the patterns as they are in the file.
    swap_xy, flip_x, flip_y : bool
        Exchange the coordinates of positions; then reverse them, about the middle of the scan. An object in the file
        stays as it is.
    transpose : bool
        Exchange rows and columns of the patterns.
    shift : bool, optional
        The zero frequency is in the corner [0, 0] of the patterns; False: in the middle.
    size : int, optional
        Side N of the patterns wanted: a part around the centre, or zeros around all.
    bin : int
        Side of the squares of detector pixels that are summed.
    centre : 'auto' or (float, float), [ky, kx], optional
        Pixel of the zero frequency after shift and transposition; 'auto' is the centre of mass.
    anchor : {'centre', 'corner'}, optional
        Point of a patch that a position names.
    background : float, (H, W) array or path of an NPY file, optional
        Counts subtracted from every pixel of every frame; results below 0 become 0.
    threshold : float, optional
        Values below it become 0.
    positions_from, patterns_from : path, optional
        Other files for these parts. `FILE:DATASET` names a data set in one.
    datasets : mapping of str to str
        Paths of data sets in the file, by `DATASET_NAMES`.

    Raises
    ------
    ConfigError
        Names every option with an impossible value.
    """

    positions_unit: str | None = None
    energy_eV: float | None = None
    distance_m: float | None = None
    detector_pixel_m: float | tuple[float, float] | None = None
    pixel_size_m: float | None = None
    swap_xy: bool = False
    flip_x: bool = False
    flip_y: bool = False
    transpose: bool = False
    shift: bool | None = None
    size: int | None = None
    bin: int = 1
    centre: str | tuple[float, float] | None = None
    anchor: str | None = None
    background: Any = None
    threshold: float | None = None
    positions_from: str | None = None
    patterns_from: str | None = None
    datasets: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        wrong = []
        if self.positions_unit not in (None, "px", *POSITION_UNITS):
            wrong.append(
                f"positions_unit: got {self.positions_unit!r}, want one of {', '.join(POSITION_UNITS)}, px"
            )
        for name in ("energy_eV", "distance_m", "pixel_size_m"):
            value = getattr(self, name)
            if value is not None and not _is_positive(value):
                wrong.append(f"{name}: got {value!r}, want a number > 0")
        pair = self.detector_pixel_m
        if pair is not None and not all(map(_is_positive, as_pair(pair))):
            wrong.append(f"detector_pixel_m: got {pair!r}, want one length > 0, or two (x, y)")
        if not isinstance(self.bin, int) or self.bin < 1:
            wrong.append(f"bin: got {self.bin!r}, want a whole number >= 1")
        if self.size is not None and (not isinstance(self.size, int) or self.size < 2 or self.size % 2):
            wrong.append(f"size: got {self.size!r}, want an even number of pixels")
        if isinstance(self.centre, str) and self.centre != "auto":
            wrong.append(f"centre: got {self.centre!r}, want 'auto' or two numbers (ky, kx)")
        if self.anchor not in (None, "centre", "corner"):
            wrong.append(f"anchor: got {self.anchor!r}, want 'centre' or 'corner'")
        if unknown := set(self.datasets) - set(DATASET_NAMES):
            wrong.append(
                f"datasets: got {', '.join(sorted(unknown))}, want some of {', '.join(DATASET_NAMES)}"
            )
        if wrong:
            raise ConfigError("; ".join(wrong))


NO_OPTIONS = ScanOptions()
"""Everything as the file has it."""


def as_pair(value: Any) -> tuple[float, float]:
    """One number twice, or two; NaN for anything else."""
    values = np.asarray(value, np.float64).reshape(-1).tolist()
    if len(values) == 1:
        values *= 2
    return (values[0], values[1]) if len(values) == 2 else (math.nan, math.nan)


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return bool(is_number and 0 < value < math.inf)
