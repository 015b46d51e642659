"""The values that the library trades in: plain, immutable, NumPy inside.

Shapes: B groups, C = gridsize**2 positions in a group, N pixels on the side of a pattern.
Images are `[y, x]`, channels come last, positions are `[x, y]` in object pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import TrainingConfig

REFINEMENT_CHUNK = 64
"""Positions of a refinement that are computed at once on a processor: they and their waves stay in its cache."""

Weights = Mapping[str, NDArray]
"""Canonical names (`initial_weights.weight_shapes`) to arrays, `log_scale` and `probe` among them."""


class Shown:
    """Pictures of a value in a notebook, drawn by `images.notebook`, which is imported when one is asked for."""

    shown_as: ClassVar[str]

    def plot(self, **options: Any) -> Any:
        """The value as a figure of matplotlib, which a notebook displays; `savefig` writes it.

        Of a `Reconstruction`, `scan=` draws the object that the scan knows beside it.
        """
        return import_module(_NOTEBOOK).figure_of(self, **options)

    def _repr_html_(self) -> str:
        text: str = import_module(_NOTEBOOK).html_of(self)
        return text


# by name, because pictures are made on a higher floor
_NOTEBOOK = "ptycho_backends.images.notebook"


@dataclass(frozen=True, eq=False)
class Batch:
    """Input of one optimiser step.

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
    valid_pixels : (B, N, N) bool, [ky, kx], optional
        Pixels that the losses compare; None where all are. Measured amplitudes are 0 at the others.
    probe_index : (B,) int32, optional
        Number of the probe that lit each group, where a model has several (`ModelConfig.n_probes`).
    canvas : (B, N, N) complex64, [y, x], optional
        Parts of refined canvases that 'unrolled' is trained to correct, with the known objects as `object_patches`.
        There are no patterns then: `diffraction_amplitude` is zero.
    light : (B, N, N) float32, [y, x], optional
        Relative illumination of `canvas`.
    """

    diffraction_amplitude: NDArray[np.float32]
    relative_offsets_px: NDArray[np.float32]
    intensity_scale: float
    object_patches: NDArray[np.complex64] | None = None
    object_at_centre: NDArray[np.complex64] | None = None
    valid_pixels: NDArray[np.bool_] | None = None
    probe_index: NDArray[np.int32] | None = None
    canvas: NDArray[np.complex64] | None = None
    light: NDArray[np.float32] | None = None

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
    """Resume state beside the weights; the same whichever framework trained.

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
    """State of `ptycho_backends.training.schedule`: plain numbers and strings."""


@dataclass(frozen=True, eq=False)
class TrainedModel(Shown):
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
        Name of the backend that trained it.
    interrupted : bool
        True where the user stopped training before its last epoch.
    training_state : TrainingState, optional
        For resuming.
    """

    shown_as = "model"

    config: TrainingConfig
    weights: Weights
    intensity_scale: float
    history: Sequence[EpochRecord] = ()
    backend: str = ""
    interrupted: bool = False
    training_state: TrainingState | None = None

    @property
    def probe(self) -> NDArray[np.complex64]:
        """(N, N) complex64, `[y, x]`: the main mode of the first probe."""
        probe = self.weights["probe"]
        return probe if probe.ndim == 2 else self.probe_modes[0]

    @property
    def probe_modes(self) -> NDArray[np.complex64]:
        """(modes, N, N) complex64, `[y, x]`: the modes of the first probe, as they were trained.

        `reference.probe.orthogonal_modes` makes them orthogonal, with falling powers.
        """
        probe = self.weights["probe"]
        first = probe[0] if probe.ndim == 4 else probe
        return first.reshape(-1, *first.shape[-2:])

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
class Reconstruction(Shown):
    """A stitched image and its sources.

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
    probe_modes : (K, N, N) complex64, [y, x], optional
        Of a refined image: orthogonal probe modes, in roots of counts, the strongest first.
    positions_px, positions_used : (M, 2) float64, (M,) int64, optional
        Of a refined image: positions `[x, y]`, corrected where asked for, and their numbers in the scan.
    passes : sequence of RefinementRecord
        Of a refined image: its history.
    start : Reconstruction, optional
        Of a refined image: the image it was refined from.
    interrupted : bool
        Ctrl-C ended the refinement before its last pass.
    corrected : bool
        Of a refined image: the learned correction of a model is in it.
    """

    shown_as = "image"

    object: NDArray[np.complex64]
    coverage: NDArray[np.float32]
    origin_px: NDArray[np.float64]
    group_centres_px: NDArray[np.float64]
    object_patches: NDArray[np.complex64] | None = None
    backend: str = ""
    pixel_size_m: float | None = None
    timings_s: Mapping[str, float] = field(default_factory=dict)
    probe_modes: NDArray[np.complex64] | None = None
    positions_px: NDArray[np.float64] | None = None
    positions_used: NDArray[np.int64] | None = None
    passes: Sequence["RefinementRecord"] = ()
    start: "Reconstruction | None" = None
    interrupted: bool = False
    corrected: bool = False

    def __repr__(self) -> str:
        height, width = self.object.shape
        return (
            f"Reconstruction({height} x {width} pixels from {len(self.group_centres_px)} patches "
            f"on {self.backend or 'nothing'})"
        )


EpochCallback = Callable[[EpochRecord], bool | None]
"""Called after each epoch. True ends training as Ctrl-C does: the model so far is returned, and can be resumed."""


# --- refinement


@dataclass(frozen=True, eq=False)
class RefinementProblem:
    """Measurement and geometry of a refinement, the same for every backend.

    Attributes
    ----------
    count : int
        Positions, M.
    side : int
        Side of a pattern in pixels, N; even.
    shape : (int, int)
        Rows and columns of the canvas, H and W.
    valid : (N, N) float32, [ky, kx], zero frequency in the corner
        1 for valid pixels, 0 elsewhere.
    classes : (N, N) int64, [ky, kx], zero frequency in the corner, optional
        A class for each pixel, 0 .. `class_count` - 1. Of the pattern `j`, the pixels of class
        `j % class_count` are held out: they only judge. None holds nothing out.
    class_count : int
    likelihood : {'amplitude', 'poisson'}
    gather : callable
        Position numbers (n,) to measured amplitudes (n, N, N) float32, roots of counts, zero frequency in the
        corner, 0 at invalid pixels.
    """

    count: int
    side: int
    shape: tuple[int, int]
    valid: NDArray[np.float32]
    classes: NDArray[np.int64] | None
    class_count: int
    likelihood: str
    gather: Callable[[NDArray[np.int64]], NDArray[np.float32]]

    def chunks(
        self, batch: NDArray[np.int64], size: int = REFINEMENT_CHUNK
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Parts of `batch` of at most `size` positions, with their measured amplitudes."""
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            yield part, self.gather(part)


@dataclass(frozen=True)
class PassSettings:
    """Settings of one pass of a refinement (docs/refinement.md).

    Attributes
    ----------
    damping : float
        Added to the illumination in the metric, over its maximum.
    smoothness : float
        Strength of the smoothness prior over the whole scan.
    step : float
        Length of the object's steps; 1 unless steps have diverged.
    with_probe, with_positions : bool
        Move the probe, and sum up the normal equations of the positions.
    """

    damping: float
    smoothness: float
    step: float = 1.0
    with_probe: bool = False
    with_positions: bool = False


@dataclass(frozen=True, eq=False)
class ChunkSums:
    """Sums over positions that a step of a refinement needs, as arrays of one framework.

    Attributes
    ----------
    residuals : (8,) float64
        As `reference.refinement.residual_sums`.
    numerator : (H, W) complex
        Changes of the exit waves times conj(P), spread on the canvas; of all chunks so far.
    probe_numerator, probe_denominator : (K, N, N) complex, (N, N) real, optional
    position_sums : (n, 5) real, optional
        Normal equations of each position: right-hand sides by x and y, matrix entries xx, xy, yy.
    """

    residuals: Any
    numerator: Any
    probe_numerator: Any = None
    probe_denominator: Any = None
    position_sums: Any = None

    def plus(self, chunk: "ChunkSums") -> "ChunkSums":
        """The sums with those of a further chunk, whose `numerator` holds all chunks already."""
        probe = self.probe_numerator, self.probe_denominator
        if chunk.probe_numerator is not None:
            probe = chunk.probe_numerator, chunk.probe_denominator
            if self.probe_numerator is not None:
                probe = self.probe_numerator + probe[0], self.probe_denominator + probe[1]
        return ChunkSums(self.residuals + chunk.residuals, chunk.numerator, *probe)


@dataclass(frozen=True)
class RefinementRecord:
    """One pass of a refinement."""

    number: int
    """Counted from 1, over all the times that it was resumed."""
    batches: int
    error: float
    """Squared residuals of the amplitudes over their squared sum, each batch before its step."""
    r_factor: float
    """Absolute residuals of the amplitudes over their sum."""
    held_out_error: float | None
    """As `error`, over the held-out pixels; None where there are none."""
    seconds: float


PassCallback = Callable[[RefinementRecord], None]
