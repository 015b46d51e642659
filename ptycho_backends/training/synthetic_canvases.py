"""Training of the network `unrolled` before the beam time, on refined images of synthetic scans with known objects.

Each synthetic scan is refined as a measured one will be. The network learns what is missing in such images: parts of
their canvases go in, the same parts of the known objects come out.
"""

import dataclasses
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import TrainingConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.reference.correction import relative_light, unit_factor
from ptycho_backends.reference.physics import extract_patches
from ptycho_backends.reference.refinement import illumination
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.synthetic import SyntheticScans
from ptycho_backends.values import Batch, Reconstruction

log = logging.getLogger(__name__)

# Parts that each synthetic scan gives.
PARTS_OF_SCAN = 16
# Fraction of a part's pixels that have to be lit.
LEAST_LIT = 0.8
# Places that are tried for each part.
TRIES = 50

Refine = Callable[[Scan], Reconstruction]
"""Refines a scan, as `Backend.refine(None, scan)` does."""


@dataclass(frozen=True, eq=False, repr=False)
class CanvasGroups(GroupedData):
    """Parts of refined canvases in the place of groups of patterns.

    Attributes
    ----------
    canvases : (B, N, N) complex64, [y, x]
        With the mean square 1 and the mean phase 0 over their whole scan.
    lights : (B, N, N) float32, [y, x]
        Illumination over the scan's brightest pixel.
    truths : (B, N, N) complex64, [y, x]
        The known object at the same scale; `canvases` where there is no light.
    """

    canvases: NDArray[np.complex64] = dataclasses.field(default_factory=lambda: np.zeros(0, np.complex64))
    lights: NDArray[np.float32] = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))
    truths: NDArray[np.complex64] = dataclasses.field(default_factory=lambda: np.zeros(0, np.complex64))

    def as_configured(self, config: TrainingConfig) -> "CanvasGroups":
        """These groups: canvases are normalised already."""
        return self

    def batch(
        self,
        indices: NDArray[np.integer] | slice = slice(None),
        *,
        intensity_scale: float = 1.0,
        with_truth: bool = False,
    ) -> Batch:
        """The parts `indices`, without patterns."""
        canvases, truths = self.canvases[indices], self.truths[indices]
        count, C = len(canvases), self.nn_indices.shape[1]
        return Batch(
            diffraction_amplitude=np.zeros((count, self.N, self.N, C), np.float32),
            relative_offsets_px=np.zeros((count, 1, 2, C), np.float32),
            intensity_scale=intensity_scale,
            object_patches=np.repeat(truths[..., None], C, axis=-1) if with_truth else None,
            object_at_centre=truths[..., None] if with_truth else None,
            canvas=canvases,
            light=self.lights[indices],
        )


@dataclass(frozen=True, eq=False)
class SyntheticCanvases:
    """Draws the `CanvasGroups` of each epoch: the `resample` of a plan.

    Attributes
    ----------
    scans : SyntheticScans
    count : int
        Parts in an epoch.
    gridsize : int
        Of the model that is trained, which changes nothing here.
    refine : callable
    """

    scans: SyntheticScans
    count: int
    gridsize: int
    refine: Refine

    def __call__(self, epoch: int) -> CanvasGroups:
        drawn: list[tuple[NDArray, NDArray, NDArray]] = []
        number, first = 0, None
        while len(drawn) < self.count:
            scan = self.scans.scan(epoch, number)
            first = scan if first is None else first
            generator = np.random.default_rng([self.scans.seed, epoch, number])
            wanted = min(PARTS_OF_SCAN, self.count - len(drawn))
            drawn += parts_of_scan(scan, self.refine(scan), wanted, generator)
            number += 1
            if number > 4 and not drawn:
                raise ConfigError(
                    f"step_px: synthetic scans of {self.scans.patterns} patterns have no lit square of "
                    f"{self.scans.N} pixels; simulate more patterns in each, or smaller steps"
                )
        log.info("epoch %d: %d parts of %d synthetic scans", epoch, len(drawn), number)
        canvases, lights, truths = (np.stack(arrays) for arrays in zip(*drawn, strict=True))
        assert first is not None
        members = np.repeat(np.arange(len(drawn))[:, None] % len(first), self.gridsize**2, axis=1)
        return CanvasGroups(first, members, canvases=canvases, lights=lights, truths=truths)


def parts_of_scan(
    scan: Scan, image: Reconstruction, count: int, generator: np.random.Generator
) -> list[tuple[NDArray[np.complex64], NDArray[np.float32], NDArray[np.complex64]]]:
    """Up to `count` lit parts N x N of the refined `image`: canvas, relative light, known object.

    Parameters
    ----------
    scan : Scan
        With its known object, and the probe that belongs to it.
    image : Reconstruction
    count : int
    generator : numpy.random.Generator
        Of the places.
    """
    N, known = scan.N, scan.object_guess
    assert known is not None
    assert scan.probe_modes is not None
    lit = image.coverage > 0
    canvas = np.where(lit, image.object, 1.0)
    light = scan_light(scan, image)
    factor = unit_factor(canvas[None], light[None])[0, 0, 0]
    relative = relative_light(light[None])[0]
    # the refinement gives the probe the mean energy of a pattern
    scale = math.sqrt(
        float(np.sum(np.abs(scan.probe_modes) ** 2)) / float(np.mean(scan.pattern_energies, dtype=np.float64))
    )
    parts = []
    height, width = canvas.shape
    for _ in range(count * TRIES if min(height, width) > N else 0):
        y, x = generator.integers(height - N + 1), generator.integers(width - N + 1)
        box = slice(y, y + N), slice(x, x + N)
        if lit[box].mean() < LEAST_LIT:
            continue
        centre = image.origin_px + np.array([x, y]) + N // 2
        truth = extract_patches(known, centre, N) * scale * factor
        part = canvas[box] * factor
        # each part's constant phase is free
        overlap = np.sum((truth.conj() * part * light[box])[lit[box]])
        truth = truth * (overlap / abs(overlap) if overlap != 0 else 1.0)
        truth = np.where(lit[box], truth, part)
        parts.append(
            (part.astype(np.complex64), relative[box].astype(np.float32), truth.astype(np.complex64))
        )
        if len(parts) == count:
            break
    return parts


def scan_light(scan: Scan, image: Reconstruction) -> NDArray[np.float64]:
    """(H, W), illumination of the refined image's canvas, in counts."""
    assert image.positions_px is not None
    assert image.probe_modes is not None
    corner = image.positions_px - image.origin_px - scan.N // 2
    first = np.floor(corner)
    height, width = image.object.shape
    return illumination(
        first.astype(np.int64), corner - first, image.probe_modes.astype(np.complex128), (height, width)
    )
