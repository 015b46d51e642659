"""Counts and history of a training run, epoch by epoch, on any backend."""

import math
import time
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import DivergenceError
from ptycho_backends.reference.initial_weights import weight_dtype
from ptycho_backends.training.divergence import NotFiniteError, StepWatch, divergence, not_finite
from ptycho_backends.training.schedule import schedule_of
from ptycho_backends.values import EpochRecord, TrainedModel, TrainingState


class EpochCounter:
    """Base class of the modules that train: counts epochs and batches, and keeps the history.

    Attributes
    ----------
    config : TrainingConfig
    intensity_scale : float
    schedule : TrainingSchedule
    history : list of EpochRecord
    epochs_done : int
    batches_done : int
        Of the epoch that has begun.
    epoch_batches : int
        Of each epoch.
    last_good : TrainedModel
        After the last epoch in which all numbers were finite; at first the one that training starts from.
    """

    # until it is known, rates are those of an epoch's first step
    epoch_batches: float = math.inf

    def start_from(self, start: TrainedModel, execution: ExecutionConfig) -> None:
        """Take the counts of `start`; those of its resume state, if it has one."""
        self.config = start.config
        self.intensity_scale = start.intensity_scale
        self.schedule = schedule_of(start, execution)
        self.history: list[EpochRecord] = list(start.history)
        self.epochs_done = start.epochs_done
        self.batches_done = 0 if start.training_state is None else start.training_state.batches_done
        self.last_good = start
        self._retries = execution.divergence_retries
        self._watch = StepWatch(lambda values: [float(value) for value in values])
        self._groups = 0
        self._epoch_started = time.perf_counter()

    # --- divergence

    def watch_with(self, watch: StepWatch) -> None:
        """Note the numbers of steps in `watch` from here on."""
        self._watch = watch

    def note(self, what: str, value: Any) -> None:
        """Note a loss or a gradient's norm of the batch that was counted last.

        Raises
        ------
        DivergenceError
            If a number that was noted is found not to be finite.
        """
        try:
            self._watch.note(self.batches_done, what, value)
        except NotFiniteError as error:
            raise self._divergence(*error.args) from None

    def look(self) -> None:
        """Look at all that was noted; raises as `note`."""
        try:
            self._watch.look()
        except NotFiniteError as error:
            raise self._divergence(*error.args) from None

    def keep(self, model: TrainedModel) -> TrainedModel:
        """Keep `model` as `last_good`; returns it."""
        self.last_good = model
        return model

    def _divergence(self, batch: int | None, what: str, value: float) -> DivergenceError:
        epoch = self.epochs_done + 1
        where = f"epoch {epoch}" if batch is None else f"epoch {epoch}, batch {batch}"
        if batch is not None and math.isfinite(self.epoch_batches):
            where += f" of {self.epoch_batches}"
        rate = max(self.rates.values(), default=self.schedule.learning_rate)
        return divergence(self.last_good, where, f"{what} is {value:g}", rate, self._retries)

    # --- epochs

    def begin_epoch(self) -> bool:
        """Begin an epoch, or continue the one that was interrupted; True for a new one."""
        self._epoch_started = time.perf_counter()
        self._groups = self.batches_done * self.config.batch_size
        return self.batches_done == 0

    @property
    def rates(self) -> dict[str, float]:
        """`{part: rate}` of the parts that move in the step that comes next."""
        return self.schedule.rates_at(self.batches_done, self.epoch_batches)

    def count_batches(self, batches: int, groups: int) -> None:
        """Count `batches` of the epoch, which have `groups` groups together."""
        self.batches_done += batches
        self._groups += groups

    def end_epoch(self, loss_sum: float, val_loss: float | None) -> EpochRecord:
        """Write the epoch into the history, and take the schedule to the next.

        Parameters
        ----------
        loss_sum : float
            Sum over the steps of the mean loss times the number of groups.
        val_loss : float, optional

        Raises
        ------
        DivergenceError
            If a number of the epoch is not finite; the history stays as it was.
        """
        self.look()
        train_loss = loss_sum / self._groups
        for what, loss in (("training", train_loss), ("validation", val_loss)):
            if loss is not None and not math.isfinite(loss):
                raise self._divergence(None, f"the mean {what} loss", loss)
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

    def neutral_state(
        self,
        *,
        backend: str,
        weights: Mapping[str, NDArray],
        step: int,
        loss_sum: float,
        moments: tuple[dict[str, NDArray], dict[str, NDArray]],
        interrupted: bool,
    ) -> TrainedModel:
        """The model as it is now, with its resume state.

        Parameters
        ----------
        backend : str
        weights : mapping of arrays
            In the precision of training.
        step : int
            Optimiser steps done.
        loss_sum : float
            As in `end_epoch`, of the epoch that has begun.
        moments : pair of mappings of arrays
            Adam's first and second moments.
        interrupted : bool

        Raises
        ------
        DivergenceError
            If a weight or a moment is not finite: such a model reaches no file.
        """
        self.look()
        rounded = {name: value.astype(weight_dtype(name)) for name, value in weights.items()}
        for kind, arrays in (
            ("the weight", rounded),
            ("Adam's moment of", moments[0]),
            ("Adam's moment of", moments[1]),
        ):
            if name := not_finite(arrays):
                raise self._divergence(self.batches_done or None, f"{kind} {name}", math.nan)
        return TrainedModel(
            config=self.config,
            weights=rounded,
            intensity_scale=self.intensity_scale,
            history=tuple(self.history),
            backend=backend,
            interrupted=interrupted,
            training_state=TrainingState(
                step=step,
                epoch=self.epochs_done,
                batches_done=self.batches_done,
                loss_sum=loss_sum if self.batches_done else 0.0,
                first_moments=moments[0],
                second_moments=moments[1],
                schedule=self.schedule.state(),
            ),
        )


def metrics_of(record: EpochRecord) -> dict[str, Any]:
    """The numbers of an epoch by name, as loggers take them; without the epoch itself."""
    return {name: value for name, value in vars(record).items() if name != "epoch" and value is not None}
