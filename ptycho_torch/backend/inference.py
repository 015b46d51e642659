"""Predictions in batches, and the small operations that parity compares."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.constants import ENCODER_FILTERS, UNET_FILTERS
from ptycho_backends.images import stitching
from ptycho_backends.images.reconstruct import reconstruct, trust_in_patches, wants_phase_agreement
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.training.canvas import with_room_for
from ptycho_backends.training.prediction import (
    DEFAULT_BATCH,
    concatenated,
    prediction_batches,
    stitch_predicted,
)
from ptycho_backends.values import Batch, Prediction, Reconstruction, TrainedModel, Weights
from ptycho_torch.backend import network, process_group
from ptycho_torch.backend.arrays import (
    TensorBatch,
    in_precision,
    tensors_from_batch,
    weights_from_tensors,
)
from ptycho_torch.backend.device import array_later, autocast, compute_dtype, computing, device, on_device
from ptycho_torch.backend.model import PtychoModel, adam

Result = TypeVar("Result")

# Patterns of 64 x 64 pixels that a GPU predicts at once by default: its cores are many, its launches slow.
GPU_PATTERNS = 256

# Bytes that the widest features of a batch may have on the processor: of two such arrays all memory is used again.
HOST_FEATURES = 2**24


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
    def predict(self, batch: Batch) -> Callable[[], Prediction]:
        tensors = self.tensors(batch)
        with autocast(self.execution, self.where):
            fed = batch.intensity_scale * tensors["diffraction"]
            _, image, amplitude = self.model(fed, tensors["offsets"], None, *self._of_unrolled(tensors))
        object_later, amplitude_later = array_later(image[..., None]), array_later(amplitude)

        def prediction() -> Prediction:
            predicted = np.moveaxis(amplitude_later(), 1, -1)
            return Prediction(object=object_later(), amplitude=predicted, intensity=np.square(predicted))

        return prediction

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
        return _Runner(config, weights, execution).predict(batch)()


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
    return concatenated(
        [part for _, part in _in_batches(runner, runner.predict, model, groups, range(len(groups)))]
    )


def object_patches(
    model: TrainedModel, groups: GroupedData, execution: ExecutionConfig
) -> Iterator[tuple[slice, NDArray[np.complex64]]]:
    """Object patches (b, N, N, 1) of every group, batch by batch, with the slice of their groups."""
    return _object_patches(model, groups, execution, range(len(groups)))


def _object_patches(
    model: TrainedModel, groups: GroupedData, execution: ExecutionConfig, shard: range
) -> Iterator[tuple[slice, NDArray[np.complex64]]]:
    runner = _Runner(model.config.model, model.weights, execution)
    return _in_batches(runner, runner.object, model, groups, shard)


def _in_batches(
    runner: _Runner,
    work: Callable[[Batch], Callable[[], Result]],
    model: TrainedModel,
    groups: GroupedData,
    shard: range,
) -> Iterator[tuple[slice, Result]]:
    """Results of the groups of `shard`, batch by batch, with the slice of their groups."""
    execution = runner.execution
    on_host = runner.where.type == "cpu"
    size = host_batch(model.config.model, execution) if on_host else gpu_batch(model.config.model)
    if on_host:
        _keep_freed_memory()
    # a GPU computes the next batch while the caller has this one
    ahead = 0 if on_host else 1
    under_way: deque[tuple[slice, Callable[[], Result]]] = deque()
    for part, batch in prediction_batches(model, groups, execution, shard, default=size):
        with computing(execution):
            under_way.append((part, work(batch)))
        # outside of `computing`, because the caller goes on here
        if len(under_way) > ahead:
            done, result = under_way.popleft()
            yield done, result()
    for done, result in under_way:
        yield done, result()


def host_batch(config: ModelConfig, execution: ExecutionConfig) -> int:
    """Groups that the processor predicts at once by default: as many features, whatever the network's width."""
    filters = UNET_FILTERS if config.architecture == "unrolled" else ENCODER_FILTERS[config.N]
    features = filters[0] * config.n_filters_scale * config.N**2 * compute_dtype(execution).itemsize
    return min(DEFAULT_BATCH, max(1, HOST_FEATURES // features))


def _keep_freed_memory() -> None:
    """Have glibc keep the memory of a batch for the next one, and not return it to the system page by page.

    Freed memory beyond a limit is returned, and glibc raises that limit whenever a large piece is freed: to twice the
    piece, of 32 MiB at most. This is such a piece, of which nothing is ever touched. Elsewhere it changes nothing.
    """
    torch.empty(2 * HOST_FEATURES - 2**14, dtype=torch.uint8, device="cpu")


def gpu_batch(config: ModelConfig) -> int:
    """Groups that a GPU predicts at once by default: as many pixels, whatever a group has."""
    return max(DEFAULT_BATCH, GPU_PATTERNS * 64**2 // (config.group_size * config.N**2))


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
