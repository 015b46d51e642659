"""Parts of a scan among arrays under names of any kind, as in MATLAB, plain HDF5 and NPZ.

Names in use in the field are known; others are for the options to name (`--dataset patterns=NAME`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.scans.raw_scan import HC_EV_M, RawScan
from ptycho_backends.scans.readers.positions import as_pairs
from ptycho_backends.scans.readers.source import Source
from ptycho_backends.scans.scan_options import position_unit, unit_factor
from ptycho_backends.scans.valid_pixels import MASK_NAMES, mask_of_entries

PATTERNS = (
    "diff3d", "diffraction", "dp", "patterns", "ptychogram", "diffraction_patterns", "intensities", "intensity",
    "diffpats", "diff_pats", "fmag", "data", "dps", "cbed", "frames", "measurement",
)  # fmt: skip
POSITIONS = (
    "positions",
    "translation",
    "translations",
    "probe_positions",
    "encoder",
    "scan",
    "pos",
    "scan_positions",
)
X = ("xcoords", "ppX", "x", "posx", "pos_x", "positions_x", "probe_position_x", "scan_x")
Y = ("ycoords", "ppY", "y", "posy", "pos_y", "positions_y", "probe_position_y", "scan_y")
PROBE = ("probeGuess", "probe", "probe_guess", "initial_probe")
OBJECT = ("objectGuess", "object", "object_guess")
# Names, and factors to metres or eV.
ENERGY = (("photon_energy_eV", 1.0), ("energy_eV", 1.0), ("energy", 1.0), ("energy_keV", 1e3))
WAVELENGTH = (("wavelength", 1.0), ("lambda", 1.0), ("wavelength_m", 1.0))
DISTANCE = tuple((name, 1.0) for name in ("detector_distance_m", "zo", "z", "distance", "detector_distance"))
DETECTOR_PIXEL = tuple((name, 1.0) for name in ("detector_pixel_m", "dxd", "ds", "det_pixel_size", "psize"))
PIXEL_SIZE = tuple((name, 1.0) for name in ("pixel_size_m", "dx", "dx_spec", "pixel_size"))
IN_METRES = frozenset({"ppX", "ppY", "encoder"})
"""Names whose unit is metres by the programs that use them."""
MEASUREMENT = {
    "fmag": "amplitude",
    "ptychogram": "intensity",
    "dp": "intensity",
    "intensities": "intensity",
    "intensity": "intensity",
}
# An energy below is in keV.
LEAST_EV = 50.0

Get = Callable[[str], NDArray]
Unit = Callable[[str], str | None]


def raw_of_parts(
    source: Source,
    label: str,
    shapes: Mapping[str, tuple[int, ...]],
    get: Get,
    patterns: Callable[[str], Any] | None = None,
    unit: Unit = lambda name: None,
) -> RawScan:
    """The scan among named arrays.

    Parameters
    ----------
    source : Source
    label : str
        Name of the format.
    shapes : mapping of str to shape
        All arrays that there are, by name or by path.
    get : callable
        From the name to the array, with the axes (M, ky, kx) of patterns.
    patterns : callable, optional
        As `get`, for the patterns alone; they may stay in the file.
    unit : callable, optional
        From the name to the unit that the file states.

    Raises
    ------
    ScanError
        If there are no patterns under a known name, or under the one that the options give.
    """
    find = Finder(source, shapes)
    name = find.one("patterns", PATTERNS, lambda shape: len(shape) in (3, 4))
    if name is None:
        held = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:12]) or "no arrays"
        raise ScanError(
            f"{label}: no patterns (M, ky, kx) under a known name; it holds {held}; name the parts, as with "
            "--dataset patterns=NAME --dataset positions=NAME"
        )
    raw = RawScan(
        format=label,
        name=source.name,
        patterns=(patterns or get)(name),
        measurement=MEASUREMENT.get(_leaf(name), "auto"),
    )
    raw.took("patterns", name)
    _read_positions(find, get, unit, raw)
    _read_numbers(find, get, unit, raw)
    probe = find.one("probe", PROBE, lambda shape: len(shape) >= 2 and shape[-2:] == raw.shape)
    if probe is not None:
        values = np.asarray(get(probe))
        while values.ndim > 3:
            values = values[0]
        raw.probe = values
        raw.took("probe", probe)
    image = find.one("object", OBJECT, lambda shape: len(shape) == 2)
    if image is not None and (raw.positions_unit or source.options.positions_unit) == "px":
        raw.object = get(image)
        raw.took("object", image, "positions in px")
    mask = find.one("mask", MASK_NAMES, lambda shape: shape[-2:] == raw.shape)
    if mask is not None:
        leaf = _leaf(mask) if _leaf(mask) in MASK_NAMES else "mask"
        raw.valid_pixels = mask_of_entries({leaf: np.asarray(get(mask))}, raw.shape)
        raw.took("mask", mask)
    return raw


def _leaf(name: str) -> str:
    return name.rpartition("/")[2]


class Finder:
    """Names of parts: those of the options first, then those in use."""

    def __init__(self, source: Source, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._source, self._shapes = source, shapes

    def named(self, part: str) -> str | None:
        """The array that the options name for a part, as it is called in the file."""
        given = self._source.dataset(part)
        if given is None:
            return None
        for name in (given, "/" + given.strip("/")):
            if name in self._shapes:
                return name
        held = ", ".join(list(self._shapes)[:20])
        raise ScanError(f"{part}: no array {given} in the file, which holds {held}")

    def one(
        self, part: str, known: Sequence[str], fits: Callable[[tuple[int, ...]], bool] = lambda shape: True
    ) -> str | None:
        given = self.named(part)
        if given is not None:
            return given
        for wanted in known:
            for name, shape in self._shapes.items():
                if _leaf(name) == wanted and fits(shape):
                    return name
        return None


def _read_positions(find: Finder, get: Get, unit: Unit, raw: RawScan) -> None:
    count = len(raw.patterns)
    x = find.one("x", X, lambda shape: _length(shape) == count)
    y = find.one("y", Y, lambda shape: _length(shape) == count)
    both = find.one("positions", POSITIONS, lambda shape: len(shape) == 2 and count in shape)
    taken: str | None = None
    if x is not None and y is not None and find.named("positions") is None:
        raw.positions = np.asarray(get(x)).reshape(-1), np.asarray(get(y)).reshape(-1)
        taken, names = f"{x}, {y}", {_leaf(x), _leaf(y)}
    elif both is not None:
        raw.positions = as_pairs(np.asarray(get(both)), both)
        taken, names = both, {_leaf(both)}
        if names & {"encoder"}:
            raw.positions = np.asarray(raw.positions)[:, ::-1]
    if taken is None:
        return
    stated = position_unit(unit(taken.split(", ")[0]) or "")
    raw.positions_unit = stated or (
        "m" if names & IN_METRES else "px" if names == {"xcoords", "ycoords"} else None
    )
    raw.took("positions", taken, raw.positions_unit or "of unknown unit")


def _length(shape: tuple[int, ...]) -> int:
    """Length of a vector, also as a row or a column; 0 for other shapes."""
    long = [length for length in shape if length != 1]
    return long[0] if len(long) == 1 else 1 if not long else 0


def _read_numbers(find: Finder, get: Get, unit: Unit, raw: RawScan) -> None:
    def number(
        part: str, known: Sequence[tuple[str, float]], of_energy: bool = False
    ) -> tuple[float, bool] | None:
        """The number, and whether the file states its unit."""
        name = find.one(part, [name for name, _ in known], lambda shape: _length(shape) == 1)
        if name is None:
            return None
        value = float(np.asarray(get(name)).reshape(-1)[0])
        if not np.isfinite(value) or value <= 0:
            return None
        raw.took(part.replace("_", " "), name)
        stated = unit_factor(unit(name) or "", of_energy)
        return value * (dict(known).get(_leaf(name), 1.0) if stated is None else stated), stated is not None

    def length(part: str, known: Sequence[tuple[str, float]]) -> float | None:
        found = number(part, known)
        return None if found is None else found[0]

    energy, is_stated = number("energy", ENERGY, True) or (None, True)
    if energy is not None and energy < LEAST_EV and not is_stated:
        energy *= 1e3
        raw.notes.append("energy: a number so small is in keV")
    wavelength, is_stated = (None if energy else number("wavelength", WAVELENGTH)) or (None, True)
    if wavelength is not None and wavelength > 1e-3 and not is_stated:
        wavelength *= 1e-10
        raw.notes.append("wavelength: a number so large is in angstroms")
    raw.energy_eV = energy or (HC_EV_M / wavelength if wavelength else None)
    raw.distance_m = length("distance", DISTANCE)
    side = length("detector_pixel", DETECTOR_PIXEL)
    raw.detector_pixel_m = None if side is None else (side, side)
    raw.pixel_size_m = length("pixel_size", PIXEL_SIZE)
