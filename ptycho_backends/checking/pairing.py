"""Check that each pattern belongs to its position: neighbours see the same object, so their patterns are alike."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ptycho_backends.scans.scan import Scan

# Positions looked at, and patterns that each is compared with.
LOOKED_AT, COMPARED = 160, 60
# Patterns are compared after sums over squares, to so many pixels on the side.
SIDE = 32
# Rank of a random pair, its standard deviation, and standard deviations that are no accident.
RANDOM_RANK, RANK_DEVIATION, SIGNIFICANT = 0.5, 0.289, 4.0


class Likeness:
    """Likeness of patterns at neighbouring positions.

    Parameters
    ----------
    scan : Scan
    """

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        count = len(scan)
        neighbour = cKDTree(scan.scan_positions_px).query(scan.scan_positions_px, k=2)[1][:, 1]
        generator = np.random.default_rng(0)
        self._here = np.sort(generator.choice(count, min(count, LOOKED_AT), replace=False))
        self._beside = neighbour[self._here]
        self._others = np.sort(generator.choice(count, min(count, COMPARED), replace=False))
        self._known: dict[int, NDArray[np.float64]] = {}

    def rank(self, order: NDArray[np.int64] | None = None) -> float:
        """Mean rank of a neighbour's pattern among random ones by distance, 0 .. 1; 0.5 if it is one of them.

        Parameters
        ----------
        order : (M,) integer array, optional
            Pattern of each position; default: as they are.
        """
        here, beside, others = self._here, self._beside, self._others
        if order is None:
            order = np.arange(len(self._scan))
        one, other, rest = (self._features(order[numbers]) for numbers in (here, beside, others))
        near = np.sum((one - other) ** 2, axis=1)
        far = np.sum(one**2, axis=1)[:, None] - 2 * one @ rest.T + np.sum(rest**2, axis=1)
        # neither itself nor the neighbour
        counted = (others[None] != here[:, None]) & (others[None] != beside[:, None])
        ranks = np.sum((far < near[:, None]) & counted, axis=1) / np.maximum(counted.sum(axis=1), 1)
        return float(ranks.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation of the rank of random pairs."""
        return RANK_DEVIATION / np.sqrt(len(self._here))

    def is_significant(self, rank: float) -> bool:
        """True where neighbours are more alike than random pairs are by accident."""
        return rank < RANDOM_RANK - SIGNIFICANT * self.deviation

    def _features(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """(m, SIDE * SIDE) amplitudes on larger pixels, of one norm."""
        known = self._known
        missing = np.array(sorted({int(number) for number in numbers} - set(known)), np.int64)
        for start in range(0, len(missing), 64):
            part = missing[start : start + 64]
            amplitude = self._scan.diffraction_amplitude(part).astype(np.float64)
            step = max(1, self._scan.N // SIDE)
            side = self._scan.N // step
            cut = amplitude[:, : side * step, : side * step].reshape(len(part), side, step, side, step)
            flat = cut.mean(axis=(2, 4)).reshape(len(part), -1)
            flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-300)
            known.update(zip(part.tolist(), flat, strict=True))
        return np.stack([known[int(number)] for number in numbers])


def likely_orders(scan: Scan) -> dict[str, NDArray[np.int64]]:
    """Mistakes in the order of frames that happen, by what would mend them."""
    numbers = np.arange(len(scan))
    orders = {
        "the patterns in reverse order": numbers[::-1],
        "each pattern one position earlier": np.roll(numbers, -1),
        "each pattern one position later": np.roll(numbers, 1),
        # names sorted as text: 1, 10, 11, 2
        "the patterns in the order of numbers, not of texts": np.argsort(np.argsort(numbers.astype(str))),
    }
    index = scan.scan_index
    if index is not None and not np.array_equal(np.sort(index), index):
        orders["the patterns sorted by scan_index"] = np.argsort(index, kind="stable")
        orders["the patterns placed by scan_index"] = np.argsort(np.argsort(index, kind="stable"))
    return orders
