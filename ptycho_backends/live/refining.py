"""Refinement of the frames so far, while no frame waits; between its passes frames that came are added."""

import dataclasses
import logging
from collections.abc import Callable

import numpy as np

from ptycho_backends.config import ExecutionConfig, RefinementConfig
from ptycho_backends.errors import PtychoBackendsError
from ptycho_backends.protocol import Backend
from ptycho_backends.scans.scan import Scan
from ptycho_backends.training.canvas import works_on_scans
from ptycho_backends.values import Reconstruction, RefinementRecord, TrainedModel

log = logging.getLogger(__name__)

PASSES = 3
"""Passes at a time, unless fewer are asked for."""

LONGEST_PASS_S = 2.0
"""Longer passes would hold frames up too much; a scan that has grown beyond that is refined at its end."""

# Assumed time of a frame in a pass before the first, and time of a pass that does not depend on the frames.
FIRST_FRAME_S, OVERHEAD_S = 1e-3, 0.05
# Frames of the first refinement at least, and growth of the scan before each other one.
LEAST_FRAMES, GROWTH = 32, 1.25


class LiveRefinement:
    """Refines the image so far, again whenever the scan has grown.

    Parameters
    ----------
    backend : Backend
    model : TrainedModel
    config : RefinementConfig
    execution : ExecutionConfig

    Attributes
    ----------
    refined : Reconstruction, optional
        The newest refined image.
    frames : int
        Frames in it.
    passes : int
        Made so far.
    interrupted : bool
        Ctrl-C came during a pass.
    """

    def __init__(
        self, backend: Backend, model: TrainedModel, config: RefinementConfig, execution: ExecutionConfig
    ) -> None:
        self._backend = backend
        # the frames of the scan are the progress
        self._execution = dataclasses.replace(execution, enable_progress_bar=False)
        # the probe of a scan that has none, as `Backend.refine` would take it from the model
        self._modes = model.probe_modes if works_on_scans(model) else None
        passes = PASSES if config.passes is None else min(PASSES, config.passes)
        self._config = dataclasses.replace(config, passes=passes)
        self.refined: Reconstruction | None = None
        self.frames = self.passes = 0
        self.interrupted = False
        self._frame_s = FIRST_FRAME_S
        self._gave_up = False

    def is_due(self, frames: int) -> bool:
        """True where the image has enough new frames, and a pass over all of them takes little time."""
        if self._gave_up or frames < max(LEAST_FRAMES, GROWTH * self.frames):
            return False
        return frames * self._frame_s <= LONGEST_PASS_S

    def run(self, scan: Scan, image: Reconstruction, between_passes: Callable[[], None]) -> None:
        """Refine `scan`, from the refined image so far where there is one and from `image` elsewhere."""

        def on_pass(record: RefinementRecord) -> None:
            self.passes += 1
            between_passes()

        if scan.probe_modes is None and self._modes is not None and self._modes.shape[-1] == scan.N:
            scan = scan.with_probe(self._modes)
        # passes alone: the learned correction of a model is for the end
        try:
            found = self._backend.refine(
                self.shown(image), scan, self._config, execution=self._execution, on_pass=on_pass
            )
        except PtychoBackendsError as error:
            log.warning("no refinement while the scan runs: %s", error)
            self._gave_up = True
            return
        self.refined, self.frames, self.interrupted = found, len(scan), found.interrupted
        # the quickest: others may have added frames in between
        quickest = min((record.seconds for record in found.passes), default=0.0)
        self._frame_s = max(0.0, quickest - OVERHEAD_S) / len(scan)

    def shown(self, image: Reconstruction) -> Reconstruction:
        """`image`, with the refined one in its place where that is known."""
        return image if self.refined is None else overlaid(image, self.refined)


def overlaid(image: Reconstruction, refined: Reconstruction) -> Reconstruction:
    """`image` with `refined` in its place, after it was brought to the scale and the constant phase of `refined`.

    Pixels are those of `image`, moved by less than one to lie on those of `refined`.
    """
    low = np.floor(np.minimum(image.origin_px, refined.origin_px) - refined.origin_px).astype(int)
    first = np.rint(image.origin_px - refined.origin_px).astype(int)
    size = np.array(image.object.shape[::-1])
    high = np.maximum(first + size, refined.object.shape[::-1])
    low = np.minimum(low, np.minimum(first, 0))
    width, height = (high - low).tolist()
    canvas, coverage = np.zeros((height, width), np.complex64), np.zeros((height, width), np.float32)

    def place(one: Reconstruction, corner: np.ndarray) -> tuple[slice, slice]:
        x, y = (corner - low).tolist()
        return np.s_[y : y + one.object.shape[0], x : x + one.object.shape[1]]

    here, there = place(image, first), place(refined, np.zeros(2, int))
    canvas[here], coverage[here] = image.object, image.coverage
    known = refined.coverage > 0
    both = known & (coverage[there] > 0)
    under, over = canvas[there][both].astype(np.complex128), refined.object[both].astype(np.complex128)
    energy = float(np.vdot(under, under).real)
    product = complex(np.vdot(under, over))
    if energy > 0 and product != 0:
        # the scale of amplitudes, and the phase, apart: where the images disagree, their product is small
        scale = float(np.sqrt(np.vdot(over, over).real / energy))
        canvas *= scale * product / abs(product)
    canvas[there] = np.where(known, refined.object, canvas[there])
    coverage[there] = np.where(known, np.maximum(refined.coverage, coverage[there]), coverage[there])
    return dataclasses.replace(
        image, object=canvas, coverage=coverage, origin_px=refined.origin_px + low, object_patches=None
    )
