"""Faults of scans, to try `checking` with: what goes wrong at beamlines, put into a sound scan."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from ptycho_backends.scans.scan import Scan

# Object pixel, for scans that do not know theirs.
PIXEL_M = 20e-9
WRONG_DETECTOR_PIXEL = 1.2


@dataclass(frozen=True)
class Fault:
    """A fault, and the finding that a check has to make of it.

    Attributes
    ----------
    name : str
    spoil : callable
        From a sound scan to one with the fault.
    finding : str
        Name of the finding wanted, and of no other one.
    cure : str
        Beginning of the options of the cure; empty where no option helps.
    """

    name: str
    spoil: Callable[[Scan], Scan]
    finding: str
    cure: str


def _placed(scan: Scan, x: np.ndarray, y: np.ndarray) -> Scan:
    return dataclasses.replace(
        scan,
        xcoords=x,
        ycoords=y,
        xcoords_start=None,
        ycoords_start=None,
        object_guess=None,
        object_mask=None,
    )


def _patterns(scan: Scan, patterns: np.ndarray, measurement: str | None = None) -> Scan:
    return dataclasses.replace(scan, patterns=patterns, measurement=measurement or scan.measurement)


def _counts(scan: Scan) -> np.ndarray:
    return np.rint(scan.diffraction_amplitude().astype(np.float64) ** 2)


def _in_unit(scan: Scan, metres: float) -> Scan:
    pixel = PIXEL_M if scan.pixel_size_m is None else scan.pixel_size_m
    moved = _placed(scan, scan.xcoords * pixel / metres, scan.ycoords * pixel / metres)
    return dataclasses.replace(moved, pixel_size_m=pixel)


def _stray(scan: Scan) -> Scan:
    x = scan.xcoords.copy()
    x[len(x) // 3] += 10 * scan.N
    return dataclasses.replace(scan, xcoords=x, xcoords_start=None)


def _duplicates(scan: Scan) -> Scan:
    numbers = np.concatenate([np.arange(len(scan)), [3, 7]])
    return dataclasses.replace(scan.part(numbers), name=scan.name)


def _shuffled(scan: Scan) -> Scan:
    order = np.random.default_rng(5).permutation(len(scan))
    return _patterns(scan, np.asarray(scan.patterns)[order])


def _hot_pixel(scan: Scan) -> Scan:
    counts = _counts(scan)
    generator = np.random.default_rng(6)
    row, column = scan.N // 2 + scan.N // 5, scan.N // 2 - scan.N // 7
    counts[:, row, column] = generator.poisson(20 * counts.max(), len(counts))
    values = np.sqrt(counts) if scan.measurement == "amplitude" else counts
    return _patterns(scan, values.astype(np.float32), scan.measurement)


def _flipped(scan: Scan, axis: str) -> Scan:
    x, y = scan.xcoords, scan.ycoords
    return _placed(scan, *((x.max() + x.min() - x, y) if axis == "x" else (x, y.max() + y.min() - y)))


FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        fault.name: fault
        for fault in (
            Fault("swapped axes", lambda s: _placed(s, s.ycoords, s.xcoords), "swapped_axes", "--swap-xy"),
            Fault("flipped x", lambda s: _flipped(s, "x"), "flipped_x", "--flip-x"),
            Fault("flipped y", lambda s: _flipped(s, "y"), "flipped_y", "--flip-y"),
            Fault(
                "transposed detector",
                lambda s: _patterns(s, np.ascontiguousarray(np.asarray(s.patterns).transpose(0, 2, 1))),
                "transposed_detector",
                "--transpose",
            ),
            Fault(
                "unshifted",
                lambda s: _patterns(s, np.fft.ifftshift(np.asarray(s.patterns), axes=(-2, -1))),
                "unshifted",
                "--shift",
            ),
            Fault(
                "counts as amplitude",
                lambda s: _patterns(s, _counts(s).astype(np.float32), "amplitude"),
                "counts_as_amplitude",
                "--measurement intensity",
            ),
            Fault(
                "amplitude as counts",
                lambda s: _patterns(s, np.sqrt(_counts(s)).astype(np.float32), "intensity"),
                "amplitude_as_counts",
                "--measurement amplitude",
            ),
            Fault("positions in m", lambda s: _in_unit(s, 1.0), "positions_unit", "--positions-unit m"),
            Fault("positions in um", lambda s: _in_unit(s, 1e-6), "positions_unit", "--positions-unit um"),
            Fault("positions in nm", lambda s: _in_unit(s, 1e-9), "positions_unit", "--positions-unit nm"),
            Fault("one stray", _stray, "strays", "--leave-out"),
            Fault("duplicates", _duplicates, "duplicates", "--leave-out"),
            Fault("shuffled frames", _shuffled, "shuffled_frames", ""),
            Fault("hot pixel", _hot_pixel, "hot_pixels", "--mask"),
            Fault(
                "detector pixel 20 % too large",
                lambda s: _placed(s, s.xcoords * WRONG_DETECTOR_PIXEL, s.ycoords * WRONG_DETECTOR_PIXEL),
                "pixel_size",
                "--scale-positions 0.8",
            ),
            Fault(
                "detector pixel 20 % too small",
                lambda s: _placed(s, s.xcoords / WRONG_DETECTOR_PIXEL, s.ycoords / WRONG_DETECTOR_PIXEL),
                "pixel_size",
                "--scale-positions 1.",
            ),
            Fault(
                "probe in the corner",
                lambda s: s.with_probe(np.fft.ifftshift(s.probe_modes, axes=(-2, -1))),  # type: ignore[arg-type]
                "probe_in_corner",
                "--centre-probe",
            ),
        )
    }
)
"""Faults by name."""
