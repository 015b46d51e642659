"""A backend's training, replayed by `reference.training` from that backend's gradients, as it was planned."""

from collections.abc import Sequence

from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig, TrainingConfig
from ptycho_backends.protocol import Backend
from ptycho_backends.reference import model as reference
from ptycho_backends.reference import training
from ptycho_backends.reference.network import moved_running_values
from ptycho_backends.testing.symmetries import Reordering
from ptycho_backends.training.plan import TrainingPlan
from ptycho_backends.training.schedule import schedule_of
from ptycho_backends.values import Batch, EpochRecord, TrainedModel, Weights


def gradients_of(
    backend: Backend, execution: ExecutionConfig, order: int | None = None
) -> training.Gradients:
    """The backend's gradients, in the precision of `execution`; with `order`, their sums in another order."""

    def gradients(config: TrainingConfig, weights: Weights, batch: Batch) -> dict[str, NDArray]:
        if order is None:
            return backend.gradients(config, weights, batch, execution=execution)
        other = Reordering(config.model, len(batch), order, transposed=order % 2 == 0, repeats=1 + order % 3)
        found = backend.gradients(config, other.weights(weights), other.batch(batch), execution=execution)
        return other.weights_back(found)

    return gradients


def replayed_steps(
    backend: Backend,
    config: TrainingConfig,
    weights: Weights,
    batches: Sequence[Batch],
    execution: ExecutionConfig,
    *,
    order: int | None = None,
) -> dict[str, NDArray]:
    """The weights that `backend.train_step` should return; `order` as `gradients_of`."""
    adam, gradients = training.Adam(weights, config), gradients_of(backend, execution, order)
    for batch in batches:
        found = gradients(config, adam.weights, batch)
        statistics = reference.batch_statistics(config.model, adam.weights, batch)
        adam.step(found, dict.fromkeys(adam.moving, execution.learning_rate))
        adam.weights |= moved_running_values(adam.weights, statistics)
    return adam.weights


def replayed_model(
    backend: Backend,
    plan: TrainingPlan,
    execution: ExecutionConfig,
    *,
    stop_after: int | None = None,
    order: int | None = None,
) -> TrainedModel:
    """The model that `backend.train` should return for `plan`, begun or resumed.

    Parameters
    ----------
    backend : Backend
        Gives the gradients, in the precision of `execution`.
    plan : TrainingPlan
    execution : ExecutionConfig
    stop_after : int, optional
        As `reference.training.train`.
    order : int, optional
        As `gradients_of`.
    """
    course = training.Course(
        lambda epoch: [plan.gather(indices, epoch) for indices in plan.epoch_batches(epoch)],
        [plan.gather(indices) for indices in plan.validation_batches()],
        execution.accum_steps,
        execution.gradient_clip_val,
    )
    schedule, gradients = schedule_of(plan.start, execution), gradients_of(backend, execution, order)
    return training.train(plan.start, course, schedule, gradients, stop_after=stop_after)


def replayed_training(
    backend: Backend, plan: TrainingPlan, execution: ExecutionConfig
) -> tuple[dict[str, NDArray], list[EpochRecord]]:
    """The weights and the history that `backend.train` should return for `plan`."""
    model = replayed_model(backend, plan, execution)
    return dict(model.weights), list(model.history)
