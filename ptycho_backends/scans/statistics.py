"""Statistics of a scan that settings are derived from: mean photons, step, and if the patterns are counts."""

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.scans.scan import Scan


def mean_photons(scan: Scan) -> float:
    """Mean counts of a whole pattern: the natural `nphotons` of a scan that holds counts or their roots.

    Counts are those of the valid pixels, over the fraction of the probe's energy that falls there.

    Raises
    ------
    ScanError
        If every pattern is empty.
    """
    mean = float(scan.pattern_energies.mean()) / scan.lit_fraction
    if mean == 0.0:
        raise ScanError(f"{scan.name}: every pattern is empty (all zeros)")
    return mean


def holds_counts(scan: Scan) -> bool:
    """True where the valid pixels look like photon counts or their roots: whole numbers, when squared."""
    # a few patterns suffice; walking through a large scan once more would teach nothing new
    sample = scan.patterns[:: max(1, len(scan) // 8)].astype(np.float64)
    if scan.valid_pixels is not None:
        sample = sample[:, scan.valid_pixels]
    counts = sample**2 if scan.measurement == "amplitude" else sample
    # float32 roots, squared, miss whole numbers by their rounding
    return bool(np.all(np.abs(counts - np.rint(counts)) <= 1e-3 + 1e-6 * counts) and counts.max() >= 1)


def median_step_px(positions_px: NDArray[np.float64]) -> float:
    """Median distance from a position to the nearest other one, of (M, 2) positions, pixels.

    Raises
    ------
    ScanError
        If there are fewer than two positions.
    """
    if len(positions_px) < 2:
        raise ScanError(f"positions: got {len(positions_px)}, want at least 2, as one alone has no neighbour")
    from scipy.spatial import cKDTree  # late: it takes a while, and readers need none

    distances, _ = cKDTree(positions_px).query(positions_px, k=2)
    return float(np.median(distances[:, 1]))
