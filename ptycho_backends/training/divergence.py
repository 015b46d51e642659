"""Training that diverges: its first loss, gradient or weight that is not finite, and tries at a smaller rate."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import DivergenceError
from ptycho_backends.training.plan import TrainingPlan
from ptycho_backends.values import TrainedModel

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 5.0
"""Of an accelerator: each look waits until it has finished its steps."""
RETRY_FACTOR = 0.1
"""Of the learning rate, for each further try."""


class NotFiniteError(Exception):
    """A number of a step is not finite; arguments: the batch (counted from 1), the quantity, its value."""


class StepWatch:
    """Losses and gradient norms of the steps, looked at together now and then, so that no step waits for the device.

    Parameters
    ----------
    fetch : callable
        Scalars of a framework to their values, in one go.
    seconds_between : float
        Least time between two looks; 0 looks after every step, infinity only where `look` is called. Processes that
        work together have to look after the same steps.
    """

    def __init__(self, fetch: Callable[[list[Any]], Sequence[float]], seconds_between: float = 0.0) -> None:
        self._fetch = fetch
        self._seconds_between = seconds_between
        self._last = time.monotonic()
        self._noted: list[tuple[int, str]] = []
        self._values: list[Any] = []

    def note(self, batch: int, what: str, value: Any) -> None:
        """Note a scalar of `batch`, which stays on its device; look if it is time.

        Raises
        ------
        NotFiniteError
        """
        self._noted.append((batch, what))
        self._values.append(value)
        if time.monotonic() - self._last >= self._seconds_between:
            self.look()

    def look(self) -> None:
        """Look at all that was noted since the last look.

        Raises
        ------
        NotFiniteError
            For the first number that is not finite.
        """
        noted, values = self._noted, self._values
        self._noted, self._values = [], []
        for (batch, what), value in zip(noted, self._fetch(values) if values else (), strict=True):
            if not math.isfinite(value):
                raise NotFiniteError(batch, what, float(value))
        self._last = time.monotonic()


def seconds_between_looks(processes: int, on_processor: bool) -> float:
    """`StepWatch.seconds_between` for so many processes, on processors or accelerators."""
    if processes > 1:
        return math.inf
    return 0.0 if on_processor else SECONDS_BETWEEN_LOOKS


def not_finite(arrays: Mapping[str, NDArray]) -> str | None:
    """Name of the first array with a value that is not finite."""
    return next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)


def divergence(model: TrainedModel, where: str, what: str, rate: float, retries: int = 0) -> DivergenceError:
    """The error about training that diverged, with the last good model.

    Parameters
    ----------
    model : TrainedModel
        The last good one.
    where : str
        Epoch and batch.
    what : str
        What is not finite, and its value.
    rate : float
        The learning rate.
    retries : int
        Number of `divergence_retries`.
    """
    photons = model.config.nphotons
    advice = "" if retries else f", or divergence_retries=1 to go on at {RETRY_FACTOR * rate:g} by itself"
    error = DivergenceError(
        f"training diverged in {where}: {what}. Usual causes: learning_rate (got {rate:g}, want a smaller "
        f"one{advice}); "
        f"nphotons (got {photons:g}) far from the photons of a pattern; patterns with values that no detector gives. "
        f"The model after epoch {model.epochs_done} is the last good one and is kept"
    )
    error.trained_model = model
    return error


Train = Callable[[TrainingPlan, ExecutionConfig], TrainedModel]


def with_retries(train: Train, plan: TrainingPlan, execution: ExecutionConfig) -> TrainedModel:
    """`train(plan, execution)`; where it diverges, from the last good epoch on with a tenth of the rate.

    As often as `execution.divergence_retries` says.

    Raises
    ------
    DivergenceError
        If the last try diverges too.
    """
    for _ in range(execution.divergence_retries):
        try:
            return train(plan, execution)
        except DivergenceError as error:
            if not isinstance(error.trained_model, TrainedModel):
                raise
            rate = RETRY_FACTOR * execution.learning_rate
            log.warning("%s; going on from there with learning_rate=%g", error, rate)
            execution = dataclasses.replace(execution, learning_rate=rate)
            plan = dataclasses.replace(plan, start=error.trained_model)
    return train(plan, execution)
