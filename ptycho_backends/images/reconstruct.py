"""From predicted patches to an image: the stitching half of every backend's `infer`."""

import time
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.config import ModelConfig
from ptycho_backends.images import stitching
from ptycho_backends.images.phase_agreement import WaitingPatches
from ptycho_backends.images.stitching import squares_over
from ptycho_backends.reference.initial_weights import PROBE
from ptycho_backends.reference.physics import crop_centre
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.values import Reconstruction, TrainedModel

KEPT_PATCHES_BYTES = 2 << 30
"""`Reconstruction.object_patches` is None for patches that take more: a scan may be larger than memory."""


LEAST_TRUST = 1e-3
"""Weight of pixels without light (`trust_in_patches`)."""


def wants_phase_agreement(model: ModelConfig) -> bool:
    """True if patches of this architecture are brought to one constant phase before they are stitched, by default."""
    return model.architecture == "unrolled"


def default_stitching_size(model: ModelConfig) -> int:
    """Side of the central square of each patch that is stitched by default, pixels."""
    return model.N // 2 if model.architecture == "unrolled" else constants.DEFAULT_STITCHING_SIZE


def trust_in_patches(model: TrainedModel, size: int) -> NDArray[np.float64] | None:
    """(M, M), weight of each pixel of the patches of `model`; None where all count alike.

    Patches of 'unrolled' are trusted where their own probe lit them: what is around comes from the neighbours, or from
    nowhere.
    """
    if model.config.model.architecture != "unrolled":
        return None
    modes = np.asarray(model.weights[PROBE]).astype(np.complex128)
    intensity = np.sum(np.abs(modes.reshape(-1, *modes.shape[-2:])) ** 2, axis=0)
    central = crop_centre(intensity, size)
    brightest = float(central.max())
    # a dark place in a ring of light is seen by no patch but these
    return np.maximum(central / brightest, LEAST_TRUST) if brightest > 0 else None


def reconstruct(
    predicted: Iterable[tuple[slice, NDArray[np.complex64]]],
    groups: GroupedData,
    N: int,
    stitching_size: int,
    backend: str,
    add_up: Callable[[NDArray[np.float64]], None] | None = None,
    *,
    agree_on_phase: bool = False,
    patch_weights: NDArray | None = None,
) -> Reconstruction:
    """Stitch patches as they are predicted.

    Parameters
    ----------
    predicted : iterable of (slice, (b, N, N, 1) complex64)
        Slice of the groups, and their patches. All processes together yield every group once.
    groups : GroupedData
        All groups of the scan.
    N : int
        Side of a patch.
    stitching_size : int
        Side of its central square that is used.
    backend : str
        Name for the result.
    add_up : callable, optional
        All-reduce for several processes: replaces an array by its sum over all of them, in place. No process
        has all patches then, so they are not kept.
    agree_on_phase : bool
        Bring all patches to one constant phase before they are averaged (`phase_agreement`).
    patch_weights : (M, M) real array, [y, x], optional
        Trust in each pixel of a patch, for example `probe_weights`; default 1 everywhere.

    Raises
    ------
    ShapeError
        If `stitching_size` does not fit N.
    """
    stitching.require_size(stitching_size, N)
    shape = (len(groups), N, N, 1)
    keep = add_up is None and 8 * np.prod(shape, dtype=float) <= KEPT_PATCHES_BYTES
    kept = np.empty(shape, np.complex64) if keep else None
    centres = groups.group_centres_px
    canvas = stitching.square_around(centres, stitching_size)
    stitcher = stitching.Stitcher(canvas, stitching_size, patch_weights)
    waiting = None
    if agree_on_phase:
        waiting = WaitingPatches(centres[:, 0, :, 0], stitching_size, patch_weights, kept)
    started, stitch = time.perf_counter(), 0.0
    for part, patches in predicted:
        arrived = time.perf_counter()
        if waiting is not None:
            waiting.add(part, patches)
        else:
            stitcher.add(patches, centres[part])
            if kept is not None:
                kept[part] = patches
        stitch += time.perf_counter() - arrived
    predict = time.perf_counter() - started - stitch
    started = time.perf_counter()
    if waiting is not None:
        for part, patches in waiting.turned(add_up):
            stitcher.add(patches, centres[part])
    if add_up is not None:
        for sums in stitcher.sums:
            add_up(sums)
    image, coverage = stitcher.result()
    if patch_weights is not None:
        image, coverage = within_scan(image, coverage, centres[:, 0, :, 0], canvas.origin_px, stitching_size)
    stitch += time.perf_counter() - started
    return Reconstruction(
        object=image,
        coverage=coverage,
        origin_px=canvas.origin_px,
        group_centres_px=centres[:, 0, :, 0],
        object_patches=kept,
        backend=backend,
        pixel_size_m=groups.scan.pixel_size_m,
        timings_s={"predict": predict, "stitch": stitch},
    )


def within_scan(
    image: NDArray[np.complex64],
    coverage: NDArray[np.float32],
    centres_px: NDArray[np.float64],
    origin_px: NDArray[np.float64],
    size: int,
) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
    """Image and coverage of weighted patches where the scan went: coverage counts whole patches, as everywhere.

    Parameters
    ----------
    image, coverage : (H, W) arrays, [y, x]
    centres_px : (B, 2) array, [x, y]
    origin_px : (2,) array, [x, y]
        Of `image[0, 0]`.
    size : int
        Side of the part of each patch that is stitched.
    """
    # the worth of a pixel does not show that it was scanned
    middles = np.rint(centres_px - origin_px).astype(np.int64)
    scanned = squares_over(middles, coverage.shape, min(constants.DEFAULT_STITCHING_SIZE, size))
    coverage = np.where(coverage > 0, scanned, 0.0).astype(np.float32)
    return np.where(coverage > 0, image, 0).astype(np.complex64), coverage
