"""Predictions in batches, and the small operations that parity compares."""

import contextlib
import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_backends import stitching
from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.grouping import GroupedData
from ptycho_backends.prefetch import DEFAULT_PREFETCH, ahead
from ptycho_backends.protocol import Batch, Prediction, Reconstruction, TrainedModel, Weights
from ptycho_backends.reconstructing import reconstruct
from ptycho_torch import network, teams
from ptycho_torch.arrays import channels_last, tensors_from_batch, weights_from_tensors
from ptycho_torch.model import PtychoModel, adam

# Groups that are predicted at once unless the caller says otherwise; larger ones only cost memory.
DEFAULT_BATCH = 32


def compute_dtype(execution: ExecutionConfig) -> torch.dtype:
    """float64 for '64-true', else float32 (mixed precision keeps its weights there)."""
    return torch.float64 if execution.precision == "64-true" else torch.float32


def device(execution: ExecutionConfig) -> torch.device:
    """The device that `execution.accelerator` names.

    Raises
    ------
    ConfigError
        If this machine does not have it.
    """
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    wanted = execution.accelerator
    if wanted == "auto":
        # not mps: it has no float64 and few complex operations
        return torch.device("cuda" if has_cuda else "cpu")
    if wanted in ("gpu", "cuda") and has_cuda:
        return torch.device("cuda")
    if wanted in ("gpu", "mps") and has_mps:
        return torch.device("mps")
    if wanted == "cpu":
        return torch.device("cpu")
    raise ConfigError(f"accelerator: got {wanted!r}, but this machine has none; use 'cpu' or 'auto'")


@contextlib.contextmanager
def computing(execution: ExecutionConfig) -> Iterator[None]:
    """Round to TF32's ten bits nowhere, or only in convolutions if `execution` allows it; then as before.

    Never in the physics, where a translation by a fraction of a pixel would be off by 1e-3.
    """
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32, products.allow_tf32 = execution.allow_tf32, False
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before


@contextlib.contextmanager
def _autocast(execution: ExecutionConfig, where: torch.device) -> Iterator[None]:
    kinds = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
    if execution.precision not in kinds:
        yield
        return
    with torch.autocast(where.type, dtype=kinds[execution.precision]):
        yield


class _Runner:
    """A model on its device, fed with `Batch`es."""

    def __init__(self, config: ModelConfig, weights: Weights, execution: ExecutionConfig) -> None:
        self.dtype = compute_dtype(execution)
        self.where = device(execution)
        self.execution = execution
        model = PtychoModel(config, weights, self.dtype, compiled=execution.compile_network)
        self.model = model.to(self.where)

    def tensors(self, batch: Batch) -> dict[str, torch.Tensor]:
        complex_dtype = torch.complex128 if self.dtype == torch.float64 else torch.complex64
        return {
            name: tensor.to(self.where, complex_dtype if tensor.is_complex() else self.dtype)
            for name, tensor in tensors_from_batch(batch).items()
        }

    @torch.inference_mode()
    def predict(self, batch: Batch) -> Prediction:
        tensors = self.tensors(batch)
        with _autocast(self.execution, self.where):
            fed = batch.intensity_scale * tensors["diffraction"]
            _, image, amplitude = self.model(fed, tensors["offsets"])
        predicted = channels_last(amplitude)
        return Prediction(
            object=image.cpu().numpy()[..., None], amplitude=predicted, intensity=np.square(predicted)
        )

    @torch.inference_mode()
    def object(self, batch: Batch) -> NDArray:
        tensors = self.tensors(batch)
        with _autocast(self.execution, self.where):
            fed = batch.intensity_scale * tensors["diffraction"]
            return self.model.object(fed, tensors["offsets"]).cpu().numpy()[..., None]

    def loss(
        self, config: TrainingConfig, batch: Batch, statistics: network.Statistics
    ) -> dict[str, torch.Tensor]:
        with _autocast(self.execution, self.where):
            return self.model.loss_terms(config, self.tensors(batch), batch.intensity_scale, statistics)


def forward(config: ModelConfig, weights: Weights, batch: Batch, execution: ExecutionConfig) -> Prediction:
    """The three outputs for one batch."""
    with computing(execution):
        return _Runner(config, weights, execution).predict(batch)


def loss(
    config: TrainingConfig, weights: Weights, batch: Batch, execution: ExecutionConfig
) -> dict[str, float]:
    """Every term of the loss, and `total`."""
    with computing(execution), torch.no_grad():
        terms = _Runner(config.model, weights, execution).loss(config, batch, {})
    return {name: float(value) for name, value in terms.items()}


def gradients(
    config: TrainingConfig, weights: Weights, batch: Batch, execution: ExecutionConfig
) -> dict[str, NDArray]:
    """Gradient of the total loss with respect to every weight; zero where it does not enter."""
    runner = _Runner(config.model, weights, execution)
    with computing(execution):
        runner.loss(config, batch, {})["total"].backward()
    return weights_from_tensors(
        {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for name, parameter in runner.model.parameters_by_name.items()
        }
    )


def train_step(
    config: TrainingConfig, weights: Weights, batches: Sequence[Batch], execution: ExecutionConfig
) -> dict[str, NDArray]:
    """The weights after one Adam step on each batch in turn, from fresh moments."""
    runner = _Runner(config.model, weights, execution)
    runner.model.freeze(config)
    optimizer = adam(runner.model, execution.learning_rate)
    with computing(execution):
        for batch in batches:
            statistics: network.Statistics = {}
            optimizer.zero_grad()
            runner.loss(config, batch, statistics)["total"].backward()
            optimizer.step()
            runner.model.follow(statistics)
    return runner.model.weights()


def predict(model: TrainedModel, groups: GroupedData, execution: ExecutionConfig) -> Prediction:
    """The three outputs for every group, computed in batches."""
    runner = _Runner(model.config.model, model.weights, execution)
    with computing(execution):
        parts = [runner.predict(batch) for _, batch in _batches(model, groups, execution, range(len(groups)))]
    return Prediction(
        object=np.concatenate([part.object for part in parts]),
        amplitude=np.concatenate([part.amplitude for part in parts]),
        intensity=np.concatenate([part.intensity for part in parts]),
    )


def object_patches(
    model: TrainedModel, groups: GroupedData, execution: ExecutionConfig
) -> Iterator[tuple[slice, NDArray[np.complex64]]]:
    """The network's object (b, N, N, 1) for every group, batch by batch, and which groups these are."""
    return _object_patches(model, groups, execution, range(len(groups)))


def _object_patches(
    model: TrainedModel, groups: GroupedData, execution: ExecutionConfig, which: range
) -> Iterator[tuple[slice, NDArray[np.complex64]]]:
    runner = _Runner(model.config.model, model.weights, execution)
    for part, batch in _batches(model, groups, execution, which):
        with computing(execution):
            patches = runner.object(batch)
        # not while computing: what the caller does meanwhile is its own
        yield part, patches


def infer(
    model: TrainedModel, groups: GroupedData, execution: ExecutionConfig, stitching_size: int
) -> Reconstruction:
    """The image, stitched from object patches that are computed in batches.

    Several processes each stitch their share of the groups; the patches are then kept nowhere.
    """
    # before any process is started
    stitching.require_size(stitching_size, model.config.model.N)
    team = teams.team_of(execution)
    with teams.working_together(team, _infer_share, model, groups, execution, stitching_size):
        return _infer_share(team, model, groups, execution, stitching_size)


def _infer_share(
    team: teams.Team,
    model: TrainedModel,
    groups: GroupedData,
    execution: ExecutionConfig,
    stitching_size: int,
) -> Reconstruction:
    """What every process does; each has the whole image afterwards."""
    patches = _object_patches(model, groups, execution, team.share(len(groups)))
    add_up = team.add_up if team.size > 1 else None
    return reconstruct(patches, groups, model.config.model.N, stitching_size, "torch", add_up)


def stitch_together(
    stitcher: stitching.Stitcher, model: TrainedModel, groups: GroupedData, execution: ExecutionConfig
) -> None:
    """Predict and stitch every group; each process that `execution` asks for does its share of them."""
    team = teams.team_of(execution)
    with teams.working_together(team, _stitch_share, stitcher, model, groups, execution):
        _stitch_share(team, stitcher, model, groups, execution)


def _stitch_share(
    team: teams.Team,
    stitcher: stitching.Stitcher,
    model: TrainedModel,
    groups: GroupedData,
    execution: ExecutionConfig,
) -> None:
    """What every process does; each has the sums of all of them afterwards."""
    for part, patches in _object_patches(model, groups, execution, team.share(len(groups))):
        stitcher.add(patches, groups.group_centres_px[part])
    for sums in stitcher.sums:
        team.add_up(sums)


def _batches(
    model: TrainedModel, groups: GroupedData, execution: ExecutionConfig, which: range
) -> Iterator[tuple[slice, Batch]]:
    """The groups `which` in batches; the next ones are gathered while one is computed."""
    size = execution.inference_batch_size or DEFAULT_BATCH
    slices = [slice(start, min(start + size, which.stop)) for start in range(which.start, which.stop, size)]
    gathered = ((part, groups.batch(part, intensity_scale=model.intensity_scale)) for part in slices)
    return ahead(gathered, execution.prefetch_factor or DEFAULT_PREFETCH)


def load_and_predict(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    output_path: str | os.PathLike[str] | None = None,
    tracking_uri: str | None = None,
) -> Reconstruction:
    """Make an image of a scan with a model that was trained before; needs no MLflow.

    Parameters
    ----------
    model : path or str
        An archive (`wts.h5.zip`, or its folder), a checkpoint (`.ckpt`), or the number of an MLflow run.
    data : path
        The scan, an NPZ file, or the folder with that one file.
    output_path : path, optional
        Where the image is written as NPZ (`ptycho_backends.results.save_reconstruction`).
    tracking_uri : str, optional
        Where MLflow keeps its runs.

    Returns
    -------
    Reconstruction
        Made as the settings in the model file say; `object` is 1 where nothing is known.

    Raises
    ------
    ArchiveError, BackendUnavailableError
        If there is no model.
    ScanError, ShapeError, GroupingError, ConfigError
        If the scan does not fit the model.
    """
    # the interface builds on this module
    from ptycho_torch.api.image import image_from_files

    return image_from_files(model, data, output_path=output_path, tracking_uri=tracking_uri)
