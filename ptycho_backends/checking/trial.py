"""A quick classical reconstruction of a few neighbouring positions, which tells right axes and signs from wrong ones.

The object starts flat and the probe is held. Some pixels of each pattern are held out, and the error there decides:
with wrong positions an object that explains the pixels it was made from predicts those no better.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.constants import REFINEMENT_FLOOR
from ptycho_backends.reference import refinement as reference
from ptycho_backends.refinement.schedule import along_a_snake, even_batches
from ptycho_backends.scans.scan import Scan
from ptycho_backends.values import PassSettings, RefinementProblem

# Neighbouring positions, and the side of patterns that suffices where it holds most counts.
POSITIONS, SIDE, CROPPED_COUNTS = 32, 64, 0.9
PASSES, BATCHES, DAMPING = 6, 4, 0.1
# One of so many pixels is held out of each pattern.
CLASSES = 8
MOST_MODES = 3
# Part of the usual energy below which a pattern is empty.
LEAST_ENERGY = 1e-3
# Part of the brightest light below which an image is not shown.
LIT = 0.05


@dataclass(frozen=True, eq=False)
class Trial:
    """Patterns, positions and probe of a trial, at low resolution.

    Attributes
    ----------
    measured : (m, n, n) float64
        Amplitudes, zero frequency in the middle.
    valid : (n, n) bool
    positions_px : (m, 2) float64, [x, y]
        From their middle.
    probe : (K, n, n) complex128
    scale : float
        Pixel of the scan over the pixel of the trial.
    """

    measured: NDArray[np.float64]
    valid: NDArray[np.bool_]
    positions_px: NDArray[np.float64]
    probe: NDArray[np.complex128]
    scale: float

    @classmethod
    def of(cls, scan: Scan) -> "Trial | None":
        """The trial of a scan; None where it has no probe, or too few positions."""
        if scan.probe_modes is None or len(scan) < 9 or scan.N % 2:
            return None
        positions = scan.scan_positions_px
        distance = np.hypot(*(positions - np.median(positions, axis=0)).T)
        near = np.argsort(distance, kind="stable")[: 2 * POSITIONS]
        energies = scan.energies_of(near)
        few = np.sort(near[energies > LEAST_ENERGY * np.median(energies)][:POSITIONS])
        amplitude = scan.diffraction_amplitude(few).astype(np.float64)
        valid = np.ones((scan.N, scan.N), bool) if scan.valid_pixels is None else scan.valid_pixels
        modes = scan.probe_modes[:MOST_MODES].astype(np.complex128)
        side = scan.N
        if side > SIDE and np.sum(_middle(amplitude, SIDE) ** 2) > CROPPED_COUNTS * np.sum(amplitude**2):
            side = SIDE
            amplitude, valid, modes = (
                _middle(amplitude, side),
                _middle(valid, side),
                _cropped_far(modes, side),
            )
        here = positions[few] * side / scan.N
        return cls(amplitude, valid, here - here.mean(axis=0), modes, side / scan.N)

    def error(
        self,
        positions_px: NDArray[np.float64] | None = None,
        *,
        transposed: bool = False,
        order: NDArray[np.int64] | None = None,
    ) -> float:
        """Squared residuals of held-out pixels over their energy, for other positions, patterns or pairs."""
        measured = self.measured if order is None else self.measured[order]
        valid = self.valid
        if transposed:
            measured, valid = measured.transpose(0, 2, 1), valid.T
        residuals = self._refined(
            self.positions_px if positions_px is None else positions_px, measured, valid
        ).evaluate()
        error = float(residuals[6] / max(residuals[7], REFINEMENT_FLOOR))
        return error if np.isfinite(error) else np.inf

    def image(self) -> NDArray[np.complex128]:
        """(H, W) complex, the object of the trial; 0 where there is little light."""
        refiner = self._refined(self.positions_px, self.measured, self.valid)
        light = refiner.light()
        return np.where(light > LIT * light.max(), refiner.canvas(), 0)

    def _refined(
        self, positions: NDArray[np.float64], measured: NDArray[np.float64], valid: NDArray[np.bool_]
    ) -> reference.Refiner:
        refiner, snake = self._refiner(positions, measured, valid)
        settings = PassSettings(damping=DAMPING, smoothness=0.0)
        batches = min(BATCHES, len(snake))
        for number in range(1, PASSES + 1):
            refiner.sweep(even_batches(snake, batches, 0, number), None, settings)
        return refiner

    def _refiner(
        self, positions: NDArray[np.float64], measured: NDArray[np.float64], valid: NDArray[np.bool_]
    ) -> tuple[reference.Refiner, NDArray[np.int64]]:
        side = measured.shape[-1]
        origin = np.floor(positions.min(axis=0) - side // 2) - 1
        width, height = (np.ceil(positions.max(axis=0) - origin + side // 2) + 3).astype(int)
        corner = np.fft.ifftshift(measured, axes=(-2, -1))
        classes = np.random.default_rng(0).integers(CLASSES, size=(side, side))
        problem = RefinementProblem(
            len(positions), side, (int(height), int(width)), np.fft.ifftshift(valid).astype(np.float32), classes,
            CLASSES, "amplitude", lambda numbers: corner[numbers].astype(np.float32),
        )  # fmt: skip
        energy = float(np.mean(np.sum(measured**2, axis=(1, 2))))
        probe = self.probe * np.sqrt(energy / np.sum(np.abs(self.probe) ** 2))
        refiner = reference.Refiner(problem, np.ones(problem.shape), probe)
        first = positions - origin - side // 2
        refiner.place(np.floor(first).astype(np.int64), first - np.floor(first))
        return refiner, along_a_snake(positions)


def _middle(images: NDArray, side: int) -> NDArray:
    first = images.shape[-1] // 2 - side // 2
    return images[..., first : first + side, first : first + side]


def _cropped_far(modes: NDArray[np.complex128], side: int) -> NDArray[np.complex128]:
    """The probe of the middle `side` pixels of the detector, on larger object pixels."""
    axes = (-2, -1)
    far = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(modes, axes), norm="ortho"), axes)
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(_middle(far, side), axes), norm="ortho"), axes)
