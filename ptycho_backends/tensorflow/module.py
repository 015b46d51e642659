"""The module that trains a `PtychoModel` with Adam."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.tensorflow import network, process_group
from ptycho_backends.tensorflow.adam import Adam, counter
from ptycho_backends.tensorflow.arrays import TensorBatch, batch_signature, shard_sizes
from ptycho_backends.tensorflow.compiling import compiled
from ptycho_backends.tensorflow.model import PtychoModel
from ptycho_backends.training.divergence import StepWatch, seconds_between_looks
from ptycho_backends.training.epochs import EpochCounter
from ptycho_backends.training.plan import TrainingPlan, needs_truth
from ptycho_backends.training.schedule import parts_of_weights
from ptycho_backends.training.synthetic_canvases import CanvasGroups
from ptycho_backends.training.trainable import trained_weights
from ptycho_backends.values import EpochRecord, TrainedModel

# Added to the norm of a gradient before it is clipped, as torch does.
CLIPPING_FLOOR = 1e-6


class PtychoModule(EpochCounter):
    """Trains a `PtychoModel` along a `TrainingPlan`.

    Made within the scope of a distribution strategy it trains on all of its replicas.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        execution: ExecutionConfig,
        dtype: tf.DType = tf.float32,
        network_dtype: tf.DType | None = None,
    ) -> None:
        config, start = plan.config, plan.start
        self._strategy = tf.distribute.get_strategy()
        self.model = PtychoModel(config.model, start.weights, dtype, network_dtype)
        self._accum_steps = execution.accum_steps
        self._largest_norm = execution.gradient_clip_val
        self._trainable = trained_weights(self.model.tensors, config)
        self._parts = parts_of_weights(self._trainable)
        together: dict[str, dict[str, tf.Variable]] = {}
        for name in self._trainable:
            together.setdefault(self._parts[name], {})[name] = self.model.tensors[name]
        self._optimizer = Adam(together)
        self._gathered = self._optimizer.zeros() if self._accum_steps > 1 else {}
        # summed on the device, so that no step waits for it
        self._loss_sum = counter(0.0, tf.float64)
        self._signature = batch_signature(
            config.model,
            with_truth=needs_truth(config),
            masked=plan.groups.is_masked,
            sharded=process_group.process_group_of(execution).size > 1,
            parts=isinstance(plan.groups, CanvasGroups),
        )
        self._compiled_loss = self._compiled(self._loss, self._signature)
        self._moving: list[str] = []
        self.start(plan, execution)

    def start(self, plan: TrainingPlan, execution: ExecutionConfig) -> None:
        """Take the weights, counts and resume state that `plan` starts from; the graphs stay."""
        start, state = plan.start, plan.start.training_state
        self.start_from(start, execution)
        self.model.set_weights(start.weights)
        self._optimizer.restart(state)
        for variable in self._gathered.values():
            variable.assign(tf.zeros_like(variable))
        self._batches_gathered = 0
        self._loss_sum.assign(0.0 if state is None else state.loss_sum)
        self.epoch_batches = plan.batches_an_epoch
        on_processor = not tf.config.list_logical_devices("GPU")
        processes = process_group.process_group_of(execution).size
        self.watch_with(StepWatch(_values, seconds_between_looks(processes, on_processor)))
        self._rates: dict[str, tf.Tensor] = {}
        self._set_rates()

    def _set_rates(self) -> None:
        """Set the next step's learning rate of each part that moves, and compile the steps for these."""
        rates = self.rates
        self._rates = {part: tf.constant(rate, tf.float64) for part, rate in rates.items()}
        moving = [name for name in self._trainable if self._parts[name] in rates]
        if moving == self._moving:
            return
        self._moving = moving
        specs = dict.fromkeys(rates, tf.TensorSpec((), tf.float64))
        # compiled once each, when first used
        self._compiled_step = self._compiled(self._step, self._signature, specs)
        self._compiled_gather = self._compiled(self._gather, self._signature)
        self._compiled_apply = self._compiled(self._apply_gathered, specs)

    def _compiled(self, function: Callable[..., Any], *signature: Any) -> Callable[..., Any]:
        """`function` compiled, on every replica; the result of the first, which is that of all."""
        if self._strategy.num_replicas_in_sync == 1:
            return compiled(function, *signature)

        def first(*arguments: Any) -> Any:
            results = self._strategy.run(function, arguments)
            return tf.nest.map_structure(
                lambda result: self._strategy.experimental_local_results(result)[0], results
            )

        return compiled(first, *signature)

    # --- steps

    def training_step(self, batch: TensorBatch, *, last_of_epoch: bool) -> tf.Tensor:
        """Train on `batch`; the optimiser steps after every `accum_steps` batches and after the last one."""
        if self.between_steps and self.schedule.changes_within_epoch:
            self._set_rates()
        norm = None
        if self._accum_steps == 1:
            total, norm = self._compiled_step(batch, self._rates)
        else:
            total = self._compiled_gather(batch)
            self._batches_gathered += 1
            if last_of_epoch or self._batches_gathered == self._accum_steps:
                norm = self._compiled_apply(self._rates)
                self._batches_gathered = 0
        # a batch for each replica
        self.count_batches(self._strategy.num_replicas_in_sync, int(shard_sizes(batch)[1]))
        self.note("the loss", total)
        if norm is not None:
            self.note("the norm of the gradient", norm)
        return total

    @property
    def between_steps(self) -> bool:
        """True if no gradient waits for the optimiser, so that training can be resumed from here."""
        return self._batches_gathered == 0

    def validation_loss(self, batch: TensorBatch) -> tf.Tensor:
        """Total loss of `batch`, float64."""
        return self._compiled_loss(batch)

    def _loss(self, batch: TensorBatch) -> tf.Tensor:
        part, fraction = process_group.own_part(batch)
        loss = tf.cast(self.model.loss_terms(self.config, part, self.intensity_scale)["total"], tf.float64)
        return loss if fraction is None else process_group.summed(loss * fraction)

    def _gradients(self, batch: TensorBatch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Total loss, and its gradient, a vector for each part that moves."""
        part, fraction = process_group.own_part(batch)
        statistics: network.Statistics = {} if fraction is None else network.SharedStatistics(fraction)
        total, gradients = self.model.loss_and_gradients(
            self.config, part, self.intensity_scale, self._moving, statistics
        )
        self.model.update_running_statistics(statistics)
        groups = tf.cast(shard_sizes(batch)[1], tf.float64)
        self._loss_sum.assign_add(tf.cast(total, tf.float64) * groups)
        return total, self._optimizer.flattened(gradients)

    def _step(self, batch: TensorBatch, rates: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        total, gradients = self._gradients(batch)
        return total, self._apply(gradients, rates)

    def _apply(self, gradients: dict[str, tf.Tensor], rates: dict[str, tf.Tensor]) -> tf.Tensor:
        """Take a step; the norm of the gradient."""
        norm = tf.linalg.global_norm(list(gradients.values()))
        self._optimizer.apply(self._clipped(gradients, norm), rates)
        return norm

    def _gather(self, batch: TensorBatch) -> tf.Tensor:
        total, gradients = self._gradients(batch)
        for part, gradient in gradients.items():
            self._gathered[part].assign_add(gradient / self._accum_steps)
        return total

    def _apply_gathered(self, rates: dict[str, tf.Tensor]) -> tf.Tensor:
        moving = {part: tf.identity(vector) for part, vector in self._gathered.items() if part in rates}
        norm = self._apply(moving, rates)
        for variable in self._gathered.values():
            variable.assign(tf.zeros_like(variable))
        return norm

    def _clipped(self, gradients: dict[str, tf.Tensor], norm: tf.Tensor) -> dict[str, tf.Tensor]:
        """`gradients` shortened together to `gradient_clip_val`, as torch's `clip_grad_norm_` does."""
        if self._largest_norm is None:
            return gradients
        factor = tf.minimum(self._largest_norm / (norm + CLIPPING_FLOOR), 1.0)
        return {part: gradient * factor for part, gradient in gradients.items()}

    # --- epochs

    def start_epoch(self) -> None:
        """Begin an epoch, or continue the one that was interrupted."""
        self._set_rates()
        if self.begin_epoch():
            self._loss_sum.assign(0.0)

    def finish_epoch(self, val_loss: float | None) -> EpochRecord:
        """Write the epoch into the history."""
        return self.end_epoch(float(self._loss_sum.numpy()), val_loss)

    # --- state

    def trained_model(self, *, interrupted: bool = False) -> TrainedModel:
        """The model as it is now, in neutral form, with its resume state."""
        return self.neutral_state(
            backend="tensorflow",
            weights=self.model.weights(),
            step=self._optimizer.steps_done,
            loss_sum=float(self._loss_sum.numpy()),
            moments=(self._optimizer.first_moments, self._optimizer.second_moments),
            interrupted=interrupted,
        )


def _values(scalars: Sequence[tf.Tensor]) -> list[float]:
    """The values of scalars, which are fetched together."""
    return tf.stack([tf.cast(scalar, tf.float64) for scalar in scalars]).numpy().tolist()
