"""`ToyBackend`: the NumPy reference as a third party's backend, in float64 whatever precision is asked for.

Written from docs/backend.md alone.
"""

import dataclasses
import time

import numpy as np

from ptycho_backends import constants
from ptycho_backends.backend_base import BackendBase
from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.reference import model as reference
from ptycho_backends.reference.initial_weights import is_running_value, weight_dtype
from ptycho_backends.reference.network import moved_running_values
from ptycho_backends.training.schedule import schedule_of
from ptycho_backends.values import EpochRecord, TrainingState
from toy_ptycho.gradients import gradients

UNSUPPORTED = ("devices",)
"""Settings that would change the numbers; not ignored but refused."""


class ToyBackend(BackendBase):
    """All that a third party writes: six methods."""

    name = "toy"

    def check_execution(self, execution):
        default = ExecutionConfig()
        refused = [name for name in UNSUPPORTED if getattr(execution, name) != getattr(default, name)]
        if refused:
            raise ConfigError(f"{', '.join(refused)}: the toy has nothing of the kind; leave the default")

    def forward(self, config, weights, batch, *, execution=None):
        self.checked(execution)
        return reference.predict(config, weights, batch)

    def loss(self, config, weights, batch, *, execution=None):
        self.checked(execution)
        return reference.loss(config, weights, batch)

    def gradients(self, config, weights, batch, *, execution=None):
        self.checked(execution)
        return gradients(config, weights, batch)

    def train_step(self, config, weights, batches, *, execution=None):
        rate = self.checked(execution).learning_rate
        adam = Adam(weights, config)
        for batch in batches:
            adam.train_on(config, [batch], dict.fromkeys(adam.first, rate))
        return adam.weights

    def train_plan(self, plan, execution, output_dir=None, on_epoch=None):
        config, model = plan.config, plan.start
        adam = Adam(model.weights, config, model.training_state)
        schedule = schedule_of(model, execution)
        state = model.training_state
        done, total = (0, 0.0) if state is None else (state.batches_done, state.loss_sum)
        while not schedule.should_stop:
            started, epoch, rate = time.perf_counter(), model.epochs_done + 1, schedule.learning_rate
            numbers = plan.epoch_batches(epoch)
            for first in range(done, len(numbers), execution.accum_steps):
                batches = [
                    plan.gather(part, epoch) for part in numbers[first : first + execution.accum_steps]
                ]
                total += sum(
                    len(batch) * reference.loss(config, adam.weights, batch)["total"] for batch in batches
                )
                rates = schedule.weight_rates(adam.first, first, len(numbers))
                adam.train_on(config, batches, rates, execution.accum_steps, execution.gradient_clip_val)
            held_out = [
                (reference.loss(config, adam.weights, batch, training=False)["total"], len(batch))
                for batch in map(plan.gather, plan.validation_batches())
            ]
            record = EpochRecord(
                epoch,
                total / len(plan.train_indices),
                mean(held_out),
                rate,
                seconds=time.perf_counter() - started,
            )
            done, total = 0, 0.0
            schedule.finish_epoch(record.train_loss if record.val_loss is None else record.val_loss)
            model = dataclasses.replace(
                model,
                weights={name: value.astype(weight_dtype(name)) for name, value in adam.weights.items()},
                history=(*model.history, record),
                backend=self.name,
                training_state=TrainingState(
                    adam.steps, epoch, 0, 0.0, dict(adam.first), dict(adam.second), schedule.state()
                ),
            )
            if on_epoch is not None:
                on_epoch(record)
        return model


def mean(losses):
    """Mean over groups of (loss, groups) pairs; None of no pairs."""
    return sum(loss * groups for loss, groups in losses) / sum(g for _, g in losses) if losses else None


class Adam:
    """Over the real and imaginary parts of the weights that are trained; makes new arrays at every step."""

    def __init__(self, weights, config, state=None):
        self.weights = reference.in_double(weights)
        frozen = {"probe": not config.probe_trainable, "log_scale": not config.intensity_scale_trainable}
        names = [name for name in weights if not frozen.get(name, False) and not is_running_value(name)]
        self.steps = 0
        self.first = {name: np.zeros_like(self.weights[name]) for name in names}
        self.second = {name: np.zeros_like(self.weights[name]) for name in names}
        if state is not None:
            self.steps = state.step
            known = [name for name in names if name in state.first_moments]
            self.first |= reference.in_double({name: state.first_moments[name] for name in known})
            self.second |= reference.in_double({name: state.second_moments[name] for name in known})

    def train_on(self, config, batches, rates, parts=1, largest=None):
        """One step along the sum of the batches' gradients over `parts`, at most `largest` long."""
        slopes = dict.fromkeys(rates, 0.0)
        for batch in batches:
            statistics = reference.batch_statistics(config.model, self.weights, batch)
            found = gradients(config, self.weights, batch)
            slopes = {name: slope + found[name] / parts for name, slope in slopes.items()}
            self.weights |= moved_running_values(self.weights, statistics)
        length = np.sqrt(sum(np.sum(np.abs(slope) ** 2) for slope in slopes.values()))
        shorter = 1.0 if largest is None else min(1.0, largest / (length + 1e-6))
        self.steps += 1
        for name, rate in rates.items():
            slope = shorter * slopes[name]
            self.first[name] = constants.ADAM_BETA1 * self.first[name] + (1 - constants.ADAM_BETA1) * slope
            square = slope**2 if not np.iscomplexobj(slope) else slope.real**2 + 1j * slope.imag**2
            self.second[name] = constants.ADAM_BETA2 * self.second[name] + (1 - constants.ADAM_BETA2) * square
            first = self.first[name] / (1 - constants.ADAM_BETA1**self.steps)
            second = self.second[name] / (1 - constants.ADAM_BETA2**self.steps)
            move = first.real / (np.sqrt(second.real) + constants.ADAM_EPSILON)
            if np.iscomplexobj(first):
                move = move + 1j * first.imag / (np.sqrt(second.imag) + constants.ADAM_EPSILON)
            self.weights[name] = self.weights[name] - rate * move
