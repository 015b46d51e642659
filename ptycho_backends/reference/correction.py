"""The learned correction of the network `unrolled` (docs/model.md, section 4): a small U-Net on an object's canvas.

Fully convolutional, so that it works on the canvas of a group and on that of a whole scan. B canvases of H x W pixels.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.reference.initial_weights import UNET_LEVELS
from ptycho_backends.reference.network import Weights, conv, max_pool, unet_block, upsample

HEAD = "decoder/head"

Box = tuple[slice, slice]


def corrected(canvas: NDArray, light: NDArray, weights: Weights) -> NDArray:
    """The canvas with the learned correction added.

    What the network sees depends neither on the object's scale nor on its constant phase.

    Parameters
    ----------
    canvas : (B, H, W) complex array, [y, x]
    light : (B, H, W) real array, [y, x]
        Illumination of each pixel, in any unit.
    weights : mapping
        With `encoder/...` and `decoder/...` of the architecture `unrolled`.

    Returns
    -------
    (B, H, W) complex array, [y, x]
    """
    factor = unit_factor(canvas, light)
    return canvas + _change(features(canvas * factor, relative_light(light)), weights) / factor


def corrected_parts(canvas: NDArray, light: NDArray, weights: Weights) -> NDArray:
    """As `corrected`, for parts (B, H, W) of canvases that are normalised as a whole, with their relative light."""
    return canvas + _change(features(canvas, light), weights)


def _change(seen: NDArray, weights: Weights) -> NDArray:
    """The correction (B, H, W) complex that the network finds in its features (B, H, W, 3)."""
    height, width = seen.shape[1:3]
    multiple = 2 ** (UNET_LEVELS - 1)
    padded = np.pad(seen, [(0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)])
    change = unet(padded, weights)[:, :height, :width]
    return change[..., 0] + 1j * change[..., 1]


def corrected_scan(canvas: NDArray, light: NDArray, weights: Weights) -> NDArray:
    """As `corrected`, for one canvas (H, W) of any size: tile by tile, with the same result.

    Parameters
    ----------
    canvas : (H, W) complex array, [y, x]
    light : (H, W) real array, [y, x]
    weights : mapping

    Returns
    -------
    (H, W) complex array, [y, x]
    """
    factor = unit_factor(canvas[None], light[None])[0]
    seen = features((canvas * factor)[None], relative_light(light[None]))
    change = np.zeros_like(canvas)
    for inner, outer, within in tiles(*canvas.shape):
        found = _change(seen[:, outer[0], outer[1]], weights)[0]
        change[inner] = found[within]
    return canvas + change / factor


def tiles(height: int, width: int) -> Iterator[tuple[Box, Box, Box]]:
    """Boxes `[y, x]`: a tile of the canvas, the tile with its margin, and the tile within that."""
    size, margin = constants.TILE_PX, constants.TILE_MARGIN_PX
    for y in range(0, height, size):
        for x in range(0, width, size):
            top, left = max(0, y - margin), max(0, x - margin)
            end_y, end_x = min(height, y + size), min(width, x + size)
            inner = slice(y, end_y), slice(x, end_x)
            outer = slice(top, min(height, end_y + margin)), slice(left, min(width, end_x + margin))
            yield inner, outer, (slice(y - top, end_y - top), slice(x - left, end_x - left))


def unit_factor(canvas: NDArray, light: NDArray) -> NDArray:
    """(B, 1, 1) complex, by which a canvas has the mean square 1 and the mean phase 0 in its light.

    Both means are weighted with the light. 1 for a canvas that is dark.
    """
    size = np.sqrt(_mean(np.abs(canvas) ** 2, light))
    mean = _mean(canvas, light)
    turned, lit = np.abs(mean) > 0, size > 0
    phase = np.where(turned, np.conj(mean) / np.where(turned, np.abs(mean), 1.0), 1.0)
    return phase / np.where(lit, size, 1.0)


def _mean(values: NDArray, light: NDArray) -> NDArray:
    """(B, 1, 1), weighted with the light."""
    total = np.sum(light, axis=(1, 2), keepdims=True)
    return np.sum(values * light, axis=(1, 2), keepdims=True) / np.where(total > 0, total, 1.0)


def relative_light(light: NDArray) -> NDArray:
    """(B, H, W), the light over that of the brightest pixel."""
    brightest = np.max(light, axis=(1, 2), keepdims=True)
    return light / np.where(brightest > 0, brightest, 1.0)


def features(canvas: NDArray, light: NDArray) -> NDArray:
    """(B, H, W, 3): real part minus 1, imaginary part, and the logarithm of the relative light."""
    seen = np.log1p(constants.LIGHT_CONTRAST * light) / np.log1p(constants.LIGHT_CONTRAST)
    return np.stack([canvas.real - 1.0, canvas.imag, seen], axis=-1)


def unet(image: NDArray, weights: Weights) -> NDArray:
    """A U-Net of three levels with skip connections; (B, H, W, 3) to (B, H, W, 2), H and W multiples of 4.

    Each block is twice convolution and ReLU. Going down, blocks are joined by 2x2 max-pool; going up, by
    nearest-neighbour up-sampling, beside the features of the same size from the way down.

    References
    ----------
    Ronneberger et al. 2015, fig. 1.
    """
    kept = []
    for level in range(UNET_LEVELS):
        image = unet_block(max_pool(image) if level else image, weights, f"encoder/block{level}")
        kept.append(image)
    for level in reversed(range(UNET_LEVELS - 1)):
        joined = np.concatenate([upsample(image), kept[level]], axis=-1)
        image = unet_block(joined, weights, f"decoder/block{level}")
    return conv(image, weights, HEAD)
