"""Search for a learning rate: the loss while the rate grows from step to step, on any backend.

The gradients are the backend's own, and the steps Adam's with its moments, as in training; the model that is given is
not changed. `Backend.train_step` begins each call with fresh moments, so that its single steps would be longer than
those of a training.
"""

import csv
import io
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig, TrainingConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.reference.training import Adam, clipped
from ptycho_backends.training.plan import TrainingPlan
from ptycho_backends.values import Batch, Shown, Weights

log = logging.getLogger(__name__)

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 60
FEWEST_STEPS = 10
# The sweep ends once the loss has risen from its best by so many times its whole fall, and by this part of its size.
LARGEST_RISE, LEAST_RISE = 4.0, 1e-3
# Weights of neighbours in the curve whose slope is looked at.
SMOOTHING = np.array([0.25, 0.5, 0.25])


class Computes(Protocol):
    """The two methods of a backend that are used."""

    def loss(
        self,
        config: TrainingConfig,
        weights: Weights,
        batch: Batch,
        *,
        execution: ExecutionConfig | None = None,
    ) -> dict[str, float]: ...

    def gradients(
        self,
        config: TrainingConfig,
        weights: Weights,
        batch: Batch,
        *,
        execution: ExecutionConfig | None = None,
    ) -> dict[str, NDArray]: ...


@dataclass(frozen=True, eq=False)
class RateSweep(Shown):
    """The loss while the learning rate grew.

    Attributes
    ----------
    learning_rates : (n,) float64
        Of each step; each is larger than the one before by the same factor.
    losses : (n,) float64
        After each step, of the same groups throughout: held-out ones, where there are any.
    suggestion : float, optional
        Rate at which the loss fell most steeply; None where it did not fall.
    """

    shown_as = "rates"

    learning_rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    suggestion: float | None

    def __repr__(self) -> str:
        found = "none" if self.suggestion is None else f"{self.suggestion:.2g}"
        return f"RateSweep({len(self.losses)} steps, suggestion {found})"


def sweep_rates(
    backend: Computes,
    plan: TrainingPlan,
    execution: ExecutionConfig | None = None,
    *,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
) -> RateSweep:
    """Train for some steps with a growing learning rate, and look where the loss falls fastest.

    Parameters
    ----------
    backend : Backend
    plan : TrainingPlan
        Of `backend_base.plan_for`; the model that it starts from is not changed.
    execution : ExecutionConfig, optional
        `accum_steps` and `gradient_clip_val` count; `learning_rate` and its schedule do not.
    lowest, highest : float
        Rates of the first and of the last step. A sweep ends earlier where the loss has risen far.
    steps : int
        At least 10.

    Raises
    ------
    ConfigError
        If the rates or the number of steps make no sweep.
    """
    execution = ExecutionConfig() if execution is None else execution
    _require_sweep(lowest, highest, steps)
    config, adam = plan.config, Adam(plan.start.weights, plan.start.config, plan.start.training_state)
    held_out = plan.validation_batches()
    judge = plan.gather(held_out[0]) if held_out else plan.gather(plan.train_indices[: config.batch_size], 1)

    def judged() -> float:
        return float(backend.loss(config, adam.weights, judge, execution=execution)["total"])

    first = best = judged()
    batches, rates, losses = _batches(plan), np.geomspace(lowest, highest, steps), list[float]()
    for rate in rates:
        total: dict[str, NDArray] = {name: np.zeros(()) for name in adam.moving}
        for _ in range(execution.accum_steps):
            found = backend.gradients(config, adam.weights, next(batches), execution=execution)
            total = {name: total[name] + found[name] / execution.accum_steps for name in total}
        adam.step(clipped(total, execution.gradient_clip_val), dict.fromkeys(adam.moving, float(rate)))
        losses.append(judged())
        if not math.isfinite(losses[-1]):
            losses.pop()
            break
        best = min(best, losses[-1])
        if losses[-1] - best > LARGEST_RISE * (first - best) + LEAST_RISE * abs(best):
            break
    rates = rates[: len(losses)]
    log.info(
        "learning rates %.3g .. %.3g tried in %d steps", lowest, rates[-1] if losses else lowest, len(losses)
    )
    return RateSweep(rates, np.array(losses), suggested_rate(rates, np.array(losses), first))


def suggested_rate(
    rates: NDArray[np.float64], losses: NDArray[np.float64], first: float | None = None
) -> float | None:
    """Rate of the steepest descent of the loss over the logarithm of the rate; None where the loss does not fall.

    Parameters
    ----------
    rates, losses : (n,) float64
    first : float, optional
        Loss before the first step.
    """
    before = losses[:1] if first is None else np.array([first])
    if len(losses) < len(SMOOTHING):
        return None
    padded = np.concatenate([before, losses, losses[-1:]])
    smooth = np.convolve(padded, SMOOTHING, mode="valid")
    # only before the loss is lowest: it may fall again after it has risen
    until = int(np.argmin(smooth)) + 1
    fall = float(before[0] - smooth[until - 1])
    if until < 2 or fall <= 1e-6 * abs(float(before[0])):
        return None
    return float(rates[int(np.argmin(np.gradient(smooth[:until])))])


def _require_sweep(lowest: float, highest: float, steps: int) -> None:
    problems = []
    if not 0 < lowest < highest < math.inf:
        problems.append(f"lowest, highest: got {lowest:g}, {highest:g}, want 0 < lowest < highest")
    if steps < FEWEST_STEPS:
        problems.append(f"steps: got {steps}, want an integer >= {FEWEST_STEPS}")
    if problems:
        raise ConfigError("; ".join(problems))


def _batches(plan: TrainingPlan) -> Iterator[Batch]:
    """The batches of the epochs that come next, without end."""
    epoch = plan.epochs_done
    while True:
        epoch += 1
        for indices in plan.epoch_batches(epoch):
            yield plan.gather(indices, epoch)


def save_sweep(sweep: RateSweep, path: str | os.PathLike[str]) -> Path:
    """Write a sweep as CSV, with the columns `learning_rate` and `loss`.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    path = Path(path)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("learning_rate", "loss"))
    writer.writerows(zip(sweep.learning_rates.tolist(), sweep.losses.tolist(), strict=True))
    with replaced_atomically(path) as stream:
        stream.write(text.getvalue().encode())
    return path
