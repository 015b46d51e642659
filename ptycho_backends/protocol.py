"""The `Backend` protocol, and the values that it trades in: plain, immutable, NumPy inside.

Shapes: B groups, C = gridsize**2 positions in a group, N pixels on the side of a pattern.
Images are `[y, x]`, channels come last, positions are `[x, y]` in object pixels.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig

if TYPE_CHECKING:
    from ptycho_backends.grouping import GroupedData
    from ptycho_backends.scan import Scan

Weights = Mapping[str, NDArray]
"""Canonical names (`initial_weights.weight_shapes`) to arrays, `log_scale` and `probe` among them."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What one optimiser step sees.

    Attributes
    ----------
    diffraction_amplitude : (B, N, N, C) float32
        Normalised measured amplitude, `X_full`.
    relative_offsets_px : (B, 1, 2, C) float32
        `r`: minus each position's offset from the group's centre, `[x, y]`.
    intensity_scale : float
        `s`: the network is fed `s * diffraction_amplitude`.
    object_patches : (B, N, N, C) complex64, optional
        Ground truth seen from each position, `Y`; needed by supervised training.
    object_at_centre : (B, N, N, 1) complex64, optional
        Ground truth at the group's centre; needed by the real-space loss.
    """

    diffraction_amplitude: NDArray[np.float32]
    relative_offsets_px: NDArray[np.float32]
    intensity_scale: float
    object_patches: NDArray[np.complex64] | None = None
    object_at_centre: NDArray[np.complex64] | None = None

    def __len__(self) -> int:
        return len(self.diffraction_amplitude)


@dataclass(frozen=True, eq=False)
class Prediction:
    """The three outputs of the model for a batch (docs/model.md, section 5)."""

    object: NDArray[np.complexfloating]
    """(B, N, N, 1), the group's object around its centre."""
    amplitude: NDArray[np.floating]
    """(B, N, N, C), predicted diffraction amplitude times `exp(log_scale)`."""
    intensity: NDArray[np.floating]
    """(B, N, N, C), its square, in photons."""


@dataclass(frozen=True)
class EpochRecord:
    """One row of a training history. Losses are means over the groups of the epoch."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    val_loss: float | None
    """None where there are too few groups to hold any out."""
    learning_rate: float
    seconds: float


@dataclass(frozen=True, eq=False)
class TrainingState:
    """What resuming needs beyond the weights; the same whichever framework trained.

    `step` optimiser steps are done, `epoch` epochs are finished, and of the one begun after them
    `batches_done` batches, whose losses (weighted by their groups) sum to `loss_sum`. Moments are
    Adam's; they have canonical names, and a probe's moments are complex (real and imaginary part are
    two parameters, so the second moment's parts are separate, both >= 0).
    """

    step: int
    epoch: int
    batches_done: int
    loss_sum: float
    first_moments: Weights
    second_moments: Weights
    schedule: Mapping[str, Any]
    """State of `ptycho_backends.schedules`: plain numbers and strings."""


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained model, whichever framework trained it.

    Attributes
    ----------
    config : TrainingConfig
        As it was used: complete and valid.
    weights : mapping of arrays
        Canonical names to float32 arrays, `log_scale` and the complex64 `probe` among them.
    intensity_scale : float
        `s`, by which measured amplitudes are multiplied before they are fed to the network. A trained
        `log_scale` may differ from `ln s`.
    history : sequence of EpochRecord
        One row an epoch, over all the times that training was resumed.
    backend : str
        Which backend made it: 'torch', 'tensorflow', ...
    interrupted : bool
        Whether training was stopped before its last epoch by the user.
    training_state : TrainingState, optional
        For resuming.
    """

    config: TrainingConfig
    weights: Weights
    intensity_scale: float
    history: Sequence[EpochRecord] = ()
    backend: str = ""
    interrupted: bool = False
    training_state: TrainingState | None = None

    @property
    def probe(self) -> NDArray[np.complex64]:
        """(N, N) complex64, `[y, x]`."""
        return self.weights["probe"]

    @property
    def epochs_done(self) -> int:
        """Finished epochs; 0 for a new model."""
        return len(self.history) if self.training_state is None else self.training_state.epoch

    def __repr__(self) -> str:
        model, epochs = self.config.model, len(self.history)
        loss = f", train_loss {self.history[-1].train_loss:.6g}" if self.history else ""
        return (
            f"TrainedModel(N={model.N}, gridsize={model.gridsize}, {model.model_type}, "
            f"n_filters_scale={model.n_filters_scale}, {epochs} epochs on {self.backend or 'nothing'}{loss})"
        )


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A stitched image and what it was made of.

    Attributes
    ----------
    object : (H, W) complex64, [y, x]
        Zero where no patch lies.
    coverage : (H, W) float32
        How much patch lies over each pixel; 0 outside the scan.
    origin_px : (2,) float64
        `[x, y]` of the pixel `object[0, 0]` in the coordinates of the scan's positions.
    group_centres_px : (B, 2) float64
        `[x, y]` of each patch.
    object_patches : (B, N, N, 1) complex64, optional
        The network's `object` output of each group; None where several processes made the image, or where
        they would take more than 2 GiB.
    backend : str
    pixel_size_m : float, optional
    timings_s : mapping
        Seconds spent, by stage.
    """

    object: NDArray[np.complex64]
    coverage: NDArray[np.float32]
    origin_px: NDArray[np.float64]
    group_centres_px: NDArray[np.float64]
    object_patches: NDArray[np.complex64] | None = None
    backend: str = ""
    pixel_size_m: float | None = None
    timings_s: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        height, width = self.object.shape
        return (
            f"Reconstruction({height} x {width} pixels from {len(self.group_centres_px)} patches "
            f"on {self.backend or 'nothing'})"
        )


EpochCallback = Callable[[EpochRecord], None]


@runtime_checkable
class Backend(Protocol):
    """One framework's way of doing the six things this library does, and the four that parity compares."""

    name: str
    """What `get_backend` knows it by."""
    export_formats: frozenset[str]
    """Formats that `export` writes."""

    # --- config

    def complete_config(
        self, config: TrainingConfig, data: "Scan | GroupedData", execution: ExecutionConfig | None = None
    ) -> TrainingConfig:
        """A validated copy of `config` with `N` and `backend` filled in.

        Raises `ConfigError` for what is invalid or not possible on this framework. `params.cfg` is
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
        """What this framework trains on (a DataModule, a `tf.data.Dataset`), gathered batch by batch."""
        ...

    # --- train

    def train(
        self,
        data: "Scan | GroupedData",
        config: TrainingConfig,
        *,
        execution: ExecutionConfig | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        resume_from: "str | os.PathLike[str] | TrainedModel | None" = None,
        on_epoch: EpochCallback | None = None,
    ) -> TrainedModel:
        """Train a model, or go on training `resume_from` until `config.nepochs` epochs are done.

        Ctrl-C ends training after the current step; what was learned is returned, marked as
        `interrupted`, and can be resumed. With `output_dir`, checkpoints and logs are written there.
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
        """The model's three outputs for every group, the predicted diffraction among them, for checking."""
        ...

    def infer(
        self,
        model: TrainedModel,
        data: "Scan | GroupedData",
        *,
        execution: ExecutionConfig | None = None,
        stitching_size: int = ...,
    ) -> Reconstruction:
        """Object patches of every group, computed in batches, and the image stitched from them."""
        ...

    # --- persist

    def save(self, model: TrainedModel, path: str | os.PathLike[str]) -> Path:
        """Write the shared archive (`wts.h5.zip`), atomically; a folder means the file in it."""
        ...

    def load(self, path: str | os.PathLike[str]) -> TrainedModel:
        """Read an archive, whichever backend wrote it."""
        ...

    # --- export

    def export(self, model: TrainedModel, path: str | os.PathLike[str], format: str) -> Path:
        """Write `model` in one of `export_formats`; `ValueError` for another."""
        ...

    # --- what parity compares, NumPy in and out, in the precision of `execution`

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
