"""The probe and the intensity scale: plain NumPy, because nothing here needs a gradient."""

import math
from collections.abc import Iterator

import numpy as np
import scipy
from numpy.polynomial.hermite import hermval
from numpy.typing import NDArray

from ptycho_backends import checks, constants
from ptycho_backends.errors import ScanError

# Power of a mode that is made, over that of the main one.
MADE_MODE_POWER = 0.06
# A candidate that lies in the modes before it up to this fraction is none of its own.
LEAST_NEW_FRACTION = 1e-3


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

    The mean is over all N*N pixels; the mask (`circular_mask`) is used for the norm only. Of several modes,
    :math:`|guess|` is the root of the sum of their intensities, and all are divided by the same number.

    Parameters
    ----------
    guess : (N, N) or (modes, N, N) complex array, [y, x]
    probe_scale : float
        > 0.

    Returns
    -------
    complex64 array, [y, x]
        Of the shape of `guess`.

    Raises
    ------
    ScanError
        If the guess is dark inside the mask.

    References
    ----------
    docs/model.md, section 3.
    """
    guess = _checked_modes(guess)
    side = guess.shape[-1]
    masked = circular_mask(side) * guess.astype(np.complex128)
    mean = float(np.mean(np.abs(masked) if guess.ndim == 2 else total_amplitude(masked)))
    if mean == 0.0:
        raise ScanError(
            f"probeGuess: zero within {side // 4} pixels of the centre, want a probe that is lit there"
        )
    return (guess / (probe_scale * mean)).astype(np.complex64)


def total_amplitude(modes: NDArray) -> NDArray[np.float64]:
    """(N, N), the root of the summed intensities of `modes` (modes, N, N)."""
    return np.sqrt(np.sum(np.abs(modes.astype(np.complex128)) ** 2, axis=0))


def _checked_modes(guess: NDArray) -> NDArray[np.complex64]:
    """One image or a stack of them, of a side, as complex64."""
    if np.ndim(guess) != 3:
        return checks.complex_image("probeGuess", guess)
    return np.stack([checks.complex_image("probeGuess", mode, np.shape(guess)[-1]) for mode in guess])


def probe_with_modes(modes: NDArray, count: int) -> NDArray[np.complex64]:
    r"""`count` modes: those given by falling power, then some made from the main one.

    .. math:: P_{ab} = H_a(x / w) H_b(y / w) P_0

    with Hermite polynomials of rising total degree, :math:`x, y` relative to the main mode's centre of intensity and
    :math:`w` its root-mean-square width. Each is made orthogonal to all modes before it, and has `MADE_MODE_POWER`
    of the main mode's power.

    Parameters
    ----------
    modes : (N, N) or (modes, N, N) complex array, [y, x]
    count : int
        >= 1; fewer than there are leave out the weakest.

    Returns
    -------
    (count, N, N) complex64 array, [y, x]

    Raises
    ------
    ScanError
        If the main mode is too small an image for so many others.
    """
    given = _checked_modes(modes)
    given = given if given.ndim == 3 else given[None]
    power = np.sum(np.abs(given.astype(np.complex128)) ** 2, axis=(1, 2))
    given = given[np.argsort(-power, kind="stable")][:count]
    if len(given) == count:
        return given
    found = [mode.astype(np.complex128) for mode in given]
    main, strength = found[0], math.sqrt(MADE_MODE_POWER) * float(np.linalg.norm(found[0]))
    y, x = _relative_to_centre(main)
    for b, a in _degrees(count):
        candidate = hermval(x, [0] * a + [1]) * hermval(y, [0] * b + [1]) * main
        size = float(np.linalg.norm(candidate))
        # twice, because the first time leaves rounding errors of the modes that it removes
        for _ in range(2):
            for mode in found:
                energy = float(np.vdot(mode, mode).real)
                # vdot conjugates its first argument: without that, modes with a phase would stay correlated
                if energy > 0:
                    candidate = candidate - mode * (np.vdot(mode, candidate) / energy)
        left = float(np.linalg.norm(candidate))
        if left <= LEAST_NEW_FRACTION * size:
            continue
        found.append(candidate * (strength / left))
        if len(found) == count:
            made = np.stack(found[len(given) :]).astype(np.complex64)
            return np.concatenate([given, made])
    raise ScanError(f"n_probe_modes: got {count}, but only {len(found)} modes can be made from the probe")


def _degrees(count: int) -> Iterator[tuple[int, int]]:
    """Pairs of degrees (in y, in x) by rising total degree, more of them than `count` modes need."""
    for total in range(1, 2 * count + 3):
        for b in range(total + 1):
            yield b, total - b


def _relative_to_centre(mode: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates (y (N, 1), x (1, N)) from the centre of intensity, in root-mean-square widths."""
    intensity = np.abs(mode) ** 2
    total = float(intensity.sum())
    if total == 0.0:
        raise ScanError("probeGuess: zero everywhere, so no modes can be made from it")
    axis = np.arange(len(mode), dtype=np.float64)
    along_y, along_x = intensity.sum(axis=1) / total, intensity.sum(axis=0) / total
    y, x = axis - axis @ along_y, axis - axis @ along_x
    width = math.sqrt((float(y**2 @ along_y) + float(x**2 @ along_x)) / 2) or 1.0
    return (y / width)[:, None], (x / width)[None, :]


def orthogonal_modes(modes: NDArray) -> NDArray:
    """The same illumination in modes that are orthogonal to each other, by falling power.

    The modes are mixed by a unitary matrix, which changes neither the sum of their intensities nor that of the
    diffraction patterns they make.

    Parameters
    ----------
    modes : (modes, N, N) complex array, [y, x]

    Returns
    -------
    (modes, N, N) complex array of the same dtype, [y, x]
        Each mode's phase makes its inner product with the given mode that it resembles most real and positive.
    """
    stack = np.asarray(modes, np.complex128).reshape(len(modes), -1)
    _, singular, vectors = np.linalg.svd(stack, full_matrices=False)
    mixed = singular[:, None] * vectors
    overlaps = mixed.conj() @ stack.T
    overlap = np.take_along_axis(overlaps, np.argmax(np.abs(overlaps), axis=1)[:, None], axis=1)[:, 0]
    phases = np.where(overlap == 0, 1.0, overlap / np.where(overlap == 0, 1.0, np.abs(overlap)))
    return (mixed * phases[:, None]).reshape(np.shape(modes)).astype(np.asarray(modes).dtype)


def without_phase_ramp(guess: NDArray) -> NDArray[np.complex64]:
    """A probe guess whose far field is centred: its linear phase is taken away.

    The ramp is the one that moves the centre of mass of `|FFT2(guess)|^2` to the zero frequency. A trained
    object takes up the ramp that the probe loses, so their common diffraction stays the same. Several modes lose
    one ramp, that of the sum of their intensities.

    Parameters
    ----------
    guess : (N, N) or (modes, N, N) complex array, [y, x]

    Returns
    -------
    complex64 array, [y, x]
        Of the shape of `guess`.
    """
    guess = _checked_modes(guess).astype(np.complex128)
    side = guess.shape[-1]
    frequency = np.fft.fftfreq(side)
    intensity = np.abs(np.fft.fft2(guess)) ** 2
    if guess.ndim == 3:
        intensity = intensity.sum(axis=0)
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
    smooth = scipy.ndimage.gaussian_filter(disk, constants.DEFAULT_PROBE_EDGE_PX)
    return (smooth + constants.DEFAULT_PROBE_FLOOR).astype(np.complex64)


def intensity_scale(nphotons: float, N: int) -> float:
    """`s = sqrt(nphotons) / (N/2)`: normalised amplitude times `s` is the root of photon counts.

    References
    ----------
    docs/model.md, section 3.
    """
    return math.sqrt(nphotons) / (N / 2)
