"""Predictions in batches, and the small operations that parity compares."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.images import stitching
from ptycho_backends.images.reconstruct import reconstruct, trust_in_patches, wants_phase_agreement
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.tensorflow import network, process_group
from ptycho_backends.tensorflow.adam import Adam
from ptycho_backends.tensorflow.arrays import (
    TensorBatch,
    batch_signature,
    channels_last,
    in_precision,
    tensors_from_batch,
    weights_from_tensors,
)
from ptycho_backends.tensorflow.compiling import Kept, compiled
from ptycho_backends.tensorflow.device import (
    compute_dtype,
    computing,
    device,
    device_kind,
    network_dtype,
)
from ptycho_backends.tensorflow.model import PtychoModel
from ptycho_backends.training.canvas import with_room_for
from ptycho_backends.training.prediction import concatenated, prediction_batches, stitch_predicted
from ptycho_backends.training.trainable import trained_weights
from ptycho_backends.values import Batch, Prediction, Reconstruction, TrainedModel, Weights


class _Runner:
    """A model on its device, fed with `Batch`es; made and used while `computing`.

    Compiling is worth its second where many batches come; one is done sooner without.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        execution: ExecutionConfig,
        *,
        as_graph: bool = False,
        masked: bool = False,
    ) -> None:
        self.dtype = compute_dtype(execution)
        self.model = PtychoModel(config, weights, self.dtype, network_dtype(execution))
        self._masked = masked and config.architecture == "unrolled"
        self._outputs, self._object = self._outputs_of, self._object_of
        if as_graph:
            signature = [
                batch_signature(config, with_truth=False, masked=self._masked),
                tf.TensorSpec((), self.dtype),
            ]
            self._outputs = compiled(self._outputs_of, *signature)
            self._object = compiled(process_group.everywhere(self._object_of), *signature)

    def _outputs_of(self, batch: TensorBatch, scale: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        tensors = in_precision(batch, self.dtype)
        fed = scale * tensors["diffraction"]
        _, image, amplitude = self.model(fed, tensors["offsets"], None, *self._of_unrolled(tensors))
        return image, amplitude

    def _object_of(self, batch: TensorBatch, scale: tf.Tensor) -> tf.Tensor:
        part, _ = process_group.own_part(batch)
        tensors = in_precision(part, self.dtype)
        fed = scale * tensors["diffraction"]
        return self.model.object(fed, tensors["offsets"], *self._of_unrolled(tensors))

    @staticmethod
    def _of_unrolled(tensors: TensorBatch) -> tuple[tf.Tensor | None, tf.Tensor | None]:
        return tensors.get("probe_index"), tensors.get("valid_pixels")

    def _inputs(self, batch: Batch) -> tuple[TensorBatch, tf.Tensor]:
        tensors = tensors_from_batch(batch)
        inputs = {name: tensors[name] for name in ("diffraction", "offsets")}
        if self.model.config.n_probes > 1:
            inputs["probe_index"] = tensors.get("probe_index", tf.zeros(len(batch), tf.int32))
        if self._masked:
            inputs["valid_pixels"] = tensors["valid_pixels"]
        return inputs, tf.constant(batch.intensity_scale, self.dtype)

    def predict(self, batch: Batch) -> Prediction:
        image, predicted = self._outputs(*self._inputs(batch))
        amplitude = channels_last(predicted)
        return Prediction(
            object=image.numpy()[..., None], amplitude=amplitude, intensity=np.square(amplitude)
        )

    def object(self, batch: Batch) -> NDArray:
        results = self._object(*self._inputs(batch))
        if isinstance(results, tuple):
            # a replica without a group of its own has predicted one that does not count
            counts = [last - first for first, last in process_group.all_bounds(len(batch), len(results))]
            results = tf.concat([one[:count] for one, count in zip(results, counts, strict=True)], axis=0)
        return results.numpy()[..., None]

    def gradients(
        self, config: TrainingConfig, batch: Batch, names: list[str], statistics: network.Statistics
    ) -> dict[str, tf.Tensor]:
        tensors = tensors_from_batch(batch)
        return self.model.loss_and_gradients(config, tensors, batch.intensity_scale, names, statistics)[1]


def forward(config: ModelConfig, weights: Weights, batch: Batch, execution: ExecutionConfig) -> Prediction:
    """The three outputs for one batch."""
    with computing(execution):
        return _Runner(config, weights, execution, masked=batch.valid_pixels is not None).predict(batch)


def loss(
    config: TrainingConfig, weights: Weights, batch: Batch, execution: ExecutionConfig
) -> dict[str, float]:
    """Every term of the loss, and `total`."""
    with computing(execution):
        model = _Runner(config.model, weights, execution).model
        terms = model.loss_terms(config, tensors_from_batch(batch), batch.intensity_scale, {})
    return {name: float(value) for name, value in terms.items()}


def gradients(
    config: TrainingConfig, weights: Weights, batch: Batch, execution: ExecutionConfig
) -> dict[str, NDArray]:
    """Gradient of the total loss with respect to every weight; zero where it does not enter."""
    with computing(execution):
        runner = _Runner(config.model, weights, execution)
        return weights_from_tensors(runner.gradients(config, batch, list(weights), {}))


def train_step(
    config: TrainingConfig, weights: Weights, batches: Sequence[Batch], execution: ExecutionConfig
) -> dict[str, NDArray]:
    """The weights after one Adam step on each batch in turn, from fresh moments."""
    with computing(execution):
        runner = _Runner(config.model, weights, execution)
        names = trained_weights(runner.model.tensors, config)
        optimizer = Adam({"all": {name: runner.model.tensors[name] for name in names}})
        for batch in batches:
            statistics: network.Statistics = {}
            gradients = runner.gradients(config, batch, names, statistics)
            optimizer.apply(optimizer.flattened(gradients), {"all": execution.learning_rate})
            runner.model.update_running_statistics(statistics)
        return runner.model.weights()


RUNNERS: Kept[_Runner] = Kept(2)
"""Those that ran last; another model of the same configuration traces nothing anew."""


@contextlib.contextmanager
def _runner(
    model: TrainedModel, groups: GroupedData, execution: ExecutionConfig, *, distributed: bool = False
) -> Iterator[_Runner]:
    """A runner of `model` with graphs; on one device that of the last model of its configuration."""
    config = model.config.model
    if distributed:
        with computing(execution), process_group.own_strategy_of(execution, device_kind(execution)).scope():
            runner = _Runner(config, model.weights, execution, as_graph=True, masked=groups.is_masked)
        yield runner
        return
    key = repr(config), execution.precision, device(execution), groups.is_masked
    kept = RUNNERS.take(key)
    with computing(execution):
        if kept is None:
            runner = _Runner(config, model.weights, execution, as_graph=True, masked=groups.is_masked)
        else:
            runner = kept
            runner.model.set_weights(model.weights)
    yield runner
    # not after an error
    RUNNERS.keep(key, runner)


def predict(model: TrainedModel, groups: GroupedData, execution: ExecutionConfig) -> Prediction:
    """The three outputs for every group, computed in batches."""
    with _runner(model, groups, execution) as runner, computing(execution):
        batches = prediction_batches(model, groups, execution, range(len(groups)), execution.devices)
        return concatenated([runner.predict(batch) for _, batch in batches])


def object_patches(
    model: TrainedModel, groups: GroupedData, execution: ExecutionConfig
) -> Iterator[tuple[slice, NDArray[np.complex64]]]:
    """Object patches (b, N, N, 1) of every group, batch by batch, with the slice of their groups."""
    return _object_patches(model, groups, execution, range(len(groups)))


def _object_patches(
    model: TrainedModel, groups: GroupedData, execution: ExecutionConfig, shard: range
) -> Iterator[tuple[slice, NDArray[np.complex64]]]:
    distributed = execution.devices > 1 or process_group.process_group_of(execution).size > 1
    with _runner(model, groups, execution, distributed=distributed) as runner:
        for part, batch in prediction_batches(model, groups, execution, shard, execution.devices):
            with computing(execution):
                patches = runner.object(batch)
            # outside of `computing`, because the caller goes on here
            yield part, patches


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
    processes = process_group.process_group_of(execution)
    patches = _object_patches(model, groups, execution, processes.shard(len(groups)))
    add_up = processes.add_up if processes.size > 1 else None
    return reconstruct(
        patches,
        groups,
        model.config.model.N,
        stitching_size,
        "tensorflow",
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
    patches = _object_patches(model, groups, execution, processes.shard(len(groups)))
    agree = wants_phase_agreement(model.config.model)
    stitch_predicted(stitcher, patches, groups, processes.add_up, agree_on_phase=agree)
