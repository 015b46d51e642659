"""Agreement of a refined image with the measured patterns: figures that need no known object."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.stored_patterns import chunks
from ptycho_backends.reference.refinement import views
from ptycho_backends.scans.scan import Scan
from ptycho_backends.values import REFINEMENT_CHUNK, Reconstruction

# Predicted counts below this have no smaller variance.
LEAST_VARIANCE = 1.0


@dataclass(frozen=True, eq=False)
class PatternAgreement:
    """Agreement of predicted and measured patterns over the valid pixels.

    Attributes
    ----------
    r_factor : float
        `sum |sqrt(I) - m| / sum sqrt(I)` of counts `I` and predicted amplitudes `m`.
    chi_square : float
        Mean of `(I - m^2)^2 / max(m^2, 1)`. Where photon noise alone is left it is 1, and less in patterns most of
        whose pixels expect below one count. It means nothing where patterns are not counts.
    r_factor_by_position : (M,) float64
        R-factor of each pattern; NaN for empty ones.
    positions_used : (M,) int64
        Their numbers in the scan.
    """

    r_factor: float
    chi_square: float
    r_factor_by_position: NDArray[np.float64]
    positions_used: NDArray[np.int64]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON: the two figures of the whole scan, and the worst pattern."""
        values: dict[str, Any] = {"r_factor": self.r_factor, "chi_square": self.chi_square}
        if np.isfinite(self.r_factor_by_position).any():
            worst = int(np.nanargmax(self.r_factor_by_position))
            values["worst_position"] = int(self.positions_used[worst])
            values["worst_position_r_factor"] = float(self.r_factor_by_position[worst])
        return values


def pattern_agreement(reconstruction: Reconstruction, scan: Scan) -> PatternAgreement:
    """Compare the patterns that a refined image predicts with the measured ones, a batch at a time.

    Parameters
    ----------
    reconstruction : Reconstruction
        With `probe_modes`, in roots of counts. Without `positions_px` the scan's own positions are taken.
    scan : Scan
        Its `valid_pixels` limit the comparison.

    Raises
    ------
    ScanError
        If there are no probe modes, they do not fit the patterns, a position lies beside the canvas, or the
        scan is empty.
    """
    if reconstruction.probe_modes is None:
        raise ScanError(
            f"{scan.name}: the reconstruction has no probe modes, which predicted patterns need; refine it first"
        )
    modes = np.asarray(reconstruction.probe_modes, np.complex64)
    side = scan.N
    if modes.shape[-2:] != (side, side):
        raise ScanError(f"{scan.name}: got probe modes of {modes.shape[-2:]} pixels, want ({side}, {side})")
    used, corners, fractions = _places(reconstruction, scan)
    canvas = _filled(reconstruction)
    valid = np.ones((side, side), bool) if scan.valid_pixels is None else scan.valid_pixels
    differences, measured, chi_squares = np.empty((3, len(used)))
    for part in chunks(len(used), side, REFINEMENT_CHUNK):
        seen = views(canvas, corners[part], fractions[part], side)
        intensity = _intensity(seen, modes)[:, valid]
        amplitude = scan.diffraction_amplitude(used[part])[:, valid]
        measured[part] = amplitude.sum(axis=-1, dtype=np.float64)
        differences[part] = np.abs(amplitude - np.sqrt(intensity)).sum(axis=-1, dtype=np.float64)
        squares = (amplitude**2 - intensity) ** 2 / np.maximum(intensity, LEAST_VARIANCE)
        chi_squares[part] = squares.mean(axis=-1, dtype=np.float64)
    if not measured.any():
        raise ScanError(f"{scan.name}: every pattern is empty (all zeros)")
    by_position = np.divide(differences, measured, out=np.full(len(used), np.nan), where=measured > 0)
    return PatternAgreement(
        float(differences.sum() / measured.sum()), float(chi_squares.mean()), by_position, used
    )


def predicted_patterns(
    reconstruction: Reconstruction, scan: Scan, numbers: Sequence[int]
) -> NDArray[np.float32]:
    """Counts that a refined image predicts.

    Parameters
    ----------
    reconstruction : Reconstruction
        With `probe_modes`.
    scan : Scan
    numbers : sequence of int
        Of the positions among those that were used.

    Returns
    -------
    (n, N, N) float32 array, [ky, kx], the zero frequency in the middle

    Raises
    ------
    ScanError
        As `pattern_agreement`.
    """
    if reconstruction.probe_modes is None:
        raise ScanError(f"{scan.name}: the reconstruction has no probe modes; refine it first")
    _, corners, fractions = _places(reconstruction, scan)
    chosen = np.asarray(numbers, np.intp)
    seen = views(_filled(reconstruction), corners[chosen], fractions[chosen], scan.N)
    return _intensity(seen, np.asarray(reconstruction.probe_modes, np.complex64))


def _places(
    reconstruction: Reconstruction, scan: Scan
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Numbers (M,) of the positions, and corners and fractions (M, 2) of their views, `[x, y]`."""
    used = reconstruction.positions_used
    used = np.arange(len(scan)) if used is None else used
    if len(used) and used.max() >= len(scan):
        raise ScanError(
            f"{scan.name}: the reconstruction used position {used.max()}, but the scan has only {len(scan)}"
        )
    positions = (
        scan.positions_of(used) if reconstruction.positions_px is None else reconstruction.positions_px
    )
    corner = positions - reconstruction.origin_px - scan.N // 2
    first = np.floor(corner).astype(np.int64)
    height, width = reconstruction.object.shape
    outside = ((first < 0) | (first + scan.N + 1 > np.array([width, height]))).any(axis=1)
    if outside.any():
        raise ScanError(
            f"{scan.name}: the pattern at position {used[np.argmax(outside)]} reaches beyond the canvas; compare "
            "with the scan that the image was refined on"
        )
    return used, first, (corner - first).astype(np.float32)


def _filled(reconstruction: Reconstruction) -> NDArray[np.complex64]:
    """The object (H, W) with the nearest covered pixel's value where it is not covered.

    A little light of the probe's rim falls there; zeros would take it away.
    """
    image = np.asarray(reconstruction.object, np.complex64)
    bare = reconstruction.coverage <= 0
    if bare.all() or not bare.any():
        return image
    nearest = scipy.ndimage.distance_transform_edt(bare, return_distances=False, return_indices=True)
    return image[tuple(nearest)]


def _intensity(seen: NDArray, modes: NDArray) -> NDArray[np.float32]:
    """(n, N, N) predicted counts, [ky, kx], the zero frequency in the middle."""
    intensity = np.zeros(seen.shape, np.float32)
    for mode in modes:
        # one mode at a time: a batch of all of them would leave the cache
        far = np.fft.fft2(mode * seen, norm="ortho")
        intensity += far.real**2 + far.imag**2
    return np.fft.fftshift(intensity, axes=(-2, -1))
