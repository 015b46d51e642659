"""Training, replayed in NumPy from a backend's gradients: Adam as published, batch after batch as planned.

It holds a backend's optimiser and training loop against plain arithmetic on the same gradients.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.config import ExecutionConfig, TrainingConfig
from ptycho_backends.protocol import Backend
from ptycho_backends.reference import model as reference
from ptycho_backends.reference.initial_weights import LOG_SCALE, PROBE, is_running_value
from ptycho_backends.reference.network import moved_running_values
from ptycho_backends.training.plan import TrainingPlan
from ptycho_backends.training.schedule import TrainingSchedule
from ptycho_backends.values import Batch, EpochRecord, Weights


class Adam:
    """Kingma and Ba 2015, Algorithm 1, in float64; a complex weight is two real ones.

    Parameters
    ----------
    weights : mapping of arrays
        Where to start.
    config : TrainingConfig
        Decides if probe and scale move.
    """

    def __init__(self, weights: Weights, config: TrainingConfig) -> None:
        self.weights = reference.in_double(weights)
        frozen = {PROBE: not config.probe_trainable, LOG_SCALE: not config.intensity_scale_trainable}
        self._moving = [
            name for name in weights if not frozen.get(name, False) and not is_running_value(name)
        ]
        self._first = {name: np.zeros_like(_parts(self.weights[name])) for name in self._moving}
        self._second = {name: np.zeros_like(_parts(self.weights[name])) for name in self._moving}
        self._steps = 0

    @property
    def moving(self) -> list[str]:
        """Names of the weights that are trained."""
        return list(self._moving)

    def step(self, gradients: Mapping[str, NDArray], rates: Mapping[str, float]) -> None:
        """Move the weights that have a rate; those that have none, and their moments, stay as they are."""
        self._steps += 1
        for name in rates:
            gradient = _parts(gradients[name])
            first, second = self._first[name], self._second[name]
            first += (1 - constants.ADAM_BETA1) * (gradient - first)
            second += (1 - constants.ADAM_BETA2) * (gradient**2 - second)
            unbiased_first = first / (1 - constants.ADAM_BETA1**self._steps)
            unbiased_second = second / (1 - constants.ADAM_BETA2**self._steps)
            move = rates[name] * unbiased_first / (np.sqrt(unbiased_second) + constants.ADAM_EPSILON)
            if name == PROBE:
                move = move[0] + 1j * move[1]
            self.weights[name] = self.weights[name] - move


def _summed_gradients(
    backend: Backend,
    config: TrainingConfig,
    adam: Adam,
    batches: Sequence[Batch],
    execution: ExecutionConfig,
) -> dict[str, NDArray]:
    """The backend's gradients of all `batches`; running values follow the reference's statistics."""
    summed: dict[str, NDArray] = {}
    for batch in batches:
        for name, value in backend.gradients(config, adam.weights, batch, execution=execution).items():
            summed[name] = summed.get(name, 0.0) + value
        statistics = reference.batch_statistics(config.model, adam.weights, batch)
        adam.weights |= moved_running_values(adam.weights, statistics)
    return summed


def replayed_steps(
    backend: Backend,
    config: TrainingConfig,
    weights: Weights,
    batches: Sequence[Batch],
    execution: ExecutionConfig,
) -> dict[str, NDArray]:
    """The weights that `backend.train_step` should return."""
    adam = Adam(weights, config)
    for batch in batches:
        summed = _summed_gradients(backend, config, adam, [batch], execution)
        adam.step(summed, dict.fromkeys(adam.moving, execution.learning_rate))
    return adam.weights


def replayed_training(
    backend: Backend, plan: TrainingPlan, execution: ExecutionConfig
) -> tuple[dict[str, NDArray], list[EpochRecord]]:
    """The weights and the history that `backend.train` should return for `plan`, started anew."""
    config = plan.config
    adam = Adam(plan.start.weights, config)
    schedule = TrainingSchedule(execution, config.nepochs)
    history: list[EpochRecord] = []
    while not schedule.should_stop:
        epoch, rate = len(history) + 1, schedule.learning_rate
        losses = []
        batches = [plan.gather(indices, epoch) for indices in plan.epoch_batches(epoch)]
        for start in range(0, len(batches), execution.accum_steps):
            window = batches[start : start + execution.accum_steps]
            rates = schedule.weight_rates(adam.moving, start, len(batches))
            losses += [
                (backend.loss(config, adam.weights, batch, execution=execution)["total"], len(batch))
                for batch in window
            ]
            summed = _summed_gradients(backend, config, adam, window, execution)
            # a last window that is short counts less
            mean = {name: summed[name] / execution.accum_steps for name in rates}
            adam.step(_clipped(mean, execution.gradient_clip_val), rates)
        judged = [plan.gather(indices) for indices in plan.validation_batches()]
        # a backend's `loss` is that of training, which normalises with the batch's own statistics
        validation = [
            (reference.loss(config, adam.weights, batch, training=False)["total"], len(batch))
            for batch in judged
        ]
        record = EpochRecord(epoch, _mean(losses), _mean(validation) if validation else None, rate, 0.0)
        history.append(record)
        schedule.finish_epoch(record.train_loss if record.val_loss is None else record.val_loss)
    return adam.weights, history


def _clipped(gradients: dict[str, NDArray], largest: float | None) -> dict[str, NDArray]:
    """All of them together shortened to the norm `largest`, with 1e-6 added to theirs as torch does."""
    norm = np.sqrt(sum(np.sum(_parts(gradient) ** 2) for gradient in gradients.values()))
    if largest is None or norm + 1e-6 <= largest:
        return gradients
    return {name: gradient * (largest / (norm + 1e-6)) for name, gradient in gradients.items()}


def _mean(losses: Sequence[tuple[float, int]]) -> float:
    return sum(loss * groups for loss, groups in losses) / sum(groups for _, groups in losses)


def _parts(array: NDArray) -> NDArray:
    """Real and imaginary part one above the other; real arrays as they are, in float64."""
    if np.iscomplexobj(array):
        return np.stack([array.real, array.imag]).astype(np.float64)
    return np.asarray(array, np.float64)
