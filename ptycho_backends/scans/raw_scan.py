"""A scan as its file has it: in the file's units, axes and anchor, with a note of where each part came from."""

import math
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from ptycho_backends.files.stored_patterns import StoredPatterns

Positions = NDArray | tuple[NDArray, NDArray]

HC_EV_M = 1.239841984e-6
"""Planck's constant times the speed of light: photon energy in eV times wavelength in m."""

POSITION_UNITS = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "nm": 1e-9}
"""Units of length that positions may have, in metres; besides these there is 'px', object pixels."""


def known_length(value: float) -> float | None:
    """A length or an energy from a file; None where it is 0 or NaN, as programs write what they do not know."""
    return None if math.isnan(value) or value == 0 else value


@dataclass
class RawScan:
    """Content of a file before any geometry; made by a reader, turned into a `Scan` by `geometry.scan_from_raw`.

    Parameters
    ----------
    format : str
        Name of the reader.
    name : str
        Of the scan.
    patterns : (M, H, W) real array or `StoredPatterns`, [ky, kx]
    positions : (M, 2) real array, [x, y], or two vectors x and y, optional
        Of the probe on the object: x grows with the columns of a pattern, y with its rows. Readers of formats that
        hold the positions of the sample have changed the sign.
    positions_unit : {'px', 'm', 'mm', 'um', 'nm'}, optional
        None where the file does not state it.
    positions_start : as `positions`, optional
        Before any refinement, in the same unit.
    anchor : {'centre', 'corner'}
        Point of a patch that a position names: its pixel `N // 2`, or its pixel 0.
    measurement : {'auto', 'amplitude', 'intensity'}
    corner : bool
        The zero frequency is at pixel [0, 0], not in the middle.
    centre : (float, float), [ky, kx], optional
        Pixel of the zero frequency; default: `[H // 2, W // 2]`.
    detector_pixel_m : (float, float), [x, y], optional
    energy_eV, distance_m : float, optional
        Of the photons; from the sample to the detector.
    pixel_size_m : float, optional
        Side of an object pixel of the patterns as they are in the file.
    probe : (modes, h, w) or (h, w) complex array, [y, x], optional
    probe_modes : (modes, h, w) complex array, [y, x], optional
        All modes, where `probe` is the main one.
    object : (H, W) complex array, [y, x], optional
        In the frame of `positions`, which are then in pixels.
    valid_pixels : (H, W) bool array, [ky, kx], optional
    object_mask : (H, W) bool array, optional
    scan_index : (M,) integer array, optional
    clip_negative : bool
        Negative counts are left over from some correction; they become 0.
    notes : list of str
        Sources of the parts, as in `positions: /entry_1/data_1/translation, metres`.
    """

    format: str
    name: str
    patterns: "NDArray | StoredPatterns"
    positions: Positions | None = None
    positions_unit: str | None = None
    positions_start: Positions | None = None
    anchor: str = "centre"
    measurement: str = "auto"
    corner: bool = False
    centre: tuple[float, float] | None = None
    detector_pixel_m: tuple[float, float] | None = None
    energy_eV: float | None = None
    distance_m: float | None = None
    pixel_size_m: float | None = None
    probe: NDArray | None = None
    probe_modes: NDArray | None = None
    object: NDArray | None = None
    valid_pixels: NDArray | None = None
    object_mask: NDArray | None = None
    scan_index: NDArray | None = None
    clip_negative: bool = False
    notes: list[str] = field(default_factory=list)

    def took(self, part: str, source: str, unit: str = "") -> None:
        """Note the source of a part."""
        self.notes.append(f"{part}: {source}{', ' if unit else ''}{unit}")

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of a pattern."""
        shape: Any = self.patterns.shape
        return int(shape[-2]), int(shape[-1])
