"""Object patches to one image, under the legacy package's name."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends import constants
from ptycho_backends.images.stitching import Canvas, stitch


class GroupCentres(np.ndarray):
    """(B, 1, 2, 1) group centres `[x, y]`, px, that remember the canvas of their whole scan.

    The legacy interface has no other way to pass it to `reassemble_position`. Results of computations with
    such an array have no canvas, because they may be other positions.
    """

    canvas: Canvas | None
    """`canvas_around` all positions of the scan, in groups or not."""

    def __new__(cls, centres_px: NDArray, canvas: Canvas) -> "GroupCentres":
        placed = np.asarray(centres_px).view(cls)
        placed.canvas = canvas
        return placed

    def __array_finalize__(self, source: Any) -> None:
        self.canvas = None


def reassemble_position(
    obj_tensor: ArrayLike, global_offsets: ArrayLike, M: int = constants.DEFAULT_STITCHING_SIZE
) -> NDArray[np.complex64]:
    """Stitch the central squares of object patches, each at its group's centre.

    Parameters
    ----------
    obj_tensor : (B, N, N, 1) complex array, [y, x]
        Of any framework, on the CPU.
    global_offsets : (B, 1, 2, 1) array, [x, y]
        Group centres in object pixels. Those of `RawData.generate_grouped_data` carry their canvas: the
        bounding box of the scan and one probe width around it, the size and centre of Ptychodus's objects.
        For others the canvas is the square around their mean.
    M : int
        Side of the central square that is used, pixels.

    Returns
    -------
    (height, width, 1) complex64 array, [y, x]
        Always NumPy; zero outside all patches.

    Raises
    ------
    ShapeError

    References
    ----------
    docs/model.md, section 7.
    """
    canvas = getattr(global_offsets, "canvas", None)
    image, _, _ = stitch(np.asarray(obj_tensor), np.asarray(global_offsets), M, canvas=canvas)
    return image[..., None]
