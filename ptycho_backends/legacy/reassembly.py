"""Object patches to one image, under the legacy package's name."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends import constants
from ptycho_backends.config import ExecutionConfig, RefinementConfig
from ptycho_backends.images.stitching import Canvas, stitch
from ptycho_backends.refinement.environment import refined_if_wanted
from ptycho_backends.registry import get_backend
from ptycho_backends.scans.scan import Scan
from ptycho_backends.values import Reconstruction


class GroupCentres(np.ndarray):
    """(B, 1, 2, 1) group centres `[x, y]`, px, that remember their whole scan, and its canvas.

    The legacy interface has no other way to pass it to `reassemble_position`. Results of computations with
    such an array have no canvas, because they may be other positions.
    """

    canvas: Canvas | None
    """`canvas_around` all positions of the scan, in groups or not."""
    scan: Scan | None

    def __new__(cls, centres_px: NDArray, canvas: Canvas, scan: Scan | None = None) -> "GroupCentres":
        placed = np.asarray(centres_px).view(cls)
        placed.canvas, placed.scan = canvas, scan
        return placed

    def __array_finalize__(self, source: Any) -> None:
        self.canvas = self.scan = None


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

    The image is refined where `PTYCHO_REFINE` asks for it and the centres know their scan.

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
    centres = np.asarray(global_offsets)
    image, coverage, origin = stitch(np.asarray(obj_tensor), centres, M, canvas=canvas)
    scan = getattr(global_offsets, "scan", None)
    if scan is not None:
        stitched = Reconstruction(image, coverage, origin, centres.reshape(-1, 2))
        image = refined_if_wanted(stitched, scan, _refine).object
    return image[..., None]


def _refine(image: Reconstruction, scan: Scan, config: RefinementConfig) -> Reconstruction:
    # chosen now: without the variable no framework is imported for stitching
    return get_backend().refine(image, scan, config, execution=ExecutionConfig(enable_progress_bar=False))
