"""Groups to tensors, batch by batch: patterns are gathered from the scan when a step needs them."""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.tensorflow.arrays import SHARD_SIZES, TensorBatch, tensors_from_batch
from ptycho_backends.tensorflow.process_group import process_group_of
from ptycho_backends.training.plan import TrainingPlan
from ptycho_backends.training.prefetch import DEFAULT_PREFETCH, ahead


class PtychoData:
    """Training and validation batches of a `TrainingPlan`.

    For several processes, the shards of this one; never empty, because each takes part in every step.

    A thread gathers `prefetch_factor` batches ahead. The settings of torch's worker processes (`num_workers`,
    `persistent_workers`, `pin_memory`) have no effect here.
    """

    def __init__(self, plan: TrainingPlan, execution: ExecutionConfig) -> None:
        self.plan = plan
        self._processes = process_group_of(execution)
        self._devices = self._processes.size * execution.devices
        self._ahead = execution.prefetch_factor or DEFAULT_PREFETCH

    def training_batches(self, epoch: int, skipped: int = 0) -> "_Batches":
        """The batches of `epoch` (counted from 1) in the order that the seed gives them on every backend.

        The first `skipped` are left out: those that have trained before an interrupt.
        """
        return self._batches(self.plan.epoch_batches(epoch)[skipped:], epoch)

    def validation_batches(self) -> "_Batches":
        """The batches of the validation set; none where there are too few groups to hold any out."""
        return self._batches(self.plan.validation_batches(), epoch=0)

    def _batches(self, batches: list[NDArray], epoch: int) -> "_Batches":
        # a batch for each device at a time
        steps = [
            np.concatenate(batches[first : first + self._devices])
            for first in range(0, len(batches), self._devices)
        ]
        return _Batches(steps, lambda indices: self._tensors(indices, epoch), self._ahead)

    def _tensors(self, indices: NDArray, epoch: int) -> TensorBatch:
        """Of the groups `indices`, which are those of all processes."""
        own = self._processes.shard(len(indices))
        first = min(own.start, len(indices) - 1)
        batch = self.plan.gather(indices[first : max(own.stop, first + 1)], epoch)
        with tf.device("/CPU:0"):  # this thread has no other; a step takes them to its device
            tensors = tensors_from_batch(batch)
            if self._processes.size > 1:
                tensors[SHARD_SIZES] = tf.constant((len(own), len(indices)), tf.int32)
        return tensors


class _Batches:
    """The batches of an epoch, gathered anew whenever they are gone through; `len` of them."""

    def __init__(self, steps: list[NDArray], gather: Callable[[NDArray], TensorBatch], count: int) -> None:
        self._steps = steps
        self._gather = gather
        self._ahead = count

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[TensorBatch]:
        return ahead(map(self._gather, self._steps), self._ahead)
