"""A first probe for scans that have none: the mean pattern's aperture, and the defocus that fits best."""

import logging

import numpy as np
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.reference import refinement as reference
from ptycho_backends.refinement.schedule import along_a_snake, even_batches
from ptycho_backends.scans.scan import Scan
from ptycho_backends.values import PassSettings, RefinementProblem

log = logging.getLogger(__name__)

# Widths that the probe is tried with, over the side of a pattern; each with either sign of the defocus.
WIDTHS = (0.05, 0.09, 0.14)
# Neighbouring positions, passes and batches of a trial.
TRIAL_POSITIONS, TRIAL_PASSES, TRIAL_BATCHES = 64, 6, 4
TRIAL_DAMPING = 0.2
# Squared amplitude residuals over squared amplitudes: a probe that leaves more is not to be trusted.
DOUBTFUL_ERROR = 0.1


def guessed_probe(scan: Scan, used: NDArray[np.int64]) -> NDArray[np.complex64]:
    """A probe from the scan alone, to be refined; the log states how well it fits.

    The far field has the modulus of the mean pattern and the phase of a defocus. Several are tried on
    neighbouring positions, each with a few passes that move object and probe, and the best one is taken as
    it came out.

    Parameters
    ----------
    scan : Scan
    used : (M,) int64
        Numbers of the frames that measure something.

    Returns
    -------
    (N, N) complex64, [y, x]
    """
    few = used[along_a_snake(scan.positions_of(used))[:TRIAL_POSITIONS]]
    measured = np.fft.ifftshift(scan.diffraction_amplitude(few), axes=(-2, -1)).astype(np.float64)
    aperture = np.sqrt(np.mean(measured**2, axis=0))
    trials = [
        _tried(scan, few, measured, _defocused(aperture, sign * width * scan.N))
        for width in WIDTHS
        for sign in (1.0, -1.0)
    ]
    error, probe = min(trials, key=lambda trial: trial[0])
    doubt = "; do not trust the image without a better one" if error > DOUBTFUL_ERROR else ""
    log.warning(
        "%s: no probe in the scan; one is guessed from the mean pattern and refined. On %d positions it leaves %.2g of "
        "the intensity unexplained%s", scan.name, len(few), error, doubt,
    )  # fmt: skip
    return probe.astype(np.complex64)


def _defocused(aperture: NDArray[np.float64], width_px: float) -> NDArray[np.complex128]:
    """The probe (N, N) of an aperture, zero frequency in the corner, defocused to a width; its middle at `N // 2`."""
    side = len(aperture)
    frequency = np.fft.fftfreq(side, 1.0 / side)
    squared = frequency[:, None] ** 2 + frequency**2
    spread = float(np.sqrt((aperture**2 * squared).sum() / (aperture**2).sum() / 2))
    # a ray at frequency k is displaced by N / (2 pi) times the slope of the phase there
    curvature = np.pi * width_px / (side * max(spread, 1e-9))
    return np.fft.fftshift(np.fft.ifft2(aperture * np.exp(1j * curvature * squared), norm="ortho"))


def _tried(
    scan: Scan, few: NDArray[np.int64], measured: NDArray[np.float64], probe: NDArray[np.complex128]
) -> tuple[float, NDArray[np.complex128]]:
    """Error and probe after a short refinement of both."""
    positions, side = scan.positions_of(few), scan.N
    origin = np.floor(positions.min(axis=0) - side // 2) - 1
    width, height = (np.ceil(positions.max(axis=0) - origin + side // 2) + 3).astype(int)
    valid = np.ones((side, side), bool) if scan.valid_pixels is None else scan.valid_pixels
    problem = RefinementProblem(
        len(few), side, (int(height), int(width)), np.fft.ifftshift(valid).astype(np.float32),
        None, 0, "amplitude", lambda numbers: measured[numbers].astype(np.float32),
    )  # fmt: skip
    energy = float(np.mean(np.sum(measured**2, axis=(1, 2))))
    probe = probe * np.sqrt(energy / np.sum(np.abs(probe) ** 2))
    refiner = reference.Refiner(problem, np.ones(problem.shape), probe[None])
    corner = positions - origin - side // 2
    refiner.place(np.floor(corner).astype(np.int64), corner - np.floor(corner))
    snake = along_a_snake(positions)
    settings = PassSettings(damping=TRIAL_DAMPING, smoothness=0.0, with_probe=True)
    for number in range(1, TRIAL_PASSES + 1):
        refiner.sweep(even_batches(snake, TRIAL_BATCHES, 0, number), None, settings)
    residuals = refiner.evaluate()
    error = float(residuals[0] / max(residuals[1], constants.REFINEMENT_FLOOR))
    return (error if np.isfinite(error) else np.inf), refiner.probe()[0]
