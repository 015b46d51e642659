"""Checks of patterns and probe: counts or amplitudes, centre, plane, pixels, and empty frames."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.checking.facts import (
    Facts,
    brightest_neighbour,
    circular_centre,
    correlation,
    faintest_neighbour,
    listed,
)
from ptycho_backends.checking.findings import ERROR, WARNING, Cure, Finding
from ptycho_backends.scans.scan import Scan

# Deviation from whole numbers that float32 roots, squared, leave.
WHOLE, WHOLE_RELATIVE = 1e-3, 1e-6
# Largest value from which whole numbers are no accident.
LEAST_WHOLE = 2.0
# A pixel is hot where it exceeds its eight neighbours by this factor, in the mean and at most.
HOT, HOT_BACKGROUND = 8.0, 1.0
# A pixel is dead where it counts nothing and the faintest of its neighbours has so many counts in the mean.
DEAD_NEIGHBOURS = 20.0
# Dead pixels that hide less than this part of the counts do not matter.
HIDDEN = 1e-3
# So many pixels at the very same largest value, and that large, are saturated.
SATURATED_PIXELS, SATURATED_VALUE = 12, 100.0
# Frames below this part of the median are empty.
EMPTY = 1e-3
# Correlation of the probe's far field with the mean pattern that decides, and its lead over the other place.
DECISIVE, LEAD = 0.6, 0.2
# Part of the side by which patterns may be off their middle.
OFF_CENTRE = 0.08


def check_measurement(scan: Scan) -> Iterator[Finding]:
    """Counts that are taken for amplitudes, or amplitudes for counts."""
    few = np.unique(np.linspace(0, len(scan) - 1, min(len(scan), 8)).astype(int))
    values = np.asarray(scan.patterns[few], np.float64)
    if scan.valid_pixels is not None:
        values = values[:, scan.valid_pixels]
    whole, squares = _are_whole(values), _are_whole(values**2)
    largest = float(values.max())
    if scan.measurement == "amplitude" and whole and largest >= LEAST_WHOLE:
        yield Finding(
            "counts_as_amplitude",
            ERROR,
            "the patterns are counts, but are taken for amplitudes",
            f"whole numbers up to {largest:.5g}",
            Cure("--measurement intensity", {"measurement": "intensity"}),
        )
    if scan.measurement == "intensity" and not whole and squares and largest**2 >= LEAST_WHOLE:
        yield Finding(
            "amplitude_as_counts",
            ERROR,
            "the patterns are amplitudes, but are taken for counts",
            f"not whole numbers, but their squares are, up to {largest**2:.5g}",
            Cure("--measurement amplitude", {"measurement": "amplitude"}),
        )


def _are_whole(values: NDArray[np.float64]) -> bool:
    return bool(np.all(np.abs(values - np.rint(values)) <= WHOLE + WHOLE_RELATIVE * values))


def check_centre(facts: Facts) -> Iterator[Finding]:
    """Patterns with the zero frequency in the corner, or off the middle."""
    moved = np.fft.fftshift(facts.mean)
    far = facts.far_amplitude
    amplitude = np.sqrt(facts.mean)
    if far is not None:
        here, there = correlation(far, amplitude), correlation(far, np.sqrt(moved))
        unshifted = there > DECISIVE and there > here + LEAD
        evidence = f"correlation with the probe's far field {here:.2f} as it is, {there:.2f} shifted"
    else:
        inner, outer = _inner(facts.mean), _inner(moved)
        unshifted = outer > 0.5 and outer > 4 * inner
        evidence = (
            f"{100 * outer:.0f} % of the counts are near the corners, {100 * inner:.0f} % near the middle"
        )
    if unshifted:
        yield Finding(
            "unshifted",
            ERROR,
            "the zero frequency is in the corner of the patterns",
            evidence,
            Cure("--shift", {"options": {"shift": True}}),
        )
        return
    x, y = circular_centre(facts.mean)
    if far is not None:
        x, y = np.array([x, y]) - circular_centre(far**2)
    if max(abs(x), abs(y)) > OFF_CENTRE * facts.scan.N:
        side = facts.scan.N // 2
        row, column = round(side + y), round(side + x)
        yield Finding(
            "off_centre",
            WARNING,
            "the patterns are off their middle",
            f"centre of mass {x:.1f} px along kx and {y:.1f} px along ky from it",
            Cure(f"--centre {row},{column}", {"options": {"centre": (row, column)}}),
        )


def _inner(mean: NDArray[np.float64]) -> float:
    """Part of the counts within a quarter of the side from the middle."""
    side = len(mean)
    axis = np.arange(side) - side // 2
    return float(mean[np.hypot(axis, axis[:, None]) < side / 4].sum() / max(mean.sum(), 1e-300))


def check_probe(facts: Facts) -> Iterator[Finding]:
    """A probe in the corner, or in the plane of the detector."""
    intensity, far = facts.probe_intensity, facts.far_amplitude
    if intensity is None or far is None:
        return
    x, y = facts.probe_offset
    side = facts.scan.N
    if min(abs(x), abs(y)) > side / 4:
        yield Finding(
            "probe_in_corner",
            ERROR,
            "the probe is in the corner of its image",
            f"its centre is {x:.0f} px along x and {y:.0f} px along y from the middle of {side} px",
            Cure("--centre-probe", {"centre_probe": True}),
        )
        return
    amplitude = np.sqrt(facts.mean)
    here = max(correlation(far, amplitude), correlation(far, np.fft.fftshift(amplitude)))
    there = correlation(np.sqrt(intensity), amplitude)
    if there > 0.9 and there > here + LEAD:
        yield Finding(
            "probe_plane",
            WARNING,
            "the probe looks like the patterns, so it is that of the detector's plane",
            f"correlation with the mean pattern {there:.2f}, of its far field {here:.2f}",
            Cure(advice="propagate it to the sample, or leave it out"),
        )


def check_pixels(facts: Facts) -> Iterator[Finding]:
    """Hot, dead and saturated pixels."""
    scan, mean, largest = facts.scan, facts.mean, facts.largest
    valid = np.ones(mean.shape, bool) if scan.valid_pixels is None else scan.valid_pixels
    seen, peaks = np.where(valid, mean, 0.0), np.where(valid, largest, 0.0)
    hot = valid & (seen + HOT_BACKGROUND > HOT * (brightest_neighbour(seen) + HOT_BACKGROUND))
    hot &= peaks + HOT_BACKGROUND > 0.5 * HOT * (brightest_neighbour(peaks) + HOT_BACKGROUND)
    for name, pixels, text in (
        ("hot_pixels", hot, "hot: far brighter than all neighbours"),
        (
            "dead_pixels",
            valid & (largest == 0) & (faintest_neighbour(seen) > DEAD_NEIGHBOURS),
            "dead: no counts among bright neighbours",
        ),
    ):
        places = np.argwhere(pixels)
        if not len(places) or len(places) > 0.02 * mean.size:
            continue
        if name == "dead_pixels" and brightest_neighbour(seen)[pixels].sum() < HIDDEN * seen.sum():
            continue
        row, column = places[0]
        near = brightest_neighbour(seen)[row, column]
        yield Finding(
            name,
            WARNING,
            f"{len(places)} pixel{'s are' if len(places) > 1 else ' is'} {text}",
            f"[ky, kx] = {', '.join(f'[{r}, {c}]' for r, c in places[:6])}; mean counts {seen[row, column]:.4g}, "
            f"beside it at most {near:.4g}",
            Cure(
                f"--mask {scan.name}_mask.npy",
                {"bad_pixels": tuple(map(tuple, places.tolist()))},
                "the mask is written by check --fix",
            ),
        )
    top = float(largest.max())
    at_top = int(np.count_nonzero(facts.counts >= top * (1 - 1e-6)))
    if top >= SATURATED_VALUE and at_top >= SATURATED_PIXELS and not hot.any():
        yield Finding(
            "saturated",
            WARNING,
            "the brightest pixels look saturated",
            f"{at_top} values of {len(facts.sample)} frames are exactly {top:.5g}, the largest one",
            Cure(advice="mask these pixels, or measure with less light"),
        )


def check_frames(facts: Facts) -> Iterator[Finding]:
    """Frames without light."""
    scan = facts.scan
    energies = scan.pattern_energies
    median = float(np.median(energies[energies > 0])) if (energies > 0).any() else 0.0
    if median == 0.0:
        yield Finding(
            "empty", ERROR, "every pattern is empty", "all values are zero", Cure(advice="look at the file")
        )
        return
    empty = np.flatnonzero(energies < EMPTY * median)
    if len(empty):
        yield Finding(
            "empty_frames",
            WARNING,
            f"{len(empty)} patterns are empty",
            f"numbers {listed(empty)} have less than a thousandth of the usual {median:.4g} counts",
            Cure(f"--leave-out {','.join(map(str, empty))}", {"leave_out": tuple(empty.tolist())}),
        )
