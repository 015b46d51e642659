"""Measurements on a scan that several checks need."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ptycho_backends.scans.scan import Scan

# Frames that statistics of patterns are taken from, and pixels in them at most.
SAMPLED, LEAST_SAMPLED, SAMPLED_PIXELS = 200, 16, 1 << 24

# Positions so many times farther from the middle than most are left out of the mean step.
FAR = 20.0


@dataclass(frozen=True, eq=False)
class Facts:
    """Measurements on `scan`, each made when it is first asked for."""

    scan: Scan

    @cached_property
    def sample(self) -> NDArray[np.int64]:
        """Numbers of the frames looked at."""
        count = len(self.scan)
        most = min(SAMPLED, max(LEAST_SAMPLED, SAMPLED_PIXELS // self.scan.N**2))
        return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))

    @cached_property
    def counts(self) -> NDArray[np.float32]:
        """(m, N, N), squared amplitudes of the sample."""
        return self.scan.diffraction_amplitude(self.sample) ** 2

    @cached_property
    def mean(self) -> NDArray[np.float64]:
        """(N, N), the mean pattern."""
        return np.mean(self.counts, axis=0, dtype=np.float64)

    @cached_property
    def largest(self) -> NDArray[np.float32]:
        """(N, N), the largest count of each pixel."""
        return np.max(self.counts, axis=0)

    @cached_property
    def neighbour_distance(self) -> NDArray[np.float64]:
        """(M,) distance of each position to the nearest other one, pixels."""
        positions = self.scan.scan_positions_px
        if len(positions) < 2:
            return np.full(len(positions), np.inf)
        return cKDTree(positions).query(positions, k=2)[0][:, 1]

    @cached_property
    def step(self) -> float:
        """Mean distance of neighbours on the area that most positions cover, pixels."""
        positions = self.scan.scan_positions_px
        distance = np.abs(positions - np.median(positions, axis=0)).max(axis=1)
        # of few positions, the percentiles alone would hold a stray
        usual = float(np.median(distance))
        positions = positions[distance <= FAR * usual] if usual > 0 else positions
        low, high = np.percentile(positions, [2, 98], axis=0)
        extent = np.maximum(high - low, 0)
        count = len(positions)
        area_step = float(np.sqrt(extent[0] * extent[1] / count))
        return max(area_step, float(extent.max()) / count)

    @cached_property
    def probe_intensity(self) -> NDArray[np.float64] | None:
        """(N, N), of all modes together."""
        modes = self.scan.probe_modes
        return None if modes is None else np.sum(np.abs(modes.astype(np.complex128)) ** 2, axis=0)

    @cached_property
    def far_amplitude(self) -> NDArray[np.float64] | None:
        """(N, N), amplitude of the probe's far field, zero frequency in the middle."""
        modes = self.scan.probe_modes
        if modes is None:
            return None
        far = np.abs(np.fft.fft2(modes.astype(np.complex128))) ** 2
        return np.sqrt(np.fft.fftshift(far.sum(axis=0)))

    @cached_property
    def probe_offset(self) -> NDArray[np.float64]:
        """(2,) `[x, y]` of the probe's centre of mass on the torus, from pixel N // 2; zeros without a probe."""
        if self.probe_intensity is None:
            return np.zeros(2)
        return circular_centre(self.probe_intensity)

    @cached_property
    def probe_width(self) -> float:
        """Diameter of the probe, four times its root-mean-square radius along one axis; N / 3 without a probe."""
        if self.probe_intensity is None:
            return self.scan.N / 3
        side = self.scan.N
        x, y = np.rint(self.probe_offset).astype(int)
        middle = np.roll(self.probe_intensity, (-y, -x), (0, 1))
        axis = np.arange(side) - side // 2
        squared = axis**2 + axis[:, None] ** 2
        return float(4 * np.sqrt((middle * squared).sum() / middle.sum() / 2))


def circular_centre(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2,) `[x, y]` centre of mass of an image on a torus, from its middle pixel, in -N/2 .. N/2."""
    side = len(image)
    turn = np.exp(2j * np.pi * (np.arange(side) - side // 2) / side)
    angles = [np.angle(np.sum(image.sum(axis=axis) * turn)) for axis in (0, 1)]
    return np.array(angles) * side / (2 * np.pi)


def correlation(one: NDArray, other: NDArray) -> float:
    """Correlation coefficient of two images; 0 where one is constant."""
    first, second = one - one.mean(), other - other.mean()
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / norm if norm > 0 else 0.0


def brightest_neighbour(image: NDArray) -> NDArray:
    """The largest of the eight neighbours of each pixel."""
    return _neighbours(image).max(axis=0)


def faintest_neighbour(image: NDArray) -> NDArray:
    """The smallest of the eight neighbours of each pixel."""
    return _neighbours(image).min(axis=0)


def _neighbours(image: NDArray) -> NDArray:
    padded = np.pad(image, 1, mode="edge")
    height, width = image.shape
    return np.stack(
        [
            padded[row : row + height, column : column + width]
            for row in range(3)
            for column in range(3)
            if (row, column) != (1, 1)
        ]
    )


def listed(numbers: NDArray[np.integer], most: int = 8) -> str:
    """Numbers as text, the first of many."""
    shown = ", ".join(map(str, numbers[:most]))
    return f"{shown}, ... ({len(numbers)} in all)" if len(numbers) > most else shown
