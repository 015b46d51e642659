"""`infer` in float64, all groups at once: no batches, one canvas."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.reference import model as reference
from ptycho_backends.reference.physics import crop_centre
from ptycho_backends.reference.stitching import stitch
from ptycho_backends.values import Batch, TrainedModel

Phases = Callable[[NDArray, NDArray, NDArray | None], NDArray[np.float64]]
"""From (B, M, M) patches, their (B, 2) centres `[x, y]` and (M, M) weights to the constant phase of every patch."""


def object_patches(model: TrainedModel, batch: Batch) -> NDArray[np.complexfloating]:
    """(B, N, N, 1) object of every group of `batch`, which holds a whole scan, fed with the model's own scale."""
    return reference.predict(model.config.model, model.weights, batch).object


def infer(
    patches: NDArray,
    group_centres_px: NDArray,
    stitching_size: int,
    *,
    patch_weights: NDArray | None = None,
    phases: Phases | None = None,
) -> tuple[NDArray[np.complex64], NDArray[np.float32], NDArray[np.float64]]:
    """The image of a scan from the patches of all its groups.

    Parameters
    ----------
    patches : (B, N, N, 1) complex array, [y, x]
        Of `object_patches`.
    group_centres_px : (B, 1, 2, 1) array, [x, y]
    stitching_size : int
        `M`, side of the central square of each patch that is used.
    patch_weights : (M, M) real array, [y, x], optional
        Trust in each pixel of a patch; default 1 everywhere.
    phases : callable, optional
        Finds the constant phase of every patch, which is then removed. None: patches stay as they are.

    Returns
    -------
    image, coverage, origin_px
        As `stitching.stitch`.
    """
    if phases is not None:
        central = crop_centre(patches[..., 0], stitching_size)
        found = phases(central, group_centres_px[:, 0, :, 0], patch_weights)
        patches = patches * np.exp(-1j * found)[:, None, None, None]
    return stitch(patches, group_centres_px, stitching_size, patch_weights)
