"""Object patches to one image (docs/model.md, section 7).

Plain NumPy that every backend calls: nothing here needs a gradient. The cost grows with the number of
patches times their area, not with the canvas.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho_backends import checks, constants
from ptycho_backends.errors import ScanError, ShapeError
from ptycho_backends.reference.physics import crop_centre

# Pixels of patches that are spread at once, 4096 patches of M = 20: temporaries stay below about 100 MB.
CHUNK_PIXELS = 4096 * 20**2


@dataclass(frozen=True, eq=False)
class Canvas:
    """Size of an image in pixels, and the position `[x, y]` of its pixel `[0, 0]`."""

    height: int
    width: int
    origin_px: NDArray[np.float64]


def canvas_around(positions_px: NDArray, N: int) -> Canvas:
    """Canvas of the whole illuminated area: the bounding box of the positions and one probe width more.

    Parameters
    ----------
    positions_px : (M, 2) array, [x, y]
        Of the pixel `[N//2, N//2]` of each patch.
    N : int
        Side of the probe.

    Returns
    -------
    Canvas
        Its middle, `((height - 1) / 2, (width - 1) / 2)`, is where the middle of a patch,
        `((N - 1) / 2, (N - 1) / 2)`, lies when its position is the middle of the bounding box. So a
        program that centres its arrays, as Ptychodus does, finds the image in its place.
    """
    positions = np.asarray(positions_px, np.float64)
    low, high = positions.min(axis=0), positions.max(axis=0)
    width, height = (np.ceil(high - low).astype(int) + N).tolist()
    middle = (low + high) / 2 - 0.5
    return Canvas(height, width, middle - (np.array([width, height]) - 1) / 2)


def square_around(group_centres_px: NDArray, size: int) -> Canvas:
    """The square of `reassemble_position`: its middle is the mean of the (B, 1, 2, 1) centres `[x, y]`."""
    centres = group_centres_px[:, 0, :, 0].astype(np.float64)
    mean = centres.mean(axis=0)
    margin = 2 * math.ceil(np.abs(centres - mean).max() / 2)
    side = size + 2 * margin
    return Canvas(side, side, mean - size / 2 - margin)


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
    canvas: Canvas | None = None,
) -> tuple[NDArray[np.complex64], NDArray[np.float32], NDArray[np.float64]]:
    """Stitch as `reassemble_position`; return the coverage and the origin of the canvas as well.

    Parameters
    ----------
    object_patches : (B, N, N, 1) complex array, [y, x]
    group_centres_px : (B, 1, 2, 1) array, [x, y]
    size : int
        `M`; at most N.
    patch_weights : (M, M) real array, [y, x], optional
        Trust in each pixel of a patch; default 1 everywhere.
    canvas : Canvas, optional
        Area to stitch; parts of patches outside it are dropped. Default: the square of `reassemble_position`.

    Returns
    -------
    image : (height, width) complex64 array, [y, x]
    coverage : (height, width) float32 array
        Sum of the translated weights.
    origin_px : (2,) float64 array, [x, y]
        Position of the pixel `image[0, 0]` in the coordinates of `group_centres_px`.
    """
    canvas = suitable_canvas(object_patches, group_centres_px, size, canvas)
    stitcher = Stitcher(canvas, size, patch_weights)
    stitcher.add(object_patches, group_centres_px)
    image, coverage = stitcher.result()
    return image, coverage, canvas.origin_px


def suitable_canvas(
    object_patches: NDArray, group_centres_px: NDArray, size: int, canvas: Canvas | None = None
) -> Canvas:
    """`canvas`, or the square of `reassemble_position`; the arguments are those of `stitch`, and checked."""
    checks.require_shape("object_patches", object_patches, (None, None, None, 1), ("groups", "y", "x", "1"))
    count, height = object_patches.shape[:2]
    checks.require_shape("group_centres_px", group_centres_px, (count, 1, 2, 1), ("groups", "1", "xy", "1"))
    require_size(size, height)
    if canvas is None:
        return square_around(group_centres_px, size)
    return canvas


def require_size(size: int, N: int) -> None:
    """Raise `ShapeError` unless patches of N pixels have a central square of `size`."""
    if not 0 < size <= N or (N - size) % 2:
        raise ShapeError(f"stitching size: got {size}, want an even number in 2 .. {N}")


class Stitcher:
    """Running sum of patches on a canvas; a patch can be discarded after it is added.

    Parameters
    ----------
    canvas : Canvas
        Parts of patches outside it are dropped.
    size : int
        `M`, side of the central square of each patch that is used.
    patch_weights : (M, M) real array, [y, x], optional
        Trust in each pixel of a patch; default 1 everywhere.
    """

    def __init__(self, canvas: Canvas, size: int, patch_weights: NDArray | None = None) -> None:
        self._canvas = canvas
        self._size = size
        self._weights = (
            np.ones((size, size)) if patch_weights is None else np.asarray(patch_weights, np.float64)
        )
        area = canvas.height * canvas.width
        self._total = np.zeros(area, np.complex128)
        self._coverage = np.zeros(area, np.float64)

    def add(self, object_patches: NDArray, group_centres_px: NDArray) -> None:
        """Add (B, N, N, 1) patches at their (B, 1, 2, 1) centres `[x, y]`."""
        corners = group_centres_px[:, 0, :, 0] - self._size / 2 - self._canvas.origin_px
        shape = (self._canvas.height, self._canvas.width)
        chunk = max(1, CHUNK_PIXELS // self._size**2)
        for start in range(0, len(corners), chunk):
            part = slice(start, start + chunk)
            patches = crop_centre(object_patches[part, :, :, 0], self._size)
            pixels, weights = _footprint(corners[part], self._size, shape)
            for pixel, weight in zip(pixels, weights, strict=True):
                self._add(pixel.ravel(), patches * self._weights * weight, self._weights * weight)

    def _add(self, pixel: NDArray, values: NDArray, weights: NDArray) -> None:
        # only the rows that these patches touch: on a large canvas most lie elsewhere
        first = int(pixel.min())
        count = int(pixel.max()) + 1 - first
        here = slice(first, first + count)
        # bincount adds in a fixed order, so the sum is the same on every run
        self._total.real[here] += np.bincount(pixel - first, values.real.ravel(), count)
        self._total.imag[here] += np.bincount(pixel - first, values.imag.ravel(), count)
        self._coverage[here] += np.bincount(pixel - first, weights.ravel(), count)

    def result(self) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
        """The (H, W) image, zero outside all patches, and the sum of the translated weights."""
        shape = (self._canvas.height, self._canvas.width)
        image = (self._total / (self._coverage + constants.STITCHING_FLOOR)).astype(np.complex64)
        return image.reshape(shape), self._coverage.reshape(shape).astype(np.float32)


def _footprint(corner_px: NDArray, size: int, shape: tuple[int, int]) -> tuple[list[NDArray], list[NDArray]]:
    """Pixels under patches with a sub-pixel corner: four (B, M, M) pixel numbers, and their bilinear weights.

    The weights are (B, M, M) arrays, zero for pixels outside the canvas.
    """
    height, width = shape
    whole = np.floor(corner_px).astype(np.int64)
    fraction = corner_px - whole
    steps = np.arange(size)
    pixels, weights = [], []
    for down in (0, 1):
        for right in (0, 1):
            row = whole[:, 1, None] + steps + down
            column = whole[:, 0, None] + steps + right
            weight_y = fraction[:, 1] if down else 1 - fraction[:, 1]
            weight_x = fraction[:, 0] if right else 1 - fraction[:, 0]
            inside_y, inside_x = (row >= 0) & (row < height), (column >= 0) & (column < width)
            inside = inside_y[:, :, None] & inside_x[:, None, :]
            # pixels beyond the canvas become pixel 0 with weight zero
            pixels.append(np.where(inside, row[:, :, None] * width + column[:, None, :], 0))
            weights.append((weight_y * weight_x)[:, None, None] * inside)
    return pixels, weights


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

    Raises
    ------
    ScanError
        If the probe is dark there.
    """
    intensity = np.abs(crop_centre(probe, size)).astype(np.float64) ** 2
    brightest = intensity.max()
    if not brightest > 0:
        raise ScanError(f"probe: dark in its central {size} pixels, want light there to weight patches by")
    return intensity / brightest


def chosen_weights(probe: NDArray | None, size: int, weighting: str) -> NDArray[np.float64] | None:
    """Weights for a `weighting` of `reconstruct_image_barycentric`; None for equal weights."""
    if weighting not in ("probe", "uniform"):
        raise ValueError(f"weighting: got {weighting!r}, want 'probe' or 'uniform'")
    if weighting == "uniform":
        return None
    if probe is None:
        raise ValueError("probe: got None, want the probe for weighting='probe'; or use weighting='uniform'")
    return probe_weights(probe, size)


def reconstruct_image_barycentric(
    object_patches: NDArray,
    group_centres_px: NDArray,
    probe: NDArray | None = None,
    size: int = constants.DEFAULT_STITCHING_SIZE,
    weighting: str = "probe",
    canvas: Canvas | None = None,
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
        Weight by the probe's intensity, or equally.
    canvas : Canvas, optional
        As in `stitch`.

    Returns
    -------
    As `stitch`.

    References
    ----------
    docs/model.md, section 7.
    """
    return stitch(object_patches, group_centres_px, size, chosen_weights(probe, size, weighting), canvas)
