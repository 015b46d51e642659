"""Valid pixels of a detector: masks as files give them, and pixels whose values no photon count could have.

A mask is one for a scan, (N, N) bool, True where a pixel takes part.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends.errors import ScanError, ShapeError
from ptycho_backends.files.stored_patterns import StoredPatterns

log = logging.getLogger(__name__)

GOOD_NAMES = ("valid_pixels", "good_pixels", "fmask")
BAD_NAMES = ("bad_pixels", "badPixels", "dead_pixels", "hot_pixels")
EITHER_NAMES = ("mask", "detector_mask", "pixel_mask")
"""Entries of files that hold a mask: True for a valid pixel, True for a bad one, or either by convention."""

MASK_NAMES = (*GOOD_NAMES, *BAD_NAMES, *EITHER_NAMES)

# A pixel that never changes is suspicious only if it had the chance to.
LEAST_FRAMES = 16
# A constant pixel that is brighter than every other one by this factor counts nothing.
LEAST_EXCESS = 4.0
# Largest values of counters, which float files carry on as numbers.
COUNTER_MAXIMA = tuple(2.0**bits - 1 for bits in (16, 20, 24, 31, 32))
# More than this, and it is the file that is wrong, not the pixels.
MOST_INVALID = 0.5


@dataclass(frozen=True)
class PixelStatistics:
    """Per pixel, over the frames that were looked at: (N, N) arrays.

    Attributes
    ----------
    smallest, largest : float64
        NaN and infinite values left out.
    not_finite : bool
        NaN or infinite in at least one frame.
    frames : int
    """

    smallest: NDArray[np.float64]
    largest: NDArray[np.float64]
    not_finite: NDArray[np.bool_]
    frames: int


def combined_statistics(parts: Sequence[PixelStatistics]) -> PixelStatistics:
    """The statistics over all frames of `parts`."""
    return PixelStatistics(
        smallest=np.minimum.reduce([part.smallest for part in parts]),
        largest=np.maximum.reduce([part.largest for part in parts]),
        not_finite=np.logical_or.reduce([part.not_finite for part in parts]),
        frames=sum(part.frames for part in parts),
    )


def pixel_statistics(chunk: NDArray) -> PixelStatistics:
    """Smallest and largest value of each pixel over patterns (m, N, N)."""
    smallest, largest = chunk.min(axis=0).astype(np.float64), chunk.max(axis=0).astype(np.float64)
    not_finite = np.zeros(chunk.shape[1:], bool)
    if chunk.dtype.kind == "f" and not (np.isfinite(smallest).all() and np.isfinite(largest).all()):
        finite = np.isfinite(chunk)
        smallest = np.min(chunk, axis=0, where=finite, initial=np.inf).astype(np.float64)
        largest = np.max(chunk, axis=0, where=finite, initial=-np.inf).astype(np.float64)
        not_finite = ~finite.all(axis=0)
    return PixelStatistics(smallest, largest, not_finite, len(chunk))


def invalid_pixels(found: PixelStatistics, dtype: np.dtype, measurement: str) -> dict[str, NDArray[np.bool_]]:
    """Pixels whose values no count could have, by the reason; masks (N, N), True where invalid.

    Parameters
    ----------
    found : PixelStatistics
    dtype : numpy.dtype
        Of the patterns as they are stored.
    measurement : {'amplitude', 'intensity'}
    """
    reasons = {"NaN or infinite": found.not_finite}
    if dtype.kind in "iu":
        top = float(np.iinfo(dtype).max)
        # as float64, which rounds the largest 64-bit numbers
        reasons[f"{np.iinfo(dtype).max}, the largest value of {dtype}"] = found.largest >= top
    usable = ~np.logical_or.reduce(list(reasons.values()))
    constant = usable & (found.smallest == found.largest)
    if found.frames >= LEAST_FRAMES and constant.any():
        changing = found.largest[usable & ~constant]
        brightest = float(changing.max()) if changing.size else np.inf
        counters = np.array(COUNTER_MAXIMA, np.float32)
        if measurement == "amplitude":
            counters = np.sqrt(counters)
        value = found.largest.astype(np.float32)
        reasons["the same negative value in every frame"] = constant & (found.largest < 0)
        reasons["the same value in every frame, which no count could have"] = constant & (
            (found.largest > LEAST_EXCESS * brightest)
            | (np.isin(value, counters) & (found.largest > brightest))
        )
    return {reason: pixels for reason, pixels in reasons.items() if pixels.any()}


def require_mask(name: str, values: object, side: int | tuple[int, ...]) -> NDArray[np.bool_]:
    """`values` as an (N, N) bool array; `side` is N, or the shape of frames that are not square.

    Raises
    ------
    ShapeError
        For another shape or type.
    """
    mask = np.asarray(values)
    if mask.ndim == 3 and len(mask) == 1:
        mask = mask[0]
    shape = (side, side) if isinstance(side, int) else side
    if mask.shape != shape:
        raise ShapeError(f"{name}: got shape {mask.shape}, want {shape}, one mask for the whole scan")
    if mask.dtype.kind not in "biuf" or (mask.dtype.kind == "f" and not np.isfinite(mask).all()):
        raise ShapeError(f"{name}: got dtype {mask.dtype}, want True and False, or 1 and 0")
    return mask != 0


def mask_of_entries(
    entries: Mapping[str, NDArray], side: int | tuple[int, ...], given: ArrayLike | None = None
) -> NDArray[np.bool_] | None:
    """The valid pixels that a file's entries describe and that are valid in the mask `given`; None without any mask.

    Under a name that is used both ways (`mask`), the pixels in the minority are the bad ones; the log states this.
    An entry of such a name that has another shape is left out: it may be the mask of something else.

    Raises
    ------
    ShapeError
        If an entry that can only be a detector's mask has another shape or type.
    """
    valid = None if given is None else require_mask("valid_pixels", given, side)
    for name in MASK_NAMES:
        if name not in entries or not np.asarray(entries[name]).size:
            continue
        if name in EITHER_NAMES and not _may_be_mask(entries[name], side):
            log.warning(
                "%s: of shape %s, so no mask of the detector; left out", name, np.shape(entries[name])
            )
            continue
        mask = require_mask(name, entries[name], side)
        if name in EITHER_NAMES:
            good = bool(mask.mean() >= 0.5)
            log.info(
                "%s: %s is taken for a valid pixel, as most pixels are", name, "nonzero" if good else "zero"
            )
            mask = mask if good else ~mask
        elif name in BAD_NAMES:
            mask = ~mask
        valid = mask if valid is None else valid & mask
    return valid


def _may_be_mask(values: NDArray, side: int | tuple[int, ...]) -> bool:
    shape = (side, side) if isinstance(side, int) else side
    return np.asarray(values).shape in (shape, (1, *shape))


def settled_mask(
    name: str,
    given: NDArray[np.bool_] | None,
    patterns: NDArray | StoredPatterns,
    found: PixelStatistics,
    measurement: str,
) -> NDArray[np.bool_] | None:
    """The valid pixels of a scan: those of the mask that was given, without those found invalid.

    The log states counts and reasons once.

    Returns
    -------
    (N, N) bool array, or None where every pixel is valid

    Raises
    ------
    ScanError
        If more than half of the pixels are invalid.
    """
    valid = np.ones(found.largest.shape, bool) if given is None else given.copy()
    reasons = {}
    for reason, pixels in invalid_pixels(found, patterns.dtype, measurement).items():
        if count := int(np.count_nonzero(pixels & valid)):
            reasons[reason] = count
            valid &= ~pixels
    total, left_out = valid.size, int(np.count_nonzero(~valid))
    if left_out > MOST_INVALID * total:
        why = "; ".join(f"{count}: {reason}" for reason, count in reasons.items()) or "the mask"
        raise ScanError(
            f"{name}: {left_out} of {total} detector pixels are invalid ({why}); want most of them valid"
        )
    if reasons:
        why = "; ".join(f"{count}: {reason}" for reason, count in reasons.items())
        log.warning("%s: %d of %d detector pixels take no part (%s)", name, left_out, total, why)
    elif left_out:
        log.info("%s: %d of %d detector pixels take no part, by the mask", name, left_out, total)
    return valid if left_out else None
