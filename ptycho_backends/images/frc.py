"""Fourier ring correlation of two half scans: the resolution of an image that has no reference."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError, ShapeError
from ptycho_backends.images.ramp import linear_ramp, own_ramp, without_ramp
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.snake import along_a_snake, even_batches
from ptycho_backends.values import Reconstruction

# Fewer positions in a half are no scan, and a smaller common area has too few rings.
LEAST_POSITIONS = 4
LEAST_SIDE_PX = 16

# The window rises over this fraction of the way from the outline to the innermost pixel.
TAPER = 0.5


@dataclass(frozen=True, eq=False)
class RingCorrelation:
    """Correlation of two images, ring by ring of spatial frequency.

    Attributes
    ----------
    frequency : (R,) float64
        Of the rings, cycles per pixel, up to 0.5.
    correlation : (R,) float64
        -1 .. 1.
    half_bit : (R,) float64
        The half-bit curve: correlations above it carry at least half a bit of information per Fourier coefficient.
    crossing : float, optional
        Frequency where the correlation first falls below the curve, cycles per pixel: 0.5 where it never does, None
        where it never lies above.
    pixel_size_m : float, optional
    """

    frequency: NDArray[np.float64]
    correlation: NDArray[np.float64]
    half_bit: NDArray[np.float64]
    crossing: float | None
    pixel_size_m: float | None = None

    @property
    def resolution_px(self) -> float | None:
        """Period of the finest details that are resolved, `1 / crossing`, in pixels; at least 2."""
        return None if self.crossing is None else 1.0 / self.crossing

    @property
    def resolution_m(self) -> float | None:
        """`resolution_px` in metres; None where it or the pixel size is not known."""
        if self.resolution_px is None or self.pixel_size_m is None:
            return None
        return self.resolution_px * self.pixel_size_m

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {
            "frc_resolution_px": self.resolution_px,
            "frc_resolution_m": self.resolution_m,
            "frc_crossing_per_px": self.crossing,
        }

    def __str__(self) -> str:
        if self.resolution_px is None:
            return "resolution: none (the halves do not correlate)"
        limit = " or finer" if self.crossing == self.frequency[-1] else ""
        metres = "" if self.resolution_m is None else f" = {self.resolution_m * 1e9:.3g} nm"
        return f"resolution (half-bit, full period) {self.resolution_px:.2f} px{metres}{limit}"


def half_scans(scan: Scan, seed: int = 0) -> tuple[Scan, Scan]:
    """Two scans of half the positions each, interleaved so that both cover the field.

    Of every two successive positions along a snake, one goes to each half, at random by `seed`.

    Raises
    ------
    ScanError
        If there are too few positions.
    """
    if len(scan) < 2 * LEAST_POSITIONS:
        raise ScanError(
            f"{scan.name}: {len(scan)} positions, want at least {2 * LEAST_POSITIONS} for two halves"
        )
    first, second = even_batches(along_a_snake(scan.scan_positions_px), 2, seed, 0)
    return scan.part(np.sort(first), "half 1"), scan.part(np.sort(second), "half 2")


def ring_correlation_of_halves(first: Reconstruction, second: Reconstruction) -> RingCorrelation:
    """`fourier_ring_correlation` of two reconstructions in one coordinate system, on any canvases.

    Raises
    ------
    ScanError
        If they hardly overlap.
    """
    height, width = first.object.shape
    x, y = np.asarray(first.origin_px, np.float64) - second.origin_px
    places = np.meshgrid(np.arange(height) + y, np.arange(width) + x, indexing="ij")
    covered = (np.asarray(second.coverage) > 0).astype(np.float32)
    region = (first.coverage > 0) & (scipy.ndimage.map_coordinates(covered, places, order=1) > 1 - 1e-3)
    if not region.any():
        raise ScanError("Fourier ring correlation: the two reconstructions do not overlap")
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    # a filter that is the same within a ring, as interpolation nearly is, does not change the correlation
    moved = scipy.ndimage.map_coordinates(second.object.astype(np.complex128), places, order=3)
    return fourier_ring_correlation(first.object[box], moved[box], region[box], first.pixel_size_m)


def fourier_ring_correlation(
    a: NDArray, b: NDArray, region: NDArray[np.bool_] | None = None, pixel_size_m: float | None = None
) -> RingCorrelation:
    r"""Correlation of two images of one object as a function of spatial frequency.

    .. math::

        C(r) = \frac{\mathrm{Re} \sum_{k \in r} A_k B_k^*}
                    {\sqrt{\sum_{k \in r} |A_k|^2 \sum_{k \in r} |B_k|^2}}, \quad
        T(r) = \frac{0.2071 + 1.9102 / \sqrt{n(r)}}{1.2071 + 0.9102 / \sqrt{n(r)}}

    `A` and `B` are the Fourier transforms of the windowed images, `T` the half-bit curve for two halves of the data
    and `n` the number of independent coefficients of a ring: all of them, because complex images have no Friedel
    pairs, times the window's effective area over that of the image. Before, a constant phase and a linear ramp
    between the images, their common ramp and their mean are removed. Rings are as wide as the shorter side's
    frequency step.

    Parameters
    ----------
    a, b : (H, W) complex arrays, [y, x]
        On the same pixels.
    region : (H, W) bool array, optional
        Pixels where both are known; the window falls to zero at its outline. Default: all.
    pixel_size_m : float, optional

    Raises
    ------
    ShapeError, ScanError
        Different shapes; a region too small to have rings.

    References
    ----------
    M. van Heel and M. Schatz, J. Struct. Biol. 151, 250 (2005).
    """
    a, b = np.asarray(a, np.complex128), np.asarray(b, np.complex128)
    if a.shape != b.shape or a.ndim != 2:
        raise ShapeError(
            f"Fourier ring correlation: got images of shapes {a.shape} and {b.shape}, want one (H, W)"
        )
    region = np.ones(a.shape, bool) if region is None else region
    window = _window(region)
    a, b = _levelled(a, b, window)
    far_a, far_b = np.fft.fft2(window * a), np.fft.fft2(window * b)
    side = min(a.shape)
    radius = np.hypot(np.fft.fftfreq(a.shape[0])[:, None], np.fft.fftfreq(a.shape[1]))
    ring = np.rint(radius * side).astype(np.int64).ravel()
    count = side // 2 + 1

    def sums(values: NDArray) -> NDArray[np.float64]:
        return np.bincount(ring, values.ravel().astype(np.float64), ring.max() + 1)[1:count].astype(
            np.float64
        )

    powers = np.sqrt(sums(np.abs(far_a) ** 2) * sums(np.abs(far_b) ** 2))
    common = sums((far_a * far_b.conj()).real)
    correlation = np.divide(common, powers, out=np.zeros_like(common), where=powers > 0)
    area = float(np.sum(window**2) ** 2 / np.sum(window**4)) / window.size
    half_bit = half_bit_curve(sums(np.ones(window.shape)) * area)
    frequency = np.arange(1, count) / side
    crossing = _crossing(frequency, correlation - half_bit)
    return RingCorrelation(frequency, correlation, half_bit, crossing, pixel_size_m)


def half_bit_curve(coefficients: NDArray) -> NDArray[np.float64]:
    """The half-bit threshold for two halves of the data, by the independent coefficients of each ring."""
    root = np.sqrt(np.maximum(coefficients, 1.0))
    return (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)


def _window(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Zero outside `region`, rising as a squared sine from its outline, 1 in the middle."""
    depth = scipy.ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    if 2 * depth.max() < LEAST_SIDE_PX:
        raise ScanError(
            f"Fourier ring correlation: the common area is only {2 * depth.max():.0f} pixels wide, want at least "
            f"{LEAST_SIDE_PX}"
        )
    return np.sin(0.5 * math.pi * np.minimum(depth / (TAPER * depth.max()), 1.0)) ** 2


def _levelled(a: NDArray, b: NDArray, window: NDArray) -> tuple[NDArray, NDArray]:
    """The images without their ramps, without a phase between them, and without their means in the window."""
    own = own_ramp(window * a)
    a = without_ramp(a, own)
    b = without_ramp(b, own)
    b = without_ramp(b, linear_ramp(window * b * a.conj()))
    b = b * np.exp(1j * np.angle(np.vdot(b, window * a)))
    return tuple(image - np.sum(window * image) / np.sum(window) for image in (a, b))


def _crossing(frequency: NDArray, margin: NDArray) -> float | None:
    """Frequency where `margin` first falls below zero after it was above."""
    above = np.flatnonzero(margin > 0)
    if len(above) == 0:
        return None
    below = np.flatnonzero(margin[above[0] :] <= 0)
    if len(below) == 0:
        return float(frequency[-1])
    after = int(above[0] + below[0])
    fraction = margin[after - 1] / (margin[after - 1] - margin[after])
    return float(frequency[after - 1] + fraction * (frequency[after] - frequency[after - 1]))
