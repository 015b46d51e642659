"""Counts and history of a training run, epoch by epoch, on any backend."""

import math
import time
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.reference.initial_weights import weight_dtype
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
        self._groups = 0
        self._epoch_started = time.perf_counter()

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
        """
        train_loss = loss_sum / self._groups
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
        """
        return TrainedModel(
            config=self.config,
            weights={name: value.astype(weight_dtype(name)) for name, value in weights.items()},
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
