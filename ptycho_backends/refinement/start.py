"""Starts of a refinement: an image in memory, a file of results, or the folder of a run."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_backends import checks
from ptycho_backends.errors import ScanError
from ptycho_backends.images.results import load_reconstruction
from ptycho_backends.values import Reconstruction

RESULT = "reconstruction.npz"

Start = Reconstruction | NDArray[np.complexfloating] | str | os.PathLike[str]
"""An image; an array (H, W) whose pixel `[i, j]` lies at `y = i, x = j`; a result file; the folder of a run."""


def starting_image(start: Start | None) -> Reconstruction | None:
    """The image that a refinement starts from; None for a flat object.

    Raises
    ------
    ScanError, ShapeError
        If the file cannot be read, or the array is no image.
    """
    if start is None or isinstance(start, Reconstruction):
        return start
    if isinstance(start, str | os.PathLike):
        path = Path(start)
        path = path / RESULT if path.is_dir() else path
        if not path.is_file():
            raise ScanError(
                f"{path}: no such file; start from a {RESULT}, from the folder of a run, or from nothing"
            )
        return load_reconstruction(path)
    image = checks.complex_image("start", start)
    return Reconstruction(
        object=image,
        coverage=np.ones(image.shape, np.float32),
        origin_px=np.zeros(2),
        group_centres_px=np.zeros((0, 2)),
    )
