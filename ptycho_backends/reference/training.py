"""Training in float64: everything around the gradient, stated once for every backend's `train` to be held against.

Adam, the order of batches, accumulation, clipping, fine-tuning stages, running statistics, history, and resuming
with moments. The gradient is a parameter, because it is proved elsewhere: a backend's own gradients are held
against the slopes of the reference's loss, and drive this trainer where that backend's `train` is judged.
Meant for small sizes.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.config import TrainingConfig
from ptycho_backends.reference import model as reference
from ptycho_backends.reference.initial_weights import LOG_SCALE, PROBE, is_running_value, weight_dtype
from ptycho_backends.reference.network import moved_running_values
from ptycho_backends.values import Batch, EpochRecord, TrainedModel, TrainingState, Weights

Gradients = Callable[[TrainingConfig, Weights, Batch], Mapping[str, NDArray]]
"""Gradient of the total loss with respect to every weight; that of a complex weight is `dL/dRe + i dL/dIm`."""

CLIPPING_FLOOR = 1e-6
"""Added to the norm that is clipped, as torch does."""


class Schedule(Protocol):
    """Rates and stops, as `training.schedule.TrainingSchedule` has them."""

    @property
    def should_stop(self) -> bool:
        """True once training is over."""
        ...

    @property
    def learning_rate(self) -> float:
        """Of the epoch that comes next."""
        ...

    def weight_rates(self, names: Iterable[str], batches_done: int, batches: float) -> dict[str, float]:
        """Rates of the weights that the next step moves."""
        ...

    def finish_epoch(self, monitored_loss: float) -> None:
        """Go on to the next epoch."""
        ...

    def state(self) -> Mapping[str, Any]:
        """What a later run needs to go on."""
        ...


class Adam:
    """Kingma and Ba 2015, Algorithm 1, in float64; a complex weight is two real ones.

    Parameters
    ----------
    weights : mapping of arrays
        Where to start.
    config : TrainingConfig
        Decides if probe and scale move.
    state : TrainingState, optional
        Moments and number of steps of the training that is resumed; a weight without moments there has zeros.
    """

    def __init__(self, weights: Weights, config: TrainingConfig, state: TrainingState | None = None) -> None:
        self.weights = reference.in_double(weights)
        frozen = {PROBE: not config.probe_trainable, LOG_SCALE: not config.intensity_scale_trainable}
        self._moving = [
            name for name in weights if not frozen.get(name, False) and not is_running_value(name)
        ]
        self._first = {name: np.zeros_like(_parts(self.weights[name])) for name in self._moving}
        self._second = {name: np.zeros_like(_parts(self.weights[name])) for name in self._moving}
        self.steps = 0
        if state is not None:
            self.steps = state.step
            for name in self._moving:
                if name in state.first_moments:
                    # copies, because steps change them in place
                    self._first[name] = _parts(state.first_moments[name]).copy()
                    self._second[name] = _parts(state.second_moments[name]).copy()

    @property
    def moving(self) -> list[str]:
        """Names of the weights that are trained."""
        return list(self._moving)

    @property
    def moments(self) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
        """Copies of the first and the second moments; those of a complex weight are complex."""
        first = {name: _whole(name, value) for name, value in self._first.items()}
        return first, {name: _whole(name, value) for name, value in self._second.items()}

    def step(self, gradients: Mapping[str, NDArray], rates: Mapping[str, float]) -> None:
        """Move the weights that have a rate; those that have none, and their moments, stay as they are."""
        self.steps += 1
        for name in rates:
            gradient = _parts(gradients[name])
            first, second = self._first[name], self._second[name]
            first += (1 - constants.ADAM_BETA1) * (gradient - first)
            second += (1 - constants.ADAM_BETA2) * (gradient**2 - second)
            unbiased_first = first / (1 - constants.ADAM_BETA1**self.steps)
            unbiased_second = second / (1 - constants.ADAM_BETA2**self.steps)
            move = rates[name] * unbiased_first / (np.sqrt(unbiased_second) + constants.ADAM_EPSILON)
            self.weights[name] = self.weights[name] - _whole(name, move)


@dataclass(frozen=True)
class Course:
    """What a training sees, and how its steps are made.

    Attributes
    ----------
    batches : callable
        From an epoch, counted from 1, to all its batches in order; the last may be short.
    held_out : sequence of Batch
        Of the groups that only judge.
    accum_steps : int
        Batches whose mean gradient makes one step; the last step of an epoch may have fewer, and counts less.
    largest_norm : float, optional
        To which the gradient of a step is shortened.
    """

    batches: Callable[[int], Sequence[Batch]]
    held_out: Sequence[Batch] = ()
    accum_steps: int = 1
    largest_norm: float | None = None


def train(
    start: TrainedModel,
    course: Course,
    schedule: Schedule,
    gradients: Gradients,
    *,
    stop_after: int | None = None,
) -> TrainedModel:
    """Train from `start` until `schedule` is over.

    Parameters
    ----------
    start : TrainedModel
        With a `training_state` training goes on, within an epoch that had begun too.
    course : Course
    schedule : Schedule
        As it was left by `start`.
    gradients : callable
    stop_after : int, optional
        Stop before the step that comes after so many batches of this call.

    Returns
    -------
    TrainedModel
        With float32 weights, and moments in float64; `interrupted` if `stop_after` ended it. `seconds` are 0.
    """
    return _Run(start, course, schedule, gradients, stop_after).model()


class _Run:
    def __init__(
        self,
        start: TrainedModel,
        course: Course,
        schedule: Schedule,
        gradients: Gradients,
        stop_after: int | None,
    ) -> None:
        self._start, self._course, self._schedule, self._gradients = start, course, schedule, gradients
        self._left = np.inf if stop_after is None else stop_after
        state = start.training_state
        self._adam = Adam(start.weights, start.config, state)
        self._history = list(start.history)
        self._epochs_done = start.epochs_done
        self._batches_done = 0 if state is None else state.batches_done
        self._loss_sum = 0.0 if state is None else state.loss_sum
        while not schedule.should_stop and self._left > 0:
            self._epoch()

    def _epoch(self) -> None:
        epoch, rate = self._epochs_done + 1, self._schedule.learning_rate
        batches = self._course.batches(epoch)
        while self._batches_done < len(batches):
            if self._left <= 0:
                return
            self._step(batches)
        train_loss = self._loss_sum / sum(map(len, batches))
        val_loss = self._judged()
        self._history.append(EpochRecord(epoch, train_loss, val_loss, rate, 0.0))
        self._epochs_done, self._batches_done, self._loss_sum = epoch, 0, 0.0
        self._schedule.finish_epoch(train_loss if val_loss is None else val_loss)

    def _step(self, batches: Sequence[Batch]) -> None:
        adam, course, config = self._adam, self._course, self._start.config
        rates = self._schedule.weight_rates(adam.moving, self._batches_done, len(batches))
        window = batches[self._batches_done : self._batches_done + course.accum_steps]
        summed = {name: np.zeros_like(adam.weights[name]) for name in rates}
        for batch in window:
            self._loss_sum += reference.loss(config, adam.weights, batch)["total"] * len(batch)
            found = self._gradients(config, adam.weights, batch)
            statistics = reference.batch_statistics(config.model, adam.weights, batch)
            summed = {name: summed[name] + found[name] for name in rates}
            adam.weights |= moved_running_values(adam.weights, statistics)
        mean = {name: value / course.accum_steps for name, value in summed.items()}
        adam.step(clipped(mean, course.largest_norm), rates)
        self._batches_done += len(window)
        self._left -= len(window)

    def _judged(self) -> float | None:
        """Mean loss of the groups that are held out."""
        if not self._course.held_out:
            return None
        losses = [
            (
                reference.loss(self._start.config, self._adam.weights, batch, training=False)["total"],
                len(batch),
            )
            for batch in self._course.held_out
        ]
        return sum(loss * groups for loss, groups in losses) / sum(groups for _, groups in losses)

    def model(self) -> TrainedModel:
        state = TrainingState(
            self._adam.steps,
            self._epochs_done,
            self._batches_done,
            self._loss_sum,
            *self._adam.moments,
            self._schedule.state(),
        )
        return dataclasses.replace(
            self._start,
            weights={name: value.astype(weight_dtype(name)) for name, value in self._adam.weights.items()},
            history=tuple(self._history),
            backend="reference",
            interrupted=not self._schedule.should_stop,
            training_state=state,
        )


def clipped(gradients: Mapping[str, NDArray], largest: float | None) -> Mapping[str, NDArray]:
    """All of them together shortened to the norm `largest`."""
    if largest is None:
        return gradients
    norm = np.sqrt(sum(np.sum(_parts(gradient) ** 2) for gradient in gradients.values()))
    if norm + CLIPPING_FLOOR <= largest:
        return gradients
    return {name: gradient * (largest / (norm + CLIPPING_FLOOR)) for name, gradient in gradients.items()}


def _parts(array: NDArray) -> NDArray[np.float64]:
    """Real and imaginary part one above the other; real arrays as they are, in float64."""
    if np.iscomplexobj(array):
        return np.stack([array.real, array.imag]).astype(np.float64)
    return np.asarray(array, np.float64)


def _whole(name: str, parts: NDArray) -> NDArray:
    """Inverse of `_parts` for the weight `name`, in memory of its own."""
    return parts[0] + 1j * parts[1] if name == PROBE else parts.copy()
