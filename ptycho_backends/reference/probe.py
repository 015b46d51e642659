"""The probe and the intensity scale: plain NumPy, because nothing here needs a gradient."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ptycho_backends import checks, constants
from ptycho_backends.errors import ScanError


def circular_mask(N: int) -> NDArray[np.float64]:
    """(N, N) array, 1 where `sqrt(x^2 + y^2) < N // 4` with `x, y = index - N//2 + 0.5`, else 0.

    References
    ----------
    docs/model.md, section 3.
    """
    # half a pixel, because the mask is centred between the two middle pixels
    axis = np.arange(N) - N // 2 + 0.5
    return (np.hypot(axis[:, None], axis[None, :]) < N // 4).astype(np.float64)


def normalise_probe(guess: NDArray, probe_scale: float) -> NDArray[np.complex64]:
    r"""A probe guess brought to the scale that the model expects.

    .. math:: P = guess / (probe\_scale \cdot \mathrm{mean}\,|mask \cdot guess|)

    The mean is over all N*N pixels; the mask (`circular_mask`) is used for the norm only.

    Parameters
    ----------
    guess : (N, N) complex array, [y, x]
    probe_scale : float
        > 0.

    Returns
    -------
    (N, N) complex64 array, [y, x]

    Raises
    ------
    ScanError
        If the guess is dark inside the mask.

    References
    ----------
    docs/model.md, section 3.
    """
    guess = checks.complex_image("probeGuess", guess)
    mean = float(np.mean(np.abs(circular_mask(len(guess)) * guess.astype(np.complex128))))
    if mean == 0.0:
        raise ScanError(
            f"probeGuess: zero within {len(guess) // 4} pixels of the centre, want a probe that is lit there"
        )
    return (guess / (probe_scale * mean)).astype(np.complex64)


def without_phase_ramp(guess: NDArray) -> NDArray[np.complex64]:
    """A probe guess whose far field is centred: its linear phase is taken away.

    The ramp is the one that moves the centre of mass of `|FFT2(guess)|^2` to the zero frequency. A trained
    object takes up the ramp that the probe loses, so their common diffraction stays the same.

    Parameters
    ----------
    guess : (N, N) complex array, [y, x]

    Returns
    -------
    (N, N) complex64 array, [y, x]
    """
    guess = checks.complex_image("probeGuess", guess).astype(np.complex128)
    side = len(guess)
    frequency = np.fft.fftfreq(side)
    intensity = np.abs(np.fft.fft2(guess)) ** 2
    total = intensity.sum()
    if total == 0.0:
        return guess.astype(np.complex64)
    # around the circle, because a far field that is off-centre may reach over the array's edge
    turns = np.exp(2j * np.pi * frequency)
    slope_y = np.angle(intensity.sum(axis=1) @ turns)
    slope_x = np.angle(intensity.sum(axis=0) @ turns)
    axis = np.arange(side) - (side - 1) / 2
    ramp = np.exp(-1j * (slope_y * axis[:, None] + slope_x * axis[None, :]))
    return (guess * ramp).astype(np.complex64)


def default_probe(N: int, scale: float = constants.DEFAULT_PROBE_SCALE) -> NDArray[np.complex64]:
    """A round probe for scans without a guess.

    The disk where a Gaussian window of standard deviation `N / (scale * pi^2)`, divided by its maximum,
    exceeds 1/2; smoothed by a Gaussian of sigma 1 px; plus 1e-9.

    Parameters
    ----------
    N : int
    scale : float
        The larger, the smaller the probe.

    Returns
    -------
    (N, N) complex64 array, [y, x]

    References
    ----------
    docs/model.md, section 3.
    """
    deviation = N / (scale * math.pi**2)
    window = np.exp(-((np.arange(N) - (N - 1) / 2) ** 2) / (2 * deviation**2))
    window /= window.max()
    disk = (window[:, None] * window[None, :] > 0.5).astype(np.float64)
    smooth = gaussian_filter(disk, constants.DEFAULT_PROBE_EDGE_PX)
    return (smooth + constants.DEFAULT_PROBE_FLOOR).astype(np.complex64)


def intensity_scale(nphotons: float, N: int) -> float:
    """`s = sqrt(nphotons) / (N/2)`: normalised amplitude times `s` is the root of photon counts.

    References
    ----------
    docs/model.md, section 3.
    """
    return math.sqrt(nphotons) / (N / 2)
