"""A picture of an image while it grows: amplitude beside phase, drawn in milliseconds."""

import os
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.images.figures import AMPLITUDE_MAP, BARE_COLOUR, CONTRAST_PERCENTILES, PHASE_MAP
from ptycho_backends.images.matplotlib_import import import_matplotlib
from ptycho_backends.values import Reconstruction

# Longest side of an image in the picture, in pixels.
LONGEST = 1024
# Columns between the two images.
GAP = 8


def save_quick_picture(reconstruction: Reconstruction, path: str | os.PathLike[str]) -> Path:
    """Write amplitude and phase side by side as PNG, one pixel for each or for every few of the image.

    The phase is turned so that its mean over the image is 0; uncovered pixels are grey.

    Raises
    ------
    OutputError
        If the file cannot be written; an earlier file is untouched.
    """
    import_matplotlib()
    from matplotlib.image import imsave

    path = Path(path)
    every = max(1, -(-max(reconstruction.object.shape) // LONGEST))
    image, covered = reconstruction.object[::every, ::every], reconstruction.coverage[::every, ::every] > 0
    mean = np.sum(image[covered], dtype=np.complex128)
    phase = np.angle(image * np.exp(-1j * np.angle(mean)))
    panels = [
        _coloured(np.abs(image), covered, AMPLITUDE_MAP),
        np.full((len(image), GAP, 3), 255, np.uint8),
        _coloured(phase, covered, PHASE_MAP),
    ]
    with replaced_atomically(path) as stream:
        imsave(cast(BinaryIO, stream), np.concatenate(panels, axis=1), format="png")
    return path


def _coloured(values: NDArray, covered: NDArray[np.bool_], name: str) -> NDArray[np.uint8]:
    """(H, W, 3) colours of `values`, over the contrast of the covered ones."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    low, high = np.percentile(values[covered], CONTRAST_PERCENTILES) if covered.any() else (0.0, 1.0)
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    colours = colormaps[name](scaled, bytes=True)[..., :3]
    bare = (255 * np.array(to_rgb(BARE_COLOUR))).astype(np.uint8)
    return np.where(covered[..., None], colours, bare)
