"""Fast stitching of object patches to one image, for all backends (docs/model.md, section 7).

The formulas are stated in `reference.stitching`. These functions have the same arguments and, to a rounding of
float64, the same results. Patches are shifted as rows of numbers and added in a fixed order, so the image does
not depend on the run or on the batch size. The cost grows with the number of
patches times their area; memory is that of three float64 images, which become the result.
"""

import numpy as np
import scipy
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.reference.physics import crop_centre
from ptycho_backends.reference.stitching import (
    Canvas,
    canvas_around,
    chosen_weights,
    probe_weights,
    require_size,
    square_around,
    suitable_canvas,
)

__all__ = [
    "Canvas", "Stitcher", "canvas_around", "probe_weights", "reassemble_position",
    "reconstruct_image_barycentric", "require_size", "square_around", "squares_over", "stitch",
]  # fmt: skip

# Pixels of patches that are shifted at once; their working arrays fit in a processor's cache.
CHUNK_PIXELS = 1 << 14
# Pixels of the image that are divided by their coverage at once.
CHUNK_RESULT = 1 << 16


def reassemble_position(
    object_patches: NDArray, group_centres_px: NDArray, size: int = constants.DEFAULT_STITCHING_SIZE
) -> NDArray[np.complex64]:
    """As `reference.stitching.reassemble_position`."""
    image, _, _ = stitch(object_patches, group_centres_px, size)
    return image[..., None]


def stitch(
    object_patches: NDArray,
    group_centres_px: NDArray,
    size: int = constants.DEFAULT_STITCHING_SIZE,
    patch_weights: NDArray | None = None,
    canvas: Canvas | None = None,
) -> tuple[NDArray[np.complex64], NDArray[np.float32], NDArray[np.float64]]:
    """As `reference.stitching.stitch`."""
    canvas = suitable_canvas(object_patches, group_centres_px, size, canvas)
    stitcher = Stitcher(canvas, size, patch_weights)
    stitcher.add(object_patches, group_centres_px)
    image, coverage = stitcher.result()
    return image, coverage, canvas.origin_px


def reconstruct_image_barycentric(
    object_patches: NDArray,
    group_centres_px: NDArray,
    probe: NDArray | None = None,
    size: int = constants.DEFAULT_STITCHING_SIZE,
    weighting: str = "probe",
    canvas: Canvas | None = None,
) -> tuple[NDArray[np.complex64], NDArray[np.float32], NDArray[np.float64]]:
    """As `reference.stitching.reconstruct_image_barycentric`."""
    weights = chosen_weights(probe, size, weighting)
    return stitch(object_patches, group_centres_px, size, weights, canvas)


def squares_over(middles_px: NDArray[np.int64], shape: tuple[int, int], size: int) -> NDArray[np.float64]:
    """Number of squares that lie over each pixel; at least 1 in holes between them.

    Parameters
    ----------
    middles_px : (n, 2) int64, [x, y]
        Pixels of the canvas. Parts of squares outside it are dropped.
    shape : (H, W)
    size : int
        Side of a square, even.
    """
    edges = np.zeros((shape[0] + 1, shape[1] + 1))
    near, far = middles_px - size // 2, middles_px + size // 2
    for sign_y, y in ((1.0, near[:, 1]), (-1.0, far[:, 1])):
        for sign_x, x in ((1.0, near[:, 0]), (-1.0, far[:, 0])):
            np.add.at(edges, (np.clip(y, 0, shape[0]), np.clip(x, 0, shape[1])), sign_x * sign_y)
    covered = edges.cumsum(axis=0).cumsum(axis=1)[:-1, :-1]
    return np.maximum(covered, scipy.ndimage.binary_fill_holes(covered > 0))


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
        self.size, self.patch_weights = size, patch_weights
        weights = np.ones((size, size)) if patch_weights is None else np.asarray(patch_weights, np.float64)
        self._plain = patch_weights is None
        self._weights = weights
        # real part, imaginary part and coverage apart: adding numbers one by one is quick, pairs are not
        area = canvas.height * canvas.width
        self._sums: list[NDArray[np.float64]] | None = [np.zeros(area) for _ in range(3)]
        # Patches with one zero pixel along three of their sides, as one row of numbers each: a shift by one
        # pixel down or to the right is then a shift by `size + 1` numbers or by one. The last, empty column
        # also stands for the column before the first. Patches lie along the last axis, so that such a shift
        # leaves the memory aligned. Weights of 1 need no shift (`_shifted_ones`).
        self._chunk = max(1, CHUNK_PIXELS // size**2)
        planes, side = 2 if self._plain else 3, size + 1
        self._padded = np.zeros((planes, side * (side + 1) + 1, self._chunk))
        self._down = np.empty((planes, side * side + 1, self._chunk))
        self._right = np.empty((3, side * side, self._chunk))
        if not self._plain:
            self._inner(2)[...] = weights[..., None]

    def _inner(self, plane: int) -> NDArray[np.float64]:
        """(M, M, chunk) view of the patches in the padded rows."""
        side = self.size + 1
        rows = self._padded[plane, 1 + side : 1 + side * side]
        return rows.reshape(self.size, side, self._chunk)[:, : self.size]

    def add(self, object_patches: NDArray, group_centres_px: NDArray) -> None:
        """Add (B, N, N, 1) patches at their (B, 1, 2, 1) centres `[x, y]`."""
        if self._sums is None:
            raise RuntimeError("Stitcher: its result has been taken; make a new one to add patches to")
        corners = group_centres_px[:, 0, :, 0] - self.size / 2 - self._canvas.origin_px
        whole = np.floor(corners).astype(np.int64)
        fraction = corners - whole
        central = crop_centre(object_patches[..., 0], self.size)
        real, imaginary = self._inner(0), self._inner(1)
        # row by row, so that patches which are added one after the other touch the same memory
        order = np.argsort(whole[:, 1], kind="stable")
        for start in range(0, len(order), self._chunk):
            part = order[start : start + self._chunk]
            patches = central[part]
            if not self._plain:
                patches = patches * self._weights
            count = len(part)
            patches = np.moveaxis(patches, 0, -1)
            real[..., :count], imaginary[..., :count] = patches.real, patches.imag
            shifted = self._shifted(fraction[part])
            pixels, inside = self._pixels(whole[part])
            for sums, values in zip(self._sums, shifted, strict=True):
                flat = values.reshape(-1)
                # adds one by one, in this order
                np.add.at(sums, pixels, flat if inside is None else flat[inside])

    def _shifted(self, fraction: NDArray[np.float64]) -> NDArray[np.float64]:
        """(3, (M + 1)^2, B) patches and weights, moved down and to the right by parts of a pixel."""
        count, side = len(fraction), self.size + 1
        x, y = fraction.T
        padded, down, right = (
            array[..., :count] for array in (self._padded, self._down, self._right[: len(self._padded)])
        )
        np.subtract(padded[:, :-side], padded[:, side:], out=down)
        down *= y
        down += padded[:, side:]
        np.subtract(down[:, :-1], down[:, 1:], out=right)
        right *= x
        right += down[:, 1:]
        if self._plain:
            self._shifted_ones(self._right[2, :, :count].reshape(side, side, count), x, y)
        return self._right[..., :count]

    @staticmethod
    def _shifted_ones(result: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        """Shifted weights of 1: below 1 at their border only; written into `result`."""
        result[...] = 1
        result[0] *= 1 - y
        result[-1] *= y
        result[:, 0] *= 1 - x
        result[:, -1] *= x

    def _pixels(self, corner: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.intp] | None]:
        """Canvas pixels under the shifted patches, and the indices of the patch pixels inside, None for all."""
        steps = np.arange(self.size + 1)[:, None]
        height, width = self._canvas.height, self._canvas.width
        column, row = steps + corner[:, 0], steps + corner[:, 1]
        pixels = (row[:, None] * width + column).reshape(-1)
        first, last = corner.min(axis=0), corner.max(axis=0) + self.size
        if (first >= 0).all() and last[0] < width and last[1] < height:
            return pixels, None
        inside = np.flatnonzero(((row >= 0) & (row < height))[:, None] & ((column >= 0) & (column < width)))
        return pixels[inside], inside

    @property
    def sums(self) -> tuple[NDArray[np.float64], ...]:
        """The running sums (real, imaginary, coverage), for an all-reduce in place over stitchers of one canvas."""
        if self._sums is None:
            raise RuntimeError("Stitcher: its result has been taken; there are no sums any more")
        return tuple(self._sums)

    @property
    def canvas(self) -> Canvas:
        """Where the sums lie."""
        return self._canvas

    def grown(self, before: int, above: int, after: int, below: int) -> "Stitcher":
        """A stitcher with the sums of this one, on a canvas with so many pixels more on its four sides.

        Parameters
        ----------
        before, above, after, below : int
            Columns at the start, rows at the start, columns at the end, rows at the end.
        """
        old = self._canvas
        canvas = Canvas(
            old.height + above + below, old.width + before + after, old.origin_px - np.array([before, above])
        )
        larger = Stitcher(canvas, self.size, self.patch_weights)
        for sums, new in zip(self.sums, larger.sums, strict=True):
            inner = new.reshape(canvas.height, canvas.width)[
                above : above + old.height, before : before + old.width
            ]
            inner[...] = sums.reshape(old.height, old.width)
        return larger

    def snapshot(self) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
        """The `result` of the patches so far, as a copy; more can be added afterwards."""
        real, imaginary, total = self.sums
        weight = total + constants.STITCHING_FLOOR
        image = np.empty(len(total), np.complex64)
        image.real, image.imag = real / weight, imaginary / weight
        shape = (self._canvas.height, self._canvas.width)
        return image.reshape(shape), total.astype(np.float32).reshape(shape)

    def result(self) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
        """The (H, W) image, zero outside all patches, and the sum of the translated weights.

        The result reuses the memory of the sums, so `add` fails afterwards.
        """
        if self._sums is None:
            raise RuntimeError("Stitcher: its result has been taken already")
        (real, imaginary, total), self._sums = self._sums, None
        # both end at or before the part of the sums that is still needed
        image, coverage = real.view(np.complex64), imaginary.view(np.float32)[: len(imaginary)]
        for start in range(0, len(total), CHUNK_RESULT):
            part = slice(start, start + CHUNK_RESULT)
            if not total[part].any():
                # untouched pages take no memory yet, and the image is zero there already
                if coverage[part].view(np.uint32).any():
                    coverage[part] = 0
                continue
            weight = total[part] + constants.STITCHING_FLOOR
            quotient = np.empty(len(weight), np.complex64)
            quotient.real, quotient.imag = real[part] / weight, imaginary[part] / weight
            image[part], coverage[part] = quotient, total[part]
        shape = (self._canvas.height, self._canvas.width)
        return image.reshape(shape), coverage.reshape(shape)
