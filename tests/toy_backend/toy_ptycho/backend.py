"""`ToyBackend`: the whole protocol on the NumPy reference, in float64 whatever precision is asked for."""

import dataclasses
import time
from pathlib import Path

import numpy as np

from ptycho_backends import constants
from ptycho_backends.archive import model_file as archive
from ptycho_backends.config import ExecutionConfig, validate
from ptycho_backends.errors import ConfigError
from ptycho_backends.images.stitching import stitch
from ptycho_backends.reference import model as reference
from ptycho_backends.reference.initial_weights import PROBE, is_running_value, weight_dtype
from ptycho_backends.reference.network import moved_running_values
from ptycho_backends.training.plan import complete_config, inference_groups, plan_training
from ptycho_backends.training.schedule import schedule_of
from ptycho_backends.values import EpochRecord, Prediction, Reconstruction, TrainedModel, TrainingState
from toy_ptycho.gradients import gradients

UNSUPPORTED = ("accum_steps", "gradient_clip_val", "finetune_stages")
"""Settings that would change what is computed; not ignored but refused."""


class ToyBackend:
    """What a third party needs to write."""

    name = "toy"
    export_formats = frozenset({"npz"})

    def complete_config(self, config, data, execution=None):
        return complete_config(config, data, self.name, execution)

    def prepare(self, data, config, *, execution=None):
        plan = plan_training(data, config, self.name, execution)
        return lambda epoch: map(plan.gather, plan.epoch_batches(epoch))

    def train(self, data, config, *, execution=None, output_dir=None, resume_from=None, on_epoch=None):
        execution = _checked(execution)
        plan = plan_training(data, config, self.name, execution, resume_from)
        state, config = plan.start.training_state, plan.config
        adam = Adam(plan.start.weights, config, state)
        schedule = schedule_of(plan.start, execution)
        history = list(plan.start.history)
        while not schedule.should_stop:
            epoch = len(history) + 1
            started, total, groups = time.perf_counter(), 0.0, 0
            for batch in map(plan.gather, plan.epoch_batches(epoch)):
                total += reference.loss(config, adam.weights, batch)["total"] * len(batch)
                groups += len(batch)
                adam.train_on(config, batch, schedule.learning_rate)
            judged = [plan.gather(indices) for indices in plan.validation_batches()]
            losses = [
                reference.loss(config, adam.weights, batch, training=False)["total"] * len(batch)
                for batch in judged
            ]
            val_loss = sum(losses) / sum(map(len, judged)) if judged else None
            seconds = time.perf_counter() - started
            history.append(EpochRecord(epoch, total / groups, val_loss, schedule.learning_rate, seconds))
            schedule.finish_epoch(total / groups if val_loss is None else val_loss)
            if on_epoch is not None:
                on_epoch(history[-1])
        return TrainedModel(
            config=config,
            weights={name: value.astype(weight_dtype(name)) for name, value in adam.weights.items()},
            intensity_scale=plan.start.intensity_scale,
            history=tuple(history),
            backend=self.name,
            training_state=TrainingState(
                adam.steps, len(history), 0, 0.0, adam.first, adam.second, schedule.state()
            ),
        )

    def predict(self, model, data, *, execution=None):
        groups = inference_groups(model, data)
        parts = [
            reference.predict(
                model.config.model,
                model.weights,
                groups.batch(np.array([number]), intensity_scale=model.intensity_scale),
            )
            for number in range(len(groups))
        ]
        return Prediction(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in dataclasses.fields(Prediction)
            )
        )

    def infer(self, model, data, *, execution=None, stitching_size=constants.DEFAULT_STITCHING_SIZE):
        groups = inference_groups(model, data)
        patches = self.predict(model, groups).object.astype(np.complex64)
        image, coverage, origin = stitch(patches, groups.group_centres_px, stitching_size)
        centres = groups.group_centres_px[:, 0, :, 0]
        return Reconstruction(image, coverage, origin, centres, patches, self.name)

    def save(self, model, path):
        return archive.save_archive(model, path)

    def load(self, path):
        return archive.load_archive(path)

    def export(self, model, path, format):
        if format not in self.export_formats:
            raise ValueError(f"format: got {format!r}, want 'npz'")
        with open(path, "wb") as stream:
            np.savez(stream, **model.weights)
        return Path(path)

    def forward(self, config, weights, batch, *, execution=None):
        return reference.predict(config, weights, batch)

    def loss(self, config, weights, batch, *, execution=None):
        return reference.loss(config, weights, batch)

    def gradients(self, config, weights, batch, *, execution=None):
        return gradients(config, weights, batch)

    def train_step(self, config, weights, batches, *, execution=None):
        adam = Adam(weights, config)
        for batch in batches:
            adam.train_on(config, batch, _checked(execution).learning_rate)
        return adam.weights


class Adam:
    """Over the real and imaginary parts of what is trained."""

    def __init__(self, weights, config, state=None):
        self.weights = reference.in_double(weights)
        frozen = {PROBE: not config.probe_trainable, "log_scale": not config.intensity_scale_trainable}
        names = [name for name in weights if not frozen.get(name, False) and not is_running_value(name)]
        self.steps = 0 if state is None else state.step
        self.first = {name: np.zeros_like(self.weights[name]) for name in names}
        self.second = {name: np.zeros_like(self.weights[name]) for name in names}
        if state is not None:
            self.first |= reference.in_double(state.first_moments)
            self.second |= reference.in_double(state.second_moments)

    def train_on(self, config, batch, rate):
        statistics = reference.batch_statistics(config.model, self.weights, batch)
        self.step(gradients(config, self.weights, batch), rate)
        self.weights |= moved_running_values(self.weights, statistics)

    def step(self, gradients, rate):
        self.steps += 1
        for name in self.first:
            moves = []
            for part in ("real", "imag") if np.iscomplexobj(self.weights[name]) else ("real",):
                gradient = getattr(gradients[name], part)
                first = (
                    constants.ADAM_BETA1 * getattr(self.first[name], part)
                    + (1 - constants.ADAM_BETA1) * gradient
                )
                second = constants.ADAM_BETA2 * getattr(self.second[name], part)
                second = second + (1 - constants.ADAM_BETA2) * gradient**2
                root = np.sqrt(second / (1 - constants.ADAM_BETA2**self.steps)) + constants.ADAM_EPSILON
                moves.append((first, second, rate * first / (1 - constants.ADAM_BETA1**self.steps) / root))
            self.first[name], self.second[name], move = (
                parts[0] if len(parts) == 1 else parts[0] + 1j * parts[1]
                for parts in zip(*moves, strict=True)
            )
            self.weights[name] = self.weights[name] - move


def _checked(execution):
    execution = ExecutionConfig() if execution is None else execution
    validate(execution)
    refused = [name for name, value in vars(ExecutionConfig()).items()
               if name in UNSUPPORTED and getattr(execution, name) != value]  # fmt: skip
    if refused:
        raise ConfigError(f"{', '.join(refused)}: the toy has nothing of the kind; leave the default")
    return execution
