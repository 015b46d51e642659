"""A picture of the image while a model is trained, every few epochs."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.archive.model_file import read_model
from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.images.quick_picture import save_quick_picture
from ptycho_backends.images.reconstruct import (
    default_stitching_size,
    reconstruct,
    trust_in_patches,
    wants_phase_agreement,
)
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.scans.scan import Scan
from ptycho_backends.training.canvas import with_room_for
from ptycho_backends.training.checkpoints import FOLDER, LAST_CHECKPOINT
from ptycho_backends.training.launch import SINGLE_DEVICE
from ptycho_backends.training.plan import TrainingPlan, inference_groups
from ptycho_backends.training.synthetic_canvases import CanvasGroups
from ptycho_backends.values import TrainedModel

log = logging.getLogger(__name__)

PICTURE = "live.png"

POSITIONS = 1024
"""Most positions in the picture: those around the middle of the scan, so that nothing is left open between them."""

ObjectPatches = Callable[
    [TrainedModel, GroupedData, ExecutionConfig], Iterator[tuple[slice, NDArray[np.complex64]]]
]
"""`BackendBase.object_patches`."""


class LivePicture:
    """Draws `live.png` from the last checkpoint; the model that is trained is not touched.

    Parameters
    ----------
    plan : TrainingPlan
        Of several scans the first one is shown.
    execution : ExecutionConfig
    folder : Path
        Of the run; checkpoints are in it.
    patches : callable
        `BackendBase.object_patches`.

    Raises
    ------
    ConfigError
        If no checkpoints are written, or the plan trains on synthetic canvases.
    """

    def __init__(
        self, plan: TrainingPlan, execution: ExecutionConfig, folder: Path, patches: ObjectPatches
    ) -> None:
        require_possible(plan, execution)
        self._checkpoint, self._path = folder / FOLDER / LAST_CHECKPOINT, folder / PICTURE
        # this process by itself, whatever trains beside it
        self._execution = dataclasses.replace(
            execution, devices=1, strategy=SINGLE_DEVICE, enable_progress_bar=False, compile_network=False
        )
        self._patches = patches
        scan = plan.groups.parts[0] if plan.groups.parts else plan.scan
        self._groups = inference_groups(plan.start, _middle(scan))

    def draw(self, epoch: int) -> Path | None:
        """Draw the image after `epoch`, counted from 1; what prevents it is a warning."""
        try:
            model = read_model(self._checkpoint)
            if model.epochs_done != epoch:
                log.warning("no picture of epoch %d: the last checkpoint is of another one", epoch)
                return None
            model = with_room_for(dataclasses.replace(model, training_state=None), self._groups)
            network = model.config.model
            size = default_stitching_size(network)
            image = reconstruct(
                self._patches(model, self._groups, self._execution),
                self._groups,
                network.N,
                size,
                model.backend,
                agree_on_phase=wants_phase_agreement(network),
                patch_weights=trust_in_patches(model, size),
            )
            return save_quick_picture(image, self._path)
        except Exception as error:
            # a picture is worth less than the training
            log.warning("no picture of epoch %d: %s", epoch, error)
            return None


def require_possible(plan: TrainingPlan, execution: ExecutionConfig) -> None:
    """Refuse a `picture_every` that nothing could be drawn for.

    Raises
    ------
    ConfigError
    """
    every = execution.picture_every
    if every and not execution.enable_checkpointing:
        raise ConfigError(
            f"picture_every: got {every}, but it draws from checkpoints; leave enable_checkpointing=True"
        )
    if every and isinstance(plan.groups, CanvasGroups):
        raise ConfigError(
            f"picture_every: got {every}, but training on synthetic scans has no scan to show; want 0"
        )


def _middle(scan: Scan) -> Scan:
    """The `POSITIONS` positions of `scan` that are nearest to its middle, in their order."""
    if len(scan) <= POSITIONS:
        return scan
    places = scan.scan_positions_px
    distances = np.abs(places - (places.min(axis=0) + places.max(axis=0)) / 2).max(axis=1)
    return scan.part(np.sort(np.argsort(distances, kind="stable")[:POSITIONS]), "middle")
