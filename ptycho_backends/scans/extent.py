"""Extent of a scan, and the refusal of canvases that are out of proportion to the measured patches."""

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError

# Canvases below this need no justification.
ALWAYS_ALLOWED_PIXELS = 4_000_000
# Positions are strays where they are so many times farther from the middle than most of them.
STRAY_FACTOR = 20.0
MOST_PIXELS_PER_PATCH = 16.0
MOST_LISTED = 5
# Patches may reach so many pixels beyond an object.
OBJECT_MARGIN_PX = 2.0


def patches_outside(
    positions_px: NDArray[np.float64], side: int, shape: tuple[int, int]
) -> NDArray[np.int64]:
    """Numbers of the positions whose patches reach beyond an object of `shape` (H, W), by more than 2 pixels.

    Parameters
    ----------
    positions_px : (M, 2) real array, [x, y]
        Of the patches' centres; the object's pixel `[i, j]` lies at `y = i, x = j`.
    side : int
        Of a patch, pixels.
    shape : (int, int)
    """
    low = positions_px - side // 2
    beyond = np.maximum(-low, low + side - np.array([shape[1], shape[0]]))
    return np.flatnonzero((beyond > OBJECT_MARGIN_PX).any(axis=1))


def require_sane_canvas(positions_px: NDArray[np.float64], side: int, name: str) -> None:
    """Refuse positions whose canvas would be out of proportion to their patches, before it is made.

    Parameters
    ----------
    positions_px : (M, 2) real array, [x, y]
    side : int
        Side of a patch, pixels.
    name : str
        Of the scan, for the message.

    Raises
    ------
    ScanError
        If the canvas has more than 16 times the pixels of all patches together, and more than 4 million; the
        text names the positions that are far from all others, with a cure.
    """
    height, width = (float(extent) + side for extent in np.ptp(positions_px, axis=0)[::-1])
    pixels, measured = height * width, float(len(positions_px)) * side * side
    if pixels <= max(ALWAYS_ALLOWED_PIXELS, MOST_PIXELS_PER_PATCH * measured):
        return
    distance = np.max(np.abs(positions_px - np.median(positions_px, axis=0)), axis=1)
    strays = np.flatnonzero(distance > STRAY_FACTOR * max(float(np.median(distance)), side))
    if len(strays):
        listed = ", ".join(
            f"{number} at x = {positions_px[number, 0]:.6g}, y = {positions_px[number, 1]:.6g}"
            for number in strays[:MOST_LISTED]
        )
        more = f" and {len(strays) - MOST_LISTED} more" if len(strays) > MOST_LISTED else ""
        cure = f"far from all others: {listed}{more}; leave these positions out, or correct them"
    else:
        cure = "the positions lie far apart; are they in object pixels?"
    raise ScanError(
        f"{name}: the positions span {width:.4g} x {height:.4g} pixels, but the {len(positions_px)} patches of "
        f"{side} x {side} pixels cover at most {measured:.4g} pixels of that; {cure}"
    )
