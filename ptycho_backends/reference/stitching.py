"""Object patches to one image (docs/model.md, section 7).

Plain NumPy that every backend calls: nothing here needs a gradient. The cost grows with the number of
patches times their area, not with the canvas.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ptycho_backends import checks
from ptycho_backends.errors import ShapeError
from ptycho_backends.reference import constants
from ptycho_backends.reference.physics import crop_centre

# Patches that are spread at once; at M = 20 their temporaries stay below about 100 MB.
CHUNK = 4096


def reassemble_position(
    object_patches: NDArray, group_centres_px: NDArray, size: int = constants.DEFAULT_STITCHING_SIZE
) -> NDArray[np.complex64]:
    """Stitch the central squares of object patches, each at its group's centre.

    Parameters
    ----------
    object_patches : (B, N, N, 1) complex array, [y, x]
    group_centres_px : (B, 1, 2, 1) array, [x, y]
        `R`, object pixels.
    size : int
        `M`, side of the central square that is used.

    Returns
    -------
    (side, side, 1) complex64 array, [y, x]
        `side = M + 2 p`, `p` the largest absolute offset from the mean centre, rounded up to an even
        integer; the mean centre is the middle of the canvas.

    Raises
    ------
    ShapeError

    References
    ----------
    docs/model.md, section 7.
    """
    image, _, _ = stitch(object_patches, group_centres_px, size)
    return image[..., None]


def stitch(
    object_patches: NDArray,
    group_centres_px: NDArray,
    size: int = constants.DEFAULT_STITCHING_SIZE,
    patch_weights: NDArray | None = None,
    canvas_centre_px: NDArray | None = None,
) -> tuple[NDArray[np.complex64], NDArray[np.float32], NDArray[np.float64]]:
    """`reassemble_position` that also tells how much patch lies where, and where the canvas lies.

    Parameters
    ----------
    object_patches : (B, N, N, 1) complex array, [y, x]
    group_centres_px : (B, 1, 2, 1) array, [x, y]
    size : int
        `M`; at most N.
    patch_weights : (M, M) real array, [y, x], optional
        Trust in each pixel of a patch; default 1 everywhere.
    canvas_centre_px : (2,) real array, [x, y], optional
        What lies in the middle of the canvas; default: the mean of the centres.

    Returns
    -------
    image : (side, side) complex64 array, [y, x]
    coverage : (side, side) float32 array
        Sum of the translated weights.
    origin_px : (2,) float64 array, [x, y]
        Position of the pixel `image[0, 0]` in the coordinates of `group_centres_px`.
    """
    checks.require_shape("object_patches", object_patches, (None, None, None, 1), ("groups", "y", "x", "1"))
    count, height = object_patches.shape[:2]
    checks.require_shape("group_centres_px", group_centres_px, (count, 1, 2, 1), ("groups", "1", "xy", "1"))
    if not 0 < size <= height or (height - size) % 2:
        raise ShapeError(f"stitching size: got {size}, want an even number in 2 .. {height}")
    centres = group_centres_px[:, 0, :, 0].astype(np.float64)
    middle = centres.mean(axis=0) if canvas_centre_px is None else np.asarray(canvas_centre_px, np.float64)
    checks.require_shape("canvas_centre_px", middle, (2,), ("xy",))
    offsets = centres - middle
    margin = 2 * math.ceil(np.abs(offsets).max() / 2)
    side = size + 2 * margin

    weights = np.ones((size, size)) if patch_weights is None else np.asarray(patch_weights, np.float64)
    total = np.zeros(side * side, np.complex128)
    coverage = np.zeros(side * side, np.float64)
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        patches = crop_centre(object_patches[part, :, :, 0], size)
        pixels, shares = _footprint(offsets[part] + margin, size, side)
        for pixel, share in zip(pixels, shares, strict=True):
            # bincount adds in a fixed order, so the sum is the same on every run
            values = (patches * weights * share).ravel()
            pixel = pixel.ravel()
            total.real += np.bincount(pixel, values.real, side * side)
            total.imag += np.bincount(pixel, values.imag, side * side)
            coverage += np.bincount(pixel, (weights * share).ravel(), side * side)
    image = (total / (coverage + constants.STITCHING_FLOOR)).astype(np.complex64)
    origin = middle - size / 2 - margin
    return image.reshape(side, side), coverage.reshape(side, side).astype(np.float32), origin


def _footprint(corner_px: NDArray, size: int, side: int) -> tuple[list[NDArray], list[NDArray]]:
    """Where patches with a sub-pixel corner land: four (B, M, M) pixel numbers, four (B, 1, 1) shares."""
    whole = np.floor(corner_px).astype(np.int64)
    fraction = corner_px - whole
    steps = np.arange(size)
    pixels, shares = [], []
    for down in (0, 1):
        for right in (0, 1):
            row = whole[:, 1, None] + steps + down
            column = whole[:, 0, None] + steps + right
            share_y = fraction[:, 1] if down else 1 - fraction[:, 1]
            share_x = fraction[:, 0] if right else 1 - fraction[:, 0]
            inside = (row < side)[:, :, None] & (column < side)[:, None, :]
            # a patch ends beyond the canvas only where its share is zero; land it on pixel 0, as nothing
            pixels.append(np.where(inside, row[:, :, None] * side + column[:, None, :], 0))
            shares.append((share_y * share_x)[:, None, None] * inside)
    return pixels, shares


def probe_weights(probe: NDArray, size: int) -> NDArray[np.float64]:
    """Trust in each pixel of a patch in proportion to the probe's intensity there, at most 1.

    Parameters
    ----------
    probe : (N, N) complex array, [y, x]
    size : int
        `M`.

    Returns
    -------
    (M, M) float64 array, [y, x]
    """
    intensity = np.abs(crop_centre(probe, size)).astype(np.float64) ** 2
    return intensity / intensity.max()


def reconstruct_image_barycentric(
    object_patches: NDArray,
    group_centres_px: NDArray,
    probe: NDArray | None = None,
    size: int = constants.DEFAULT_STITCHING_SIZE,
    weighting: str = "probe",
) -> tuple[NDArray[np.complex64], NDArray[np.float32], NDArray[np.float64]]:
    """Stitch with each pixel the weighted mean of the patches over it.

    Parameters
    ----------
    object_patches : (B, N, N, 1) complex array, [y, x]
    group_centres_px : (B, 1, 2, 1) array, [x, y]
    probe : (N, N) complex array, [y, x], optional
        Needed by `weighting='probe'`.
    size : int
        `M`.
    weighting : {'probe', 'uniform'}
        Weight by the probe's intensity, or all alike.

    Returns
    -------
    As `stitch`.

    References
    ----------
    docs/model.md, section 7.
    """
    if weighting not in ("probe", "uniform"):
        raise ValueError(f"weighting: got {weighting!r}, want 'probe' or 'uniform'")
    if weighting == "probe" and probe is None:
        raise ValueError("probe: got None, want the probe for weighting='probe'; or use weighting='uniform'")
    weights = probe_weights(probe, size) if weighting == "probe" and probe is not None else None
    return stitch(object_patches, group_centres_px, size, weights)
