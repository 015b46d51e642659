"""Stitching of tensors, by `ptycho_backends.images.stitching`."""

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.images import stitching


def reconstruct_image_barycentric(
    object_patches: torch.Tensor | NDArray,
    group_centres_px: torch.Tensor | NDArray,
    probe: torch.Tensor | NDArray | None = None,
    size: int = constants.DEFAULT_STITCHING_SIZE,
    weighting: str = "probe",
) -> tuple[NDArray[np.complex64], NDArray[np.float32], NDArray[np.float64]]:
    """`stitching.reconstruct_image_barycentric` of tensors on any device, with or without gradients."""
    return stitching.reconstruct_image_barycentric(
        _array(object_patches),
        _array(group_centres_px),
        None if probe is None else _array(probe),
        size,
        weighting,
    )


def _array(values: torch.Tensor | NDArray) -> NDArray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
