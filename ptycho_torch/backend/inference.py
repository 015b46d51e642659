"""Predictions in batches, and the small operations that parity compares."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.images import stitching
from ptycho_backends.images.reconstruct import reconstruct
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.training.prefetch import DEFAULT_PREFETCH, ahead
from ptycho_backends.values import Batch, Prediction, Reconstruction, TrainedModel, Weights
from ptycho_torch.backend import network, process_group
from ptycho_torch.backend.arrays import channels_last, tensors_from_batch, weights_from_tensors
from ptycho_torch.backend.device import autocast, compute_dtype, computing, device
from ptycho_torch.backend.model import PtychoModel, adam

# Groups that are predicted at once unless the caller says otherwise; larger ones only cost memory.
DEFAULT_BATCH = 32


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
        with autocast(self.execution, self.where):
            fed = batch.intensity_scale * tensors["diffraction"]
            _, image, amplitude = self.model(fed, tensors["offsets"])
        predicted = channels_last(amplitude)
        return Prediction(
            object=image.cpu().numpy()[..., None], amplitude=predicted, intensity=np.square(predicted)
        )

    @torch.inference_mode()
    def object(self, batch: Batch) -> NDArray:
        tensors = self.tensors(batch)
        with autocast(self.execution, self.where):
            fed = batch.intensity_scale * tensors["diffraction"]
            return self.model.object(fed, tensors["offsets"]).cpu().numpy()[..., None]

    def loss(
        self, config: TrainingConfig, batch: Batch, statistics: network.Statistics
    ) -> dict[str, torch.Tensor]:
        with autocast(self.execution, self.where):
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
            for name, parameter in runner.model.tensors.items()
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
            runner.model.update_running_statistics(statistics)
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
    team = process_group.process_group_of(execution)
    with process_group.working_together(team, _infer_share, model, groups, execution, stitching_size):
        return _infer_share(team, model, groups, execution, stitching_size)


def _infer_share(
    team: process_group.ProcessGroup,
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
    team = process_group.process_group_of(execution)
    with process_group.working_together(team, _stitch_share, stitcher, model, groups, execution):
        _stitch_share(team, stitcher, model, groups, execution)


def _stitch_share(
    team: process_group.ProcessGroup,
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
