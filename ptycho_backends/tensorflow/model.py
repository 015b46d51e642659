"""The model over its variables, Adam, and the module that trains the one with the other."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.initial_weights import (
    LOG_SCALE,
    PROBE,
    is_running_value,
    layer_channels,
    weight_dtype,
)
from ptycho_backends.preparation import TrainingPlan, needs_truth
from ptycho_backends.protocol import EpochRecord, TrainedModel, TrainingState
from ptycho_backends.reference import constants
from ptycho_backends.schedules import parts_of_weights, schedule_of
from ptycho_backends.tensorflow import losses, network, physics, teams
from ptycho_backends.tensorflow.arrays import (
    TensorBatch,
    batch_signature,
    channels_first,
    in_precision,
    tensors_from_weights,
    weights_from_tensors,
)

# Added to the norm of a gradient before it is clipped, as torch does.
CLIPPING_FLOOR = 1e-6


class PtychoModel(tf.Module):
    """Diffraction amplitudes to object and predicted diffraction.

    Parameters
    ----------
    config : ModelConfig
    weights : mapping of arrays
        Canonical names; `variables_by_name` keeps them, the probe as (N, N, 2) real numbers.
    dtype : tf.DType
        float32 or float64.
    network_dtype : tf.DType, optional
        What the network's 3x3 convolutions are computed in; default `dtype`. What looks over their
        results, attention and batch normalisation, sums many numbers, and so stays in `dtype`.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, NDArray],
        dtype: tf.DType = tf.float32,
        network_dtype: tf.DType | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.network_dtype = dtype if network_dtype is None else network_dtype
        values = tensors_from_weights(weights, dtype)
        self.variables_by_name = {
            name: tf.Variable(value, name=name, aggregation=teams.SAME_EVERYWHERE)
            for name, value in values.items()
        }
        self._convolved = {
            f"{layer}/{kind}" for layer in layer_channels(config) for kind in ("kernel", "bias")
        }

    def __call__(
        self, diffraction_fed: tf.Tensor, offsets: tf.Tensor, statistics: network.Statistics | None = None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Object patches (B, c, N, N), object (B, N, N), diffraction amplitude (B, C, N, N)."""
        patches = self._patches(diffraction_fed, statistics)
        probe = self.variables_by_name[PROBE]
        image, amplitude = physics.predict_diffraction(
            patches,
            offsets,
            tf.complex(probe[..., 0], probe[..., 1]),
            self.variables_by_name[LOG_SCALE],
            self.config,
        )
        return patches, image, amplitude

    def object(self, diffraction_fed: tf.Tensor, offsets: tf.Tensor) -> tf.Tensor:
        """Object (B, N, N) alone, without the diffraction."""
        patches = self._patches(diffraction_fed)
        if not self.config.object_big:
            return patches[:, 0]
        canvas = physics.merge_patches(patches, offsets, self.config.canvas_size)
        return physics.crop_centre(canvas, self.config.N)

    def _patches(self, diffraction_fed: tf.Tensor, statistics: network.Statistics | None = None) -> tf.Tensor:
        weights = {
            name: tf.cast(variable, self.network_dtype) if name in self._convolved else variable
            for name, variable in self.variables_by_name.items()
        }
        return channels_first(network.object_patches(diffraction_fed, weights, self.config, statistics))

    def loss_terms(
        self,
        config: TrainingConfig,
        batch: TensorBatch,
        intensity_scale: float,
        statistics: network.Statistics | None = None,
    ) -> dict[str, tf.Tensor]:
        """Every term of the loss of `batch`, and their weighted sum as `total`.

        `statistics` is given in training: it gets the batch's, for `follow`.
        """
        batch = in_precision(batch, self.dtype)
        measured = intensity_scale * batch["diffraction"]
        patches, image, amplitude = self(measured, batch["offsets"], statistics)
        return losses.loss_terms(
            config,
            patches,
            image,
            amplitude,
            channels_first(measured),
            batch.get("patches_truth"),
            batch.get("object_truth"),
        )

    def loss_and_gradients(
        self,
        config: TrainingConfig,
        batch: TensorBatch,
        intensity_scale: float,
        names: list[str],
        statistics: network.Statistics,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Total loss, and its gradient for each variable of `names`; zero where that does not enter.

        With `SharedStatistics`, `batch` is one replica's part, and these are the whole batch's.
        """
        variables = {name: self.variables_by_name[name] for name in names}
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(variables.values()))
            total = self.loss_terms(config, batch, intensity_scale, statistics)["total"]
            if isinstance(statistics, network.SharedStatistics):
                total = total * tf.cast(statistics.share, total.dtype)
        found = tape.gradient(total, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        if isinstance(statistics, network.SharedStatistics):
            total, found = teams.summed((total, found))
        return total, found

    def follow(self, statistics: network.Statistics) -> None:
        """Move the running values of batch normalisation towards those of a batch that was trained on."""
        for name, value in network.moved_running_values(self.variables_by_name, statistics).items():
            self.variables_by_name[name].assign(value)

    def trainable(self, config: TrainingConfig) -> list[str]:
        """Names of what is trained: no running values, the probe and the scale only if `config` says so."""
        frozen = {name for name in self.variables_by_name if is_running_value(name)}
        if not config.probe_trainable:
            frozen.add(PROBE)
        if not config.intensity_scale_trainable:
            frozen.add(LOG_SCALE)
        return [name for name in self.variables_by_name if name not in frozen]

    def weights(self) -> dict[str, NDArray]:
        """The canonical weights, in the model's precision."""
        return weights_from_tensors(self.variables_by_name)


def _counter(value: object, dtype: tf.DType | None = None) -> tf.Variable:
    """A variable that is not trained."""
    return tf.Variable(value, dtype=dtype, trainable=False, aggregation=teams.SAME_EVERYWHERE)


class Adam(tf.Module):
    """Adam over some of a model's variables, with the constants that every backend shares.

    Algorithm 1 of Kingma and Ba: epsilon is added to the root of the bias-corrected second moment. Keras
    adds it to the root before the correction, so its steps differ from torch's.

    Parameters
    ----------
    variables : mapping of str to tf.Variable
    state : TrainingState, optional
        To go on from.
    """

    def __init__(self, variables: Mapping[str, tf.Variable], state: TrainingState | None = None) -> None:
        super().__init__()
        self._trained = dict(variables)
        self._step = _counter(0 if state is None else state.step, tf.int64)
        self._first = self._moments({} if state is None else state.first_moments)
        self._second = self._moments({} if state is None else state.second_moments)

    def _moments(self, saved: Mapping[str, NDArray]) -> dict[str, tf.Variable]:
        known = {name: saved[name] for name in self._trained if name in saved}
        moments = {name: tf.zeros_like(variable) for name, variable in self._trained.items()}
        for name, value in known.items():
            moments |= tensors_from_weights({name: value}, moments[name].dtype)
        return {name: _counter(value) for name, value in moments.items()}

    def apply(self, gradients: Mapping[str, tf.Tensor], rates: Mapping[str, tf.Tensor | float]) -> None:
        """One step along `gradients`, each variable at its own rate.

        A variable that has no gradient stays as it is, and so do its moments; steps are counted for all.
        """
        step = tf.cast(self._step.assign_add(1), tf.float64)
        # in float64, because 1 - beta2 has only four digits left in float32
        first_correction = 1.0 - tf.pow(tf.constant(constants.ADAM_BETA1, tf.float64), step)
        second_correction = tf.sqrt(1.0 - tf.pow(tf.constant(constants.ADAM_BETA2, tf.float64), step))
        for name, gradient in gradients.items():
            rate = tf.convert_to_tensor(rates[name], tf.float64) / first_correction
            dtype = gradient.dtype
            first, second = self._first[name], self._second[name]
            first.assign_add((gradient - first) * (1.0 - constants.ADAM_BETA1))
            second.assign(constants.ADAM_BETA2 * second + (1.0 - constants.ADAM_BETA2) * tf.square(gradient))
            root = tf.sqrt(second) / tf.cast(second_correction, dtype) + constants.ADAM_EPSILON
            self._trained[name].assign_sub(tf.cast(rate, dtype) * (first / root))

    @property
    def steps_done(self) -> int:
        return int(self._step.numpy())

    @property
    def first_moments(self) -> dict[str, NDArray]:
        return weights_from_tensors(self._first)

    @property
    def second_moments(self) -> dict[str, NDArray]:
        return weights_from_tensors(self._second)


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
            self._gathered = {name: _counter(tf.zeros_like(value)) for name, value in trained.items()}
        self._batches_gathered = 0
        # summed where it is, so that no step waits for the device
        self._loss_sum = _counter(0.0, tf.float64)
        self._groups = 0
        self._epoch_started = time.perf_counter()
        if state is not None:
            self.batches_done = state.batches_done
            self._loss_sum.assign(state.loss_sum)
        several_processes = teams.team_of(execution).size > 1
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
        self._groups += int(teams.groups_of(batch))
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
        part, share = teams.own_part(batch)
        loss = tf.cast(self.model.loss_terms(self.config, part, self.intensity_scale)["total"], tf.float64)
        return loss if share is None else teams.summed(loss * share)

    def _gradients(self, batch: TensorBatch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        part, share = teams.own_part(batch)
        statistics: network.Statistics = {} if share is None else network.SharedStatistics(share)
        total, gradients = self.model.loss_and_gradients(
            self.config, part, self.intensity_scale, self._moving, statistics
        )
        self.model.follow(statistics)
        groups = tf.cast(teams.groups_of(batch), tf.float64)
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
