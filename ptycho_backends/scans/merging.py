"""Several scans as one: trained on together, each group within its own scan."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import TrainingConfig
from ptycho_backends.errors import ScanError
from ptycho_backends.scans.grouping import GroupedData, groups_for_training
from ptycho_backends.scans.scan import Scan

log = logging.getLogger(__name__)

# Least overlap of the waves of two probes that count as equal.
SAME_PROBE = 0.99


def groups_of_scans(scans: Sequence[Scan], config: TrainingConfig) -> GroupedData:
    """The groups of several scans that `config` trains on together.

    Parameters
    ----------
    scans : sequence of Scan
        At least one. Where some hold counts and others amplitudes, counts become amplitudes.
    config : TrainingConfig
        `n_groups` and `n_subsample` are those of all scans together; each has its share of them, by its number of
        positions.

    Returns
    -------
    GroupedData
        As from `merge_groups`.

    Raises
    ------
    ScanError, GroupingError
        If the scans do not fit together, or one is too small for its groups.
    """
    if len({scan.measurement for scan in scans}) > 1:
        scans = [_with_amplitudes(scan) for scan in scans]
    counts = [len(scan) for scan in scans]
    groups: Sequence[int | None] = [None] * len(scans)
    if config.n_groups is not None:
        groups = _shares(config.n_groups, counts)
    kept = None if config.n_subsample is None else _shares(config.n_subsample, counts)
    return merge_groups(
        [
            groups_for_training(
                scan,
                dataclasses.replace(
                    config, n_groups=groups[i], n_subsample=None if kept is None else kept[i]
                ),
            )
            for i, scan in enumerate(scans)
        ]
    )


def _with_amplitudes(scan: Scan) -> Scan:
    if scan.measurement == "amplitude":
        return scan
    return dataclasses.replace(scan, patterns=scan.diffraction_amplitude(), measurement="amplitude")


def _shares(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole numbers that are as `weights` are; none is 0, so they may sum up to a little more."""
    ends = np.rint(total * np.cumsum([0, *weights]) / sum(weights)).astype(int)
    return [max(1, int(share)) for share in np.diff(ends)]


def merge_groups(parts: Sequence[GroupedData]) -> GroupedData:
    """The groups of several scans as those of one scan, in which the single ones lie side by side.

    Parameters
    ----------
    parts : sequence of GroupedData
        At least one; patterns of one size, groups of one size, all counts or all amplitudes.

    Returns
    -------
    GroupedData
        Its scan has the modes of the first, and an object if every scan has one. Where probes or valid
        pixels differ, its `parts` keep them, and a model has a probe for each scan (`probe_count`).

    Raises
    ------
    ScanError
        If the scans do not fit together; the text names the one that differs.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts[1:]:
        for what, got, want in (
            ("patterns of", part.N, first.N),
            ("groups of", part.nn_indices.shape[1], first.nn_indices.shape[1]),
            ("patterns that hold", part.scan.measurement, first.scan.measurement),
        ):
            if got != want:
                raise ScanError(f"{part.scan.name}: has {what} {got}, but {first.scan.name} {what} {want}")
    scans = [part.scan for part in parts]
    shifts, image = _side_by_side(scans)
    starts = np.cumsum([0, *(len(scan) for scan in scans)])
    merged = Scan(
        xcoords=np.concatenate([scan.xcoords + shift for scan, shift in zip(scans, shifts, strict=True)]),
        ycoords=np.concatenate([scan.ycoords for scan in scans]),
        patterns=np.concatenate([_without_invalid(scan) for scan in scans]),
        probe_guess=first.scan.probe_guess,
        probe_modes=first.scan.probe_modes,
        object_guess=image,
        measurement=first.scan.measurement,
        scan_index=np.repeat(np.arange(len(scans)), [len(scan) for scan in scans]),
        name=" + ".join(scan.name for scan in scans),
    )
    indices = [part.nn_indices + start for part, start in zip(parts, starts[:-1], strict=True)]
    together = (merged, np.concatenate(indices), first.normalize, first.data_scaling, first.phase_subtraction)
    same_probe = all(_same_probe(first.scan, scan) for scan in scans[1:])
    if same_probe and all(scan.valid_pixels is None for scan in scans):
        return GroupedData(*together)
    if not same_probe:
        log.info("%s: %d scans with a probe each", merged.name, len(scans))
    part_of_group = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
    return GroupedData(*together, tuple(scans), part_of_group, 1 if same_probe else len(scans))


def _same_probe(first: Scan, other: Scan) -> bool:
    """True where two scans may share a probe: modes equal but for a common factor and the phase of each."""
    if first.probe_modes is None or other.probe_modes is None:
        return first.probe_modes is other.probe_modes
    norms = np.linalg.norm(first.probe_modes) * np.linalg.norm(other.probe_modes)
    # a factor is no difference, because probes are normalised; nor is a phase
    pairs = zip(first.probe_modes, other.probe_modes, strict=False)
    return bool(sum(abs(np.vdot(one, mode)) for one, mode in pairs) >= SAME_PROBE * norms)


def _without_invalid(scan: Scan) -> NDArray:
    """The patterns of `scan`, with 0 at invalid pixels."""
    patterns = np.asarray(scan.patterns)
    return (
        patterns
        if scan.valid_pixels is None
        else np.where(scan.valid_pixels, patterns, patterns.dtype.type(0))
    )


def _side_by_side(scans: Sequence[Scan]) -> tuple[NDArray[np.float64], NDArray[np.complex64] | None]:
    """Shift of each scan along x, and the objects on one canvas, a pattern's width apart."""
    gap = scans[0].N
    widths = []
    for scan in scans:
        guess = scan.object_guess
        widths.append(gap + (np.ptp(scan.xcoords) if guess is None else guess.shape[1]))
    shifts = np.concatenate([[0.0], np.cumsum(np.ceil(widths))[:-1]])
    guesses = [scan.object_guess for scan in scans if scan.object_guess is not None]
    if len(guesses) < len(scans):
        return shifts, None
    canvas = np.zeros((max(len(guess) for guess in guesses), int(np.sum(widths))), np.complex64)
    for guess, shift in zip(guesses, shifts.astype(int), strict=True):
        canvas[: len(guess), shift : shift + guess.shape[1]] = guess
    return shifts, canvas
