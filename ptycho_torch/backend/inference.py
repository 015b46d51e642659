"""Predictions in batches, and the small operations that parity compares."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.images import stitching
from ptycho_backends.images.reconstruct import reconstruct, trust_in_patches, wants_phase_agreement
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.training.canvas import with_room_for
from ptycho_backends.training.prediction import concatenated, prediction_batches, stitch_predicted
from ptycho_backends.values import Batch, Prediction, Reconstruction, TrainedModel, Weights
from ptycho_torch.backend import network, process_group
from ptycho_torch.backend.arrays import (
    TensorBatch,
    channels_last,
    in_precision,
    tensors_from_batch,
    weights_from_tensors,
)
from ptycho_torch.backend.device import array_later, autocast, compute_dtype, computing, device, on_device
from ptycho_torch.backend.model import PtychoModel, adam


class _Runner:
    """A model on its device, fed with `Batch`es."""

    def __init__(self, config: ModelConfig, weights: Weights, execution: ExecutionConfig) -> None:
        self.dtype = compute_dtype(execution)
        self.where = device(execution)
        self.execution = execution
        model = PtychoModel(config, weights, self.dtype, compiled=execution.compile_network)
        self.model = model.to(self.where)

    def tensors(self, batch: Batch) -> TensorBatch:
        there = {name: on_device(tensor, self.where) for name, tensor in tensors_from_batch(batch).items()}
        return in_precision(there, self.dtype)

    @torch.inference_mode()
    def predict(self, batch: Batch) -> Prediction:
        tensors = self.tensors(batch)
        with autocast(self.execution, self.where):
            fed = batch.intensity_scale * tensors["diffraction"]
            _, image, amplitude = self.model(fed, tensors["offsets"], None, *self._of_unrolled(tensors))
        predicted = channels_last(amplitude)
        return Prediction(
            object=image.cpu().numpy()[..., None], amplitude=predicted, intensity=np.square(predicted)
        )

    @torch.inference_mode()
    def object(self, batch: Batch) -> Callable[[], NDArray]:
        tensors = self.tensors(batch)
        with autocast(self.execution, self.where):
            fed = batch.intensity_scale * tensors["diffraction"]
            image = self.model.object(fed, tensors["offsets"], *self._of_unrolled(tensors))
        return array_later(image[..., None])

    @staticmethod
    def _of_unrolled(tensors: TensorBatch) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        return tensors.get("probe_index"), tensors.get("valid_pixels")

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
    batches = prediction_batches(model, groups, execution, range(len(groups)))
    with computing(execution):
        return concatenated([runner.predict(batch) for _, batch in batches])


def object_patches(
    model: TrainedModel, groups: GroupedData, execution: ExecutionConfig
) -> Iterator[tuple[slice, NDArray[np.complex64]]]:
    """Object patches (b, N, N, 1) of every group, batch by batch, with the slice of their groups."""
    return _object_patches(model, groups, execution, range(len(groups)))


def _object_patches(
    model: TrainedModel, groups: GroupedData, execution: ExecutionConfig, shard: range
) -> Iterator[tuple[slice, NDArray[np.complex64]]]:
    runner = _Runner(model.config.model, model.weights, execution)
    # a GPU computes the next batch while the caller has this one
    ahead = 0 if runner.where.type == "cpu" else 1
    under_way: deque[tuple[slice, Callable[[], NDArray]]] = deque()
    for part, batch in prediction_batches(model, groups, execution, shard):
        with computing(execution):
            under_way.append((part, runner.object(batch)))
        # outside of `computing`, because the caller goes on here
        if len(under_way) > ahead:
            done, patches = under_way.popleft()
            yield done, patches()
    for done, patches in under_way:
        yield done, patches()


def infer(
    model: TrainedModel,
    groups: GroupedData,
    execution: ExecutionConfig,
    stitching_size: int,
    agree_on_phase: bool = False,
) -> Reconstruction:
    """The image, stitched from object patches that are computed in batches.

    Each of several processes stitches its shard of the groups; the result has no patches then.
    """
    # before any process is started
    stitching.require_size(stitching_size, model.config.model.N)
    processes = process_group.process_group_of(execution)
    work = (model, groups, execution, stitching_size, agree_on_phase)
    with process_group.working_together(processes, _infer_shard, *work):
        return _infer_shard(processes, *work)


def _infer_shard(
    processes: process_group.ProcessGroup,
    model: TrainedModel,
    groups: GroupedData,
    execution: ExecutionConfig,
    stitching_size: int,
    agree_on_phase: bool,
) -> Reconstruction:
    """The work of each process, which has the whole image afterwards."""
    patches = _object_patches(model, groups, execution, processes.shard(len(groups)))
    add_up = processes.add_up if processes.size > 1 else None
    return reconstruct(
        patches,
        groups,
        model.config.model.N,
        stitching_size,
        "torch",
        add_up,
        agree_on_phase=agree_on_phase,
        patch_weights=trust_in_patches(model, stitching_size),
    )


def stitch_together(
    stitcher: stitching.Stitcher, model: TrainedModel, groups: GroupedData, execution: ExecutionConfig
) -> None:
    """Predict and stitch every group, a shard of them in each process that `execution` asks for."""
    model = with_room_for(model, groups)
    processes = process_group.process_group_of(execution)
    with process_group.working_together(processes, _stitch_shard, stitcher, model, groups, execution):
        _stitch_shard(processes, stitcher, model, groups, execution)


def _stitch_shard(
    processes: process_group.ProcessGroup,
    stitcher: stitching.Stitcher,
    model: TrainedModel,
    groups: GroupedData,
    execution: ExecutionConfig,
) -> None:
    """The work of each process, which has the sums of all of them afterwards."""
    patches = _object_patches(model, groups, execution, processes.shard(len(groups)))
    agree = wants_phase_agreement(model.config.model)
    stitch_predicted(stitcher, patches, groups, processes.add_up, agree_on_phase=agree)
