"""The `Backend` protocol: structural, so that a backend inherits from nothing unless it wants to.

`backend_base.BackendBase` fills most of it. The values that it trades in are those of `values`, importable from
here too.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig, ModelConfig, RefinementConfig, TrainingConfig
from ptycho_backends.values import (
    Batch,
    EpochCallback,
    EpochRecord,
    PassCallback,
    Prediction,
    Reconstruction,
    TrainedModel,
    TrainingState,
    Weights,
)

if TYPE_CHECKING:
    from ptycho_backends.scans.grouping import GroupedData
    from ptycho_backends.scans.scan import Scan
    from ptycho_backends.training.plan import TrainingPlan

__all__ = [
    "Backend",
    "Batch",
    "EpochCallback",
    "EpochRecord",
    "Prediction",
    "Reconstruction",
    "TrainedModel",
    "TrainingState",
    "Weights",
]


@runtime_checkable
class Backend(Protocol):
    """One framework's way of doing the six things this library does, and the four that parity compares."""

    name: str
    """Name in the registry, lower case."""

    @property
    def export_formats(self) -> frozenset[str]:
        """Formats that this backend writes itself; `export` hands those of a built-in backend on to it."""
        ...

    # --- config

    def complete_config(
        self, config: TrainingConfig, data: "Scan | GroupedData", execution: ExecutionConfig | None = None
    ) -> TrainingConfig:
        """A validated copy of `config` with `backend` and all that the data decide filled in.

        Raises `ConfigError` for settings that are invalid, or impossible on this framework. `params.cfg` is
        filled from the result (rule CONFIG-001).
        """
        ...

    # --- data

    def prepare(
        self,
        data: "GroupedData",
        config: TrainingConfig,
        *,
        execution: ExecutionConfig | None = None,
    ) -> Any:
        """Training batches in the framework's own form, gathered from the scan when they are needed."""
        ...

    # --- train

    def train(
        self,
        data: "Scan | GroupedData | TrainingPlan",
        config: TrainingConfig,
        *,
        execution: ExecutionConfig | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        resume_from: "str | os.PathLike[str] | TrainedModel | None" = None,
        on_epoch: EpochCallback | None = None,
    ) -> TrainedModel:
        """Train a model, or go on training `resume_from` until `config.nepochs` epochs are done.

        A `TrainingPlan` is trained as it was planned; its own configuration comes with it, and its start
        takes the place of `resume_from`. `plan_training` returns it unchanged, so that a backend which plans
        through that function plans once.

        Ctrl-C ends training after the current step; the model so far is returned, marked as
        `interrupted`, and can be resumed. An `on_epoch` that returns True ends it in the same way. With `output_dir`,
        checkpoints and logs are written there.
        """
        ...

    # --- infer

    def predict(
        self,
        model: TrainedModel,
        data: "GroupedData",
        *,
        execution: ExecutionConfig | None = None,
    ) -> Prediction:
        """Predict the three outputs for every group; the predicted diffraction is for checking."""
        ...

    def infer(
        self,
        model: TrainedModel,
        data: "Scan | GroupedData",
        *,
        execution: ExecutionConfig | None = None,
        stitching_size: int | None = None,
        agree_on_phase: bool | None = None,
    ) -> Reconstruction:
        """Predict the object of every group in batches, and stitch the image from these patches.

        Parameters
        ----------
        model : TrainedModel
        data : Scan or GroupedData
        execution : ExecutionConfig, optional
        stitching_size : int, optional
            Side of the central square of each patch that is used, pixels. None: as the architecture wants, 20 for
            'cnn' and 'attention'.
        agree_on_phase : bool, optional
            Bring all patches to one constant phase before they are averaged. None: as the architecture wants, False
            for 'cnn' and 'attention'.
        """
        ...

    # --- refine

    def refine(
        self,
        start: Any,
        scan: "Scan",
        config: RefinementConfig | None = None,
        *,
        execution: ExecutionConfig | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        resume_from: Any = None,
        on_pass: PassCallback | None = None,
        model: TrainedModel | None = None,
    ) -> Reconstruction:
        """Refine the image of a whole scan through the diffraction model; needs no network (docs/refinement.md).

        Parameters
        ----------
        start : Reconstruction, (H, W) array, path, or None
            Image to refine; None starts from a flat object.
        scan : Scan
        config : RefinementConfig, optional
        execution : ExecutionConfig, optional
        output_dir : path, optional
            Gets checkpoints, from which `resume_from` goes on.
        resume_from : path, optional
        on_pass : callable, optional
            Called with each `RefinementRecord`.
        model : TrainedModel, optional
            Of the architecture `unrolled`: its learned correction follows the last pass, unless held-out pixels are
            then predicted worse.

        Returns
        -------
        Reconstruction
            With `probe_modes`, `positions_px` and `passes`. Ctrl-C ends it after the current step; the image so
            far is returned, marked as `interrupted`.
        """
        ...

    # --- persist

    def save(self, model: TrainedModel, path: str | os.PathLike[str]) -> Path:
        """Write the shared archive (`wts.h5.zip`), atomically; a folder means the file in it."""
        ...

    def load(self, path: str | os.PathLike[str]) -> TrainedModel:
        """Read an archive, whichever backend wrote it."""
        ...

    # --- export

    def export(
        self,
        source: "TrainedModel | Reconstruction | Scan",
        path: str | os.PathLike[str],
        format: str | None = None,
        *,
        scan: "Scan | None" = None,
        licence: str = ...,
        origin: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a model, an image or a scan in a format of another program (docs/export.md).

        Parameters
        ----------
        source : TrainedModel, Reconstruction or Scan
        path : path
        format : str, optional
            A name in `export.formats.FORMATS`. Default: as the ending of `path` means.
        scan : Scan, optional
            Of an image: the scan that it was made from. 'product' needs it.
        licence : str, optional
            Text on the licence of the file, which carries it beside the configuration and the scale.
        origin : mapping, optional
            Of an image: `config`, `intensity_scale` and `settings` that made it (`export.metadata.image_metadata`).

        Returns
        -------
        Path
            The file, or the folder, that was written.

        Raises
        ------
        ExportError
            For an unknown format, one that does not fit `source`, a missing module, and a file that does not compute
            what the model computes.
        BackendUnavailableError
            For a format of another framework that is not installed.
        """
        ...

    # --- compared by parity: NumPy in and out, in the precision of `execution`

    def forward(
        self,
        config: ModelConfig,
        weights: Weights,
        batch: Batch,
        *,
        execution: ExecutionConfig | None = None,
    ) -> Prediction:
        """The three outputs for one batch."""
        ...

    def loss(
        self,
        config: TrainingConfig,
        weights: Weights,
        batch: Batch,
        *,
        execution: ExecutionConfig | None = None,
    ) -> dict[str, float]:
        """Every term of the loss, and their weighted sum as `total` (docs/model.md, section 6)."""
        ...

    def gradients(
        self,
        config: TrainingConfig,
        weights: Weights,
        batch: Batch,
        *,
        execution: ExecutionConfig | None = None,
    ) -> dict[str, NDArray]:
        """Gradient of the total loss with respect to every weight, probe and scale included.

        The gradient of the complex probe is `dL/dRe + i dL/dIm`.
        """
        ...

    def train_step(
        self,
        config: TrainingConfig,
        weights: Weights,
        batches: Sequence[Batch],
        *,
        execution: ExecutionConfig | None = None,
    ) -> dict[str, NDArray]:
        """The weights after one Adam step on each of `batches` in turn, from fresh moments."""
        ...
