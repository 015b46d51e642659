"""Learning rate and early stopping, epoch by epoch: plain numbers that every backend asks for.

Kept apart from the frameworks' own schedulers so that training which is stopped on one backend goes on
with the same rates on another.
"""

import math
from collections.abc import Mapping
from typing import Any

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError

PLATEAU_FACTOR = 0.5
PLATEAU_PATIENCE = 2
PLATEAU_SMALLEST_RATE = 1e-4
EXPONENTIAL_FACTOR = 0.95
WARMUP_SHARE = 0.05
COSINE_SMALLEST_SHARE = 0.1
# MultiStage: the rate from these shares of the epochs on
STAGES = ((0.0, 1.0), (0.5, 0.5), (0.75, 0.25), (0.9, 0.1))


class TrainingSchedule:
    """The learning rate of each epoch, and when to stop early.

    Parameters
    ----------
    execution : ExecutionConfig
        `learning_rate`, `scheduler`, `early_stop_patience`.
    nepochs : int
        Epochs in all; schedules that follow the clock are stretched over them.

    Notes
    -----
    'Default' and 'ReduceLROnPlateau' halve the rate after 2 epochs in which the monitored loss did not
    fall, down to 1e-4 (docs/model.md, section 6). 'Exponential' multiplies it by 0.95 an epoch.
    'WarmupCosine' rises over the first 5 % of the epochs and falls to a tenth along half a cosine.
    'MultiStage' halves it at 1/2 and 3/4 of the epochs and falls to a tenth at 9/10.
    """

    def __init__(self, execution: ExecutionConfig, nepochs: int) -> None:
        self._first_rate = execution.learning_rate
        self._scheduler = execution.scheduler
        self._patience = execution.early_stop_patience
        self._nepochs = nepochs
        self._epoch = 0
        self._plateau_rate = execution.learning_rate
        self._best = math.inf
        self._epochs_since_best = 0
        self._epochs_since_cut = 0

    @property
    def learning_rate(self) -> float:
        """Rate of the epoch that comes next."""
        first, done = self._first_rate, self._epoch
        if self._scheduler in ("Default", "ReduceLROnPlateau"):
            return self._plateau_rate
        if self._scheduler == "Exponential":
            return first * EXPONENTIAL_FACTOR**done
        if self._scheduler == "WarmupCosine":
            warmup = max(1, round(WARMUP_SHARE * self._nepochs))
            if done < warmup:
                return first * (done + 1) / warmup
            progress = (done - warmup) / max(1, self._nepochs - warmup)
            swing = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
            return first * (COSINE_SMALLEST_SHARE + (1 - COSINE_SMALLEST_SHARE) * swing)
        if self._scheduler == "MultiStage":
            progress = done / self._nepochs
            return first * next(share for start, share in reversed(STAGES) if progress >= start)
        raise ConfigError(f"scheduler: got {self._scheduler!r}, which this version does not know")

    @property
    def should_stop(self) -> bool:
        """Whether the monitored loss has not fallen for `early_stop_patience` epochs."""
        return self._epochs_since_best >= self._patience

    def finish_epoch(self, monitored_loss: float) -> None:
        """Take note of an epoch's loss: of the validation set, or of training where there is none."""
        self._epoch += 1
        if monitored_loss < self._best:
            self._best, self._epochs_since_best, self._epochs_since_cut = monitored_loss, 0, 0
            return
        self._epochs_since_best += 1
        self._epochs_since_cut += 1
        if self._epochs_since_cut >= PLATEAU_PATIENCE:
            smallest = min(PLATEAU_SMALLEST_RATE, self._first_rate)
            self._plateau_rate = max(smallest, self._plateau_rate * PLATEAU_FACTOR)
            self._epochs_since_cut = 0

    def state(self) -> dict[str, Any]:
        """What `restore` needs: plain numbers. The best loss is None before the first epoch."""
        return {
            "epoch": self._epoch,
            "plateau_rate": self._plateau_rate,
            "best": None if math.isinf(self._best) else self._best,
            "epochs_since_best": self._epochs_since_best,
            "epochs_since_cut": self._epochs_since_cut,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._epoch = int(state["epoch"])
        self._plateau_rate = float(state["plateau_rate"])
        self._best = math.inf if state["best"] is None else float(state["best"])
        self._epochs_since_best = int(state["epochs_since_best"])
        self._epochs_since_cut = int(state["epochs_since_cut"])
