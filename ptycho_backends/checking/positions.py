"""Checks of positions: their unit, overlap, duplicates and strays, the canvas, and labels."""

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.checking.facts import Facts, listed
from ptycho_backends.checking.findings import ERROR, WARNING, Cure, Finding
from ptycho_backends.scans.extent import patches_outside
from ptycho_backends.scans.raw_scan import POSITION_UNITS
from ptycho_backends.scans.scan import Scan

# Steps between these multiples of the probe's width are steps of a scan; others are in another unit.
LEAST_STEP, MOST_STEP = 0.02, 1.5
# Beyond this step, probes hardly overlap.
SPARSE_STEP = 0.7
# A position is a stray if its nearest neighbour is farther than these multiples of the usual and of the probe.
STRAY_NEIGHBOUR, STRAY_PROBE = 6.0, 0.6
# Positions nearer than this part of a step are one.
SAME_POSITION = 1e-6
# Bytes that a refinement takes for each pixel of the canvas, and the part of the memory that is much.
BYTES_A_PIXEL, MUCH_MEMORY = 160, 0.5
# Units in the order in which they are tried.
UNITS = ("m", "mm", "um", "nm")


def check_positions(facts: Facts) -> Iterator[Finding]:
    """Findings about the positions; the unit first, because all else depends on it."""
    scan = facts.scan
    if len(scan) < 4:
        return
    if not np.ptp(scan.scan_positions_px, axis=0).any():
        x, y = scan.scan_positions_px[0]
        yield Finding(
            "one_position",
            ERROR,
            "all positions are the same",
            f"{len(scan)} times x = {x:.5g}, y = {y:.5g}",
            Cure(advice="look at the data sets of the positions"),
        )
        return
    if unit := _unit(facts):
        yield unit
        return
    yield from _duplicates(facts)
    strays = _strays(facts)
    if strays is not None:
        yield strays
    elif facts.step > SPARSE_STEP * facts.probe_width:
        yield Finding(
            "little_overlap",
            WARNING,
            "the probes of neighbouring positions hardly overlap",
            f"mean step {facts.step:.3g} px, width of the probe {facts.probe_width:.3g} px",
            Cure(advice="scan with a step below half of the probe's width"),
        )
    yield from _canvas(facts)


def _unit(facts: Facts) -> Finding | None:
    """Positions in another unit than object pixels."""
    scan, width = facts.scan, facts.probe_width
    span = float(np.ptp(scan.scan_positions_px, axis=0).max())
    if LEAST_STEP * width <= facts.step <= MOST_STEP * width or span == 0:
        return None
    evidence = f"mean step {facts.step:.3g} px for a probe of {width:.3g} px, in all {span:.3g} px"
    text = "the positions are not in object pixels"
    plausible = []
    if scan.pixel_size_m is not None:
        plausible = [
            unit
            for unit in UNITS
            if LEAST_STEP <= facts.step * POSITION_UNITS[unit] / scan.pixel_size_m / width <= MOST_STEP
        ]
    if plausible:
        unit, pixel = plausible[0], scan.pixel_size_m
        step = facts.step * POSITION_UNITS[unit] / float(pixel or 1)
        return Finding(
            "positions_unit",
            ERROR,
            f"{text} but in {unit}",
            f"{evidence}; in {unit}, with pixels of {float(pixel or 0) * 1e9:.4g} nm, the step is {step:.3g} px",
            Cure(f"--positions-unit {unit}", {"options": {"positions_unit": unit}}),
        )
    if facts.step > MOST_STEP * width and scan.pixel_size_m is not None:
        # a sparse scan, or strays
        return None
    guess = "m" if span < 1e-2 else "um" if facts.step < LEAST_STEP * width else "nm"
    return Finding(
        "positions_unit",
        ERROR if span < 1 else WARNING,
        f"{text}, perhaps in {guess}",
        f"{evidence}; the pixel size is not known",
        Cure(
            f"--positions-unit {guess} --pixel-size SIZE",
            advice="or --energy, --distance and --detector-pixel in place of --pixel-size",
        ),
    )


def _duplicates(facts: Facts) -> Iterator[Finding]:
    scan = facts.scan
    places = (
        np.rint(scan.scan_positions_px / (SAME_POSITION * facts.step))
        if facts.step > 0
        else scan.scan_positions_px
    )
    _, first, inverse = np.unique(places, axis=0, return_index=True, return_inverse=True)
    original = first[inverse.reshape(-1)]
    again = np.flatnonzero(original != np.arange(len(scan)))
    if not len(again):
        return
    frames = scan.diffraction_amplitude
    same = [np.array_equal(frames([number]), frames([original[number]])) for number in again[:50]]
    what = "with the same pattern" if all(same) else "with patterns of their own"
    yield Finding(
        "duplicates",
        WARNING,
        f"{len(again)} position{'s repeat others' if len(again) > 1 else ' repeats another one'}, {what}",
        f"numbers {listed(again)} repeat {listed(np.unique(original[again]))}",
        Cure(f"--leave-out {','.join(map(str, again))}", {"leave_out": tuple(again.tolist())}),
    )


def strays_of(facts: Facts) -> NDArray[np.int64]:
    """Numbers of the positions that are far from all others."""
    distance = facts.neighbour_distance
    usual = float(np.median(distance))
    limit = max(STRAY_NEIGHBOUR * usual, STRAY_PROBE * facts.probe_width)
    return np.flatnonzero(distance > limit)


def _strays(facts: Facts) -> Finding | None:
    strays = strays_of(facts)
    if not len(strays) or len(strays) > 0.2 * len(facts.scan):
        return None
    positions = facts.scan.scan_positions_px[strays]
    shown = "; ".join(
        f"{number} at x = {x:.5g}, y = {y:.5g}"
        for number, (x, y) in zip(strays[:4], positions[:4], strict=True)
    )
    plural = "s are" if len(strays) > 1 else " is"
    return Finding(
        "strays",
        WARNING,
        f"{len(strays)} position{plural} far from all others",
        f"{shown}; the nearest other one is {facts.neighbour_distance[strays].min():.4g} px away, usual are "
        f"{np.median(facts.neighbour_distance):.3g} px",
        Cure(f"--leave-out {','.join(map(str, strays))}", {"leave_out": tuple(strays.tolist())}),
    )


def _canvas(facts: Facts) -> Iterator[Finding]:
    scan = facts.scan
    positions = np.delete(scan.scan_positions_px, strays_of(facts), axis=0)
    if len(positions) < 2:
        positions = scan.scan_positions_px
    width, height = np.ptp(positions, axis=0) + scan.N
    needed = float(width * height) * BYTES_A_PIXEL
    memory = _memory_bytes()
    if memory and needed > MUCH_MEMORY * memory:
        yield Finding(
            "canvas",
            WARNING,
            "the image takes much of the memory",
            f"{width:.0f} x {height:.0f} pixels take {needed / 2**30:.3g} GiB of {memory / 2**30:.3g} GiB",
            Cure(advice="reconstruct parts of the scan, or use a larger machine"),
        )


def _memory_bytes() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * float(os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return 0.0


def check_labels(scan: Scan) -> Iterator[Finding]:
    """The object of the file does not cover the patches, whose labels would be zeros there."""
    if scan.object_guess is None:
        return
    outside = patches_outside(scan.scan_positions_px, scan.N, scan.object_guess.shape)
    if not len(outside):
        return
    height, width = scan.object_guess.shape
    x, y = scan.xcoords, scan.ycoords
    yield Finding(
        "labels",
        WARNING,
        f"{len(outside)} of {len(scan)} patches reach beyond objectGuess",
        f"positions x {x.min():.4g} .. {x.max():.4g}, y {y.min():.4g} .. {y.max():.4g} with patches of {scan.N} px, "
        f"object {width} x {height} px",
        Cure(advice="train without labels (model_type pinn), or give the object of these positions"),
    )
