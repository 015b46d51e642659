"""Object patches to one image, under the legacy package's name."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends.reference import constants
from ptycho_backends.reference.stitching import stitch


class GroupCentres(np.ndarray):
    """(B, 1, 2, 1) group centres `[x, y]`, px, that remember where the middle of their whole scan lies.

    The legacy interface has no other way to tell it to `reassemble_position`. What is computed from such
    an array is a plain array as far as this is concerned, because its middle is another one.
    """

    canvas_centre_px: NDArray[np.float64] | None
    """(2,), `[x, y]`: the middle of the bounding box of all positions of the scan, in groups or not."""

    def __new__(cls, centres_px: NDArray, canvas_centre_px: NDArray[np.float64]) -> "GroupCentres":
        placed = np.asarray(centres_px).view(cls)
        placed.canvas_centre_px = canvas_centre_px
        return placed

    def __array_finalize__(self, source: Any) -> None:
        self.canvas_centre_px = None


def reassemble_position(
    obj_tensor: ArrayLike, global_offsets: ArrayLike, M: int = constants.DEFAULT_STITCHING_SIZE
) -> NDArray[np.complex64]:
    """Stitch the central squares of object patches, each at its group's centre.

    Parameters
    ----------
    obj_tensor : (B, N, N, 1) complex array, [y, x]
        Of any framework, on the CPU.
    global_offsets : (B, 1, 2, 1) array, [x, y]
        Group centres in object pixels. Those that `RawData.generate_grouped_data` made put the middle of
        the scan's bounding box into the middle of the canvas, where Ptychodus has the centre of its
        object; others put their mean there.
    M : int
        Side of the central square that is used, pixels.

    Returns
    -------
    (side, side, 1) complex64 array, [y, x]
        NumPy, whatever was given; zero where no patch lies.

    Raises
    ------
    ShapeError

    References
    ----------
    docs/model.md, section 7.
    """
    centre = getattr(global_offsets, "canvas_centre_px", None)
    image, _, _ = stitch(np.asarray(obj_tensor), np.asarray(global_offsets), M, canvas_centre_px=centre)
    return image[..., None]
