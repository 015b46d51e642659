"""The linear phase ramp between two images: found, and removed.

Diffraction patterns do not determine it: a ramp over the object with the opposite one over the probe leaves every
pattern as it is, where the probe is refined. Where it is not, the slowest variations of a large field still
converge last. Images are `[y, x]`, ramps `[x, y]` in radians per pixel.
"""

import math

import numpy as np
import scipy
from numpy.typing import NDArray

# Blocks along the longer side whose sums stand for their pixels.
BLOCKS = 256

# The second round removes the error of blocks that a steep ramp turns within themselves.
ROUNDS = 2

NEWTON_STEPS = 20
# A Newton step this small, in radians over the whole field, ends the search.
SMALLEST_STEP_RAD = 1e-7


def linear_ramp(product: NDArray, start: NDArray | None = None) -> NDArray[np.float64]:
    r"""The ramp that two images differ by.

    It maximises

    .. math:: |\sum_{x, y} q(x, y) \, e^{-i (p_x x + p_y y)}|, \quad q = a \, b^*,

    the coherence of `a` without the ramp and `b`: the peak of a Fourier transform of sums over blocks, refined by
    Newton's method. No phase is unwrapped. Ramps up to half a turn per block are found, which is `pi` per pixel
    in images of up to 256 pixels.

    Parameters
    ----------
    product : (H, W) complex array, [y, x]
        `q`, zero at pixels that are not compared.
    start : (2,) array, [x, y], radians per pixel, optional
        Find the maximum near it, instead of the largest one.

    Returns
    -------
    (2,) float64 array, [x, y], radians per pixel
        Zero where `product` is zero everywhere.
    """
    product = np.asarray(product, np.complex128)
    ramp = np.zeros(2) if start is None else np.asarray(start, np.float64)
    if not product.any():
        return ramp
    side = max(1, math.ceil(max(product.shape) / BLOCKS))
    for number in range(ROUNDS):
        blocks = _block_sums(without_ramp(product, ramp), side)
        peak = _fourier_peak(blocks) if start is None and number == 0 else np.zeros(2)
        ramp = ramp + _newton(blocks, peak) / side
    return ramp


def own_ramp(image: NDArray) -> NDArray[np.float64]:
    """The ramp of one image, (2,) `[x, y]`, radians per pixel: `linear_ramp` near the mean slope of its phase.

    The mean slope keeps the regular features of an object, such as the lines of a grating, from being a ramp.

    Parameters
    ----------
    image : (H, W) complex array, [y, x]
        Zero at pixels that do not count.
    """
    image = np.asarray(image, np.complex128)
    slope = [np.angle(np.vdot(image[:, :-1], image[:, 1:])), np.angle(np.vdot(image[:-1], image[1:]))]
    return linear_ramp(image, np.array(slope))


def without_ramp(image: NDArray, ramp_rad_per_px: NDArray) -> NDArray[np.complex128]:
    """`image` times `exp(-i (p_x x + p_y y))`, with `x` and `y` counted from its first pixel; (H, W) complex128."""
    height, width = image.shape
    by_x, by_y = (
        np.exp(-1j * p * np.arange(n)) for p, n in zip(ramp_rad_per_px, (width, height), strict=True)
    )
    return image * by_y[:, None] * by_x


def _block_sums(image: NDArray, side: int) -> NDArray[np.complex128]:
    """Sums over blocks of `side` x `side` pixels; the last ones may be smaller."""
    height, width = image.shape
    rows = np.add.reduceat(image, np.arange(0, height, side), axis=0)
    return np.add.reduceat(rows, np.arange(0, width, side), axis=1)


def _fourier_peak(blocks: NDArray) -> NDArray[np.float64]:
    """Frequency `[x, y]` of the largest Fourier coefficient, radians per block, on a grid twice as fine."""
    shape = [scipy.fft.next_fast_len(2 * n) for n in blocks.shape]
    row, column = np.unravel_index(np.argmax(np.abs(scipy.fft.fft2(blocks, shape))), shape)
    return 2 * np.pi * np.array([np.fft.fftfreq(shape[1])[column], np.fft.fftfreq(shape[0])[row]])


def _newton(blocks: NDArray, start: NDArray) -> NDArray[np.float64]:
    """The maximum of the squared coherence near `start`, radians per block; steps that lose are halved."""
    height, width = blocks.shape
    x, y = np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2
    smallest = SMALLEST_STEP_RAD / max(height, width)
    ramp, (value, slope, curvature) = start, _coherence(blocks, x, y, start)
    for _ in range(NEWTON_STEPS):
        # a flat direction (a single row, say) is left alone
        step = -np.linalg.pinv(curvature, rcond=1e-9, hermitian=True) @ slope
        if step @ slope < 0:
            break
        while np.abs(step).max() > smallest:
            moved = _coherence(blocks, x, y, ramp + step)
            if moved[0] >= value:
                break
            step = step / 2
        else:
            break
        ramp, (value, slope, curvature) = ramp + step, moved
    return ramp


def _coherence(
    blocks: NDArray, x: NDArray, y: NDArray, ramp: NDArray
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Squared modulus of the sum without `ramp`, its gradient (2,) and its second derivatives (2, 2)."""
    powers_x = np.exp(-1j * ramp[0] * x)[:, None] * np.stack([np.ones_like(x), -1j * x, -(x**2)], axis=-1)
    powers_y = np.exp(-1j * ramp[1] * y)[:, None] * np.stack([np.ones_like(y), -1j * y, -(y**2)], axis=-1)
    # derivatives of the sum: rows by y, columns by x
    sums = powers_y.T @ blocks @ powers_x
    total, by_x, by_y = sums[0, 0], sums[0, 1], sums[1, 0]
    slope = 2 * np.array([(total.conj() * by_x).real, (total.conj() * by_y).real])
    xx = abs(by_x) ** 2 + (total.conj() * sums[0, 2]).real
    yy = abs(by_y) ** 2 + (total.conj() * sums[2, 0]).real
    xy = (by_y.conj() * by_x + total.conj() * sums[1, 1]).real
    return float(abs(total) ** 2), slope, 2 * np.array([[xx, xy], [xy, yy]])
