"""Groups to tensors, batch by batch: patterns are gathered from the scan when a step needs them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.tensorflow.arrays import SHARD_SIZES, arrays_from_batch, batch_signature
from ptycho_backends.tensorflow.process_group import process_group_of
from ptycho_backends.training.plan import TrainingPlan, needs_truth
from ptycho_backends.training.prefetch import DEFAULT_PREFETCH
from ptycho_backends.training.synthetic_canvases import CanvasGroups


class PtychoData:
    """Training and validation batches of a `TrainingPlan`, as `tf.data.Dataset`s of `TensorBatch`.

    For several processes, the shards of this one; never empty, because each takes part in every step.

    A thread of TensorFlow's own gathers `prefetch_factor` batches ahead. The settings of torch's worker
    processes (`num_workers`, `persistent_workers`, `pin_memory`) have no effect here.
    """

    def __init__(self, plan: TrainingPlan, execution: ExecutionConfig) -> None:
        self.plan = plan
        self._processes = process_group_of(execution)
        self._devices = self._processes.size * execution.devices
        self._ahead = execution.prefetch_factor or DEFAULT_PREFETCH

    def training_batches(self, epoch: int, skipped: int = 0) -> tf.data.Dataset:
        """The batches of `epoch` (counted from 1) in the order that the seed gives them on every backend.

        The first `skipped` are left out: those that have trained before an interrupt.
        """
        return self._dataset(self.plan.epoch_batches(epoch)[skipped:], epoch)

    def validation_batches(self) -> tf.data.Dataset:
        """The batches of the validation set; none where there are too few groups to hold any out."""
        return self._dataset(self.plan.validation_batches(), epoch=0)

    def _dataset(self, batches: list[NDArray], epoch: int) -> tf.data.Dataset:
        # a batch for each device at a time
        steps = [
            np.concatenate(batches[first : first + self._devices])
            for first in range(0, len(batches), self._devices)
        ]

        several = self._processes.size > 1

        def gathered() -> Iterator[dict[str, Any]]:
            for indices in steps:
                own = self._processes.shard(len(indices))
                first = min(own.start, len(indices) - 1)
                arrays: dict[str, Any] = arrays_from_batch(
                    self.plan.gather(indices[first : max(own.stop, first + 1)], epoch)
                )
                yield arrays | {SHARD_SIZES: (len(own), len(indices))} if several else arrays

        signature = batch_signature(
            self.plan.config.model,
            with_truth=needs_truth(self.plan.config),
            masked=self.plan.groups.is_masked,
            sharded=several,
            parts=isinstance(self.plan.groups, CanvasGroups),
        )
        dataset = tf.data.Dataset.from_generator(gathered, output_signature=signature)
        return dataset.apply(tf.data.experimental.assert_cardinality(len(steps))).prefetch(self._ahead)
