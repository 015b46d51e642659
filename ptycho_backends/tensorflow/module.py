"""The module that trains a `PtychoModel` with Adam."""

import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.reference.initial_weights import (
    weight_dtype,
)
from ptycho_backends.tensorflow import network, process_group
from ptycho_backends.tensorflow.arrays import (
    TensorBatch,
    batch_signature,
)
from ptycho_backends.tensorflow.model import CLIPPING_FLOOR, Adam, PtychoModel, counter
from ptycho_backends.training.plan import TrainingPlan, needs_truth
from ptycho_backends.training.schedule import parts_of_weights, schedule_of
from ptycho_backends.values import EpochRecord, TrainedModel, TrainingState


class PtychoModule:
    """Trains a `PtychoModel` as a `TrainingPlan` says; keeps the history and the schedule.

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
        state = start.training_state
        self.model = PtychoModel(config.model, start.weights, dtype, network_dtype)
        self.config = config
        self.intensity_scale = start.intensity_scale
        self.schedule = schedule_of(plan.start, execution)
        self.history: list[EpochRecord] = list(start.history)
        self.epochs_done = plan.epochs_done
        self.batches_done = 0
        self._accum_steps = execution.accum_steps
        self._largest_norm = execution.gradient_clip_val
        self._trainable = self.model.trainable(config)
        self._parts = parts_of_weights(self._trainable)
        trained = {name: self.model.variables_by_name[name] for name in self._trainable}
        self._optimizer = Adam(trained, state)
        self._gathered: dict[str, tf.Variable] = {}
        if self._accum_steps > 1:
            self._gathered = {name: counter(tf.zeros_like(value)) for name, value in trained.items()}
        self._batches_gathered = 0
        # summed where it is, so that no step waits for the device
        self._loss_sum = counter(0.0, tf.float64)
        self._groups = 0
        self._epoch_started = time.perf_counter()
        if state is not None:
            self.batches_done = state.batches_done
            self._loss_sum.assign(state.loss_sum)
        several_processes = process_group.process_group_of(execution).size > 1
        self._signature = batch_signature(
            config.model, with_truth=needs_truth(config), part=several_processes
        )
        self._compiled_loss = self._compiled(self._loss, self._signature)
        self._rates: dict[str, tf.Tensor] = {}
        self._moving: list[str] = []
        self._set_rates()

    def _set_rates(self) -> None:
        """The epoch's learning rate of each part that moves in it, and the steps compiled for these."""
        rates = self.schedule.rates
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
        """`function` on every replica; their results are the same."""
        if self._strategy.num_replicas_in_sync == 1:
            return tf.function(function, input_signature=signature)

        def first(*arguments: Any) -> Any:
            results = self._strategy.run(function, arguments)
            return None if results is None else self._strategy.experimental_local_results(results)[0]

        return tf.function(first, input_signature=signature)

    # --- steps

    def training_step(self, batch: TensorBatch, *, last_of_epoch: bool) -> tf.Tensor:
        """Train on `batch`; the optimiser steps after every `accum_steps` batches and after the last one."""
        if self._accum_steps == 1:
            total = self._compiled_step(batch, self._rates)
        else:
            total = self._compiled_gather(batch)
            self._batches_gathered += 1
            if last_of_epoch or self._batches_gathered == self._accum_steps:
                self._compiled_apply(self._rates)
                self._batches_gathered = 0
        self._groups += int(process_group.groups_of(batch))
        # a batch for each replica
        self.batches_done += self._strategy.num_replicas_in_sync
        return total

    @property
    def between_steps(self) -> bool:
        """Whether no gradient waits for the optimiser, so that training can be resumed from here."""
        return self._batches_gathered == 0

    def validation_loss(self, batch: TensorBatch) -> tf.Tensor:
        """Total loss of `batch`, float64."""
        return self._compiled_loss(batch)

    def _loss(self, batch: TensorBatch) -> tf.Tensor:
        part, share = process_group.own_part(batch)
        loss = tf.cast(self.model.loss_terms(self.config, part, self.intensity_scale)["total"], tf.float64)
        return loss if share is None else process_group.summed(loss * share)

    def _gradients(self, batch: TensorBatch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        part, share = process_group.own_part(batch)
        statistics: network.Statistics = {} if share is None else network.SharedStatistics(share)
        total, gradients = self.model.loss_and_gradients(
            self.config, part, self.intensity_scale, self._moving, statistics
        )
        self.model.update_running_statistics(statistics)
        groups = tf.cast(process_group.groups_of(batch), tf.float64)
        self._loss_sum.assign_add(tf.cast(total, tf.float64) * groups)
        return total, gradients

    def _step(self, batch: TensorBatch, rates: dict[str, tf.Tensor]) -> tf.Tensor:
        total, gradients = self._gradients(batch)
        self._apply(gradients, rates)
        return total

    def _apply(self, gradients: dict[str, tf.Tensor], rates: dict[str, tf.Tensor]) -> None:
        self._optimizer.apply(
            self._clipped(gradients), {name: rates[self._parts[name]] for name in gradients}
        )

    def _gather(self, batch: TensorBatch) -> tf.Tensor:
        total, gradients = self._gradients(batch)
        for name, gradient in gradients.items():
            self._gathered[name].assign_add(gradient / self._accum_steps)
        return total

    def _apply_gathered(self, rates: dict[str, tf.Tensor]) -> None:
        self._apply({name: tf.identity(self._gathered[name]) for name in self._moving}, rates)
        for variable in self._gathered.values():
            variable.assign(tf.zeros_like(variable))

    def _clipped(self, gradients: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """`gradients` shortened together to `gradient_clip_val`, as torch's `clip_grad_norm_` does."""
        if self._largest_norm is None:
            return gradients
        norm = tf.linalg.global_norm(list(gradients.values()))
        share = tf.minimum(self._largest_norm / (norm + CLIPPING_FLOOR), 1.0)
        return {name: gradient * share for name, gradient in gradients.items()}

    # --- epochs

    def start_epoch(self) -> None:
        """Begin an epoch, or go on with the one in which training was interrupted."""
        self._set_rates()
        self._epoch_started = time.perf_counter()
        self._groups = self.batches_done * self.config.batch_size
        if self.batches_done == 0:
            self._loss_sum.assign(0.0)

    def finish_epoch(self, val_loss: float | None) -> EpochRecord:
        """Write the epoch into the history."""
        train_loss = float(self._loss_sum.numpy()) / self._groups
        record = EpochRecord(
            epoch=self.epochs_done + 1,
            train_loss=train_loss,
            val_loss=val_loss,
            learning_rate=self.schedule.learning_rate,
            seconds=time.perf_counter() - self._epoch_started,
        )
        self.history.append(record)
        self.epochs_done, self.batches_done = record.epoch, 0
        self.schedule.finish_epoch(train_loss if val_loss is None else val_loss)
        return record

    # --- state

    def trained_model(self, *, interrupted: bool = False) -> TrainedModel:
        """What was learned so far, in neutral form, with what resuming needs."""
        return TrainedModel(
            config=self.config,
            weights={name: value.astype(weight_dtype(name)) for name, value in self.model.weights().items()},
            intensity_scale=self.intensity_scale,
            history=tuple(self.history),
            backend="tensorflow",
            interrupted=interrupted,
            training_state=TrainingState(
                step=self._optimizer.steps_done,
                epoch=self.epochs_done,
                batches_done=self.batches_done,
                loss_sum=float(self._loss_sum.numpy()) if self.batches_done else 0.0,
                first_moments=self._optimizer.first_moments,
                second_moments=self._optimizer.second_moments,
                schedule=self.schedule.state(),
            ),
        )
