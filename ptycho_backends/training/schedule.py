"""Learning rates, fine-tuning stages and early stopping, epoch by epoch: plain numbers for every backend.

Kept apart from the frameworks' own schedulers so that training which is stopped on one backend goes on
with the same rates on another.
"""

import logging
import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.finetuning import DECODER, ENCODER_BOTTOM, ENCODER_TOP, PARTS, PHASE_HEAD

if TYPE_CHECKING:
    from ptycho_backends.training.plan import TrainingPlan
    from ptycho_backends.values import TrainedModel

log = logging.getLogger(__name__)

PLATEAU_FACTOR = 0.5
PLATEAU_PATIENCE = 2
PLATEAU_SMALLEST_RATE = 1e-4
EXPONENTIAL_FACTOR = 0.95
WARMUP_FRACTION = 0.05
# OneCycle: fraction of all steps in which the rate rises, and the factor on the rate from which it does
ONE_CYCLE_RISE = 0.1
ONE_CYCLE_START = 1 / 25
# MultiStage: (fraction of the epochs, factor on the first rate from there on)
STAGES = ((0.0, 1.0), (0.5, 0.5), (0.75, 0.25), (0.9, 0.1))


def parts_of_weights(names: Iterable[str]) -> dict[str, str]:
    """`{name: part}` of a model's canonical weights, with parts of `PARTS`.

    The first half of the encoder's blocks, rounded down, is `encoder_bottom`, the rest of the encoder
    `encoder_top`. `phase/inner_head` and `phase/border_head` are `phase_head`; everything else, `log_scale`
    and `probe` included, is `decoder`.
    """
    names = list(names)
    blocks = {name: int(found[1]) for name in names if (found := re.match(r"encoder/block(\d+)/", name))}
    bottom = (max(blocks.values(), default=-1) + 1) // 2

    def part(name: str) -> str:
        if name.startswith("encoder/"):
            return ENCODER_BOTTOM if blocks.get(name, bottom) < bottom else ENCODER_TOP
        heads = ("phase/inner_head/", "phase/border_head/")
        return PHASE_HEAD if name.startswith(heads) else DECODER

    return {name: part(name) for name in names}


class TrainingSchedule:
    """The learning rate of each epoch, with 'OneCycle' of each step, and when to stop early.

    Parameters
    ----------
    execution : ExecutionConfig
        `learning_rate`, `scheduler`, `warmup_epochs`, `min_lr_ratio`, `early_stop_patience`,
        `finetune_stages`, `finetune_early_stop_patience`.
    nepochs : int
        Main epochs in all; schedules that follow the clock are stretched over them. The stages of
        fine-tuning come after these, or after early stopping has ended them.
    epochs_done : int
        That the model has behind it, those of a schedule whose state is restored among them.

    Notes
    -----
    'Default' and 'ReduceLROnPlateau' halve the rate after 2 epochs in which the monitored loss did not
    fall, down to 1e-4 (docs/model.md, section 6). 'Exponential' multiplies it by 0.95 an epoch. 'Cosine'
    falls along half a cosine. 'WarmupCosine' does so after a rise over the first 5 % of the epochs.
    'MultiStage' halves it at 1/2 and 3/4 of the epochs and falls to a tenth at 9/10. 'OneCycle' changes it
    at every step: over the first 10 % of all steps it rises linearly from 1/25, then it falls along half
    a cosine. `min_lr_ratio` is where 'Exponential' and the cosines end. `warmup_epochs` come before any of
    these, which then see the epochs that remain; 'WarmupCosine' and 'OneCycle' have no other rise then.
    """

    def __init__(self, execution: ExecutionConfig, nepochs: int, epochs_done: int = 0) -> None:
        self._execution = execution
        self._first_rate = execution.learning_rate
        self._stages = execution.finetune_stages
        self._nepochs = nepochs
        self._warmup = execution.warmup_epochs
        if execution.scheduler == "WarmupCosine" and not self._warmup:
            self._warmup = max(1, round(WARMUP_FRACTION * nepochs))
        self._epochs_before = epochs_done
        self._epoch = 0
        self._plateau_rate = execution.learning_rate
        self._best = math.inf
        self._epochs_since_best = 0
        self._epochs_since_cut = 0
        # of the last finished epoch: 0 for the main ones, then counted from 1
        self._stage = 0
        self._stage_epochs = 0

    # --- rates

    @property
    def learning_rate(self) -> float:
        """Rate of the part that moves fastest in the epoch that comes next, at its first step."""
        return max(self.rates.values())

    @property
    def rates(self) -> dict[str, float]:
        """`{part: rate}` of the parts that move in the epoch that comes next; the others are frozen."""
        return self.rates_at(0, 1)

    @property
    def changes_within_epoch(self) -> bool:
        """True where the steps of the epoch that comes next have rates of their own (`rates_at`)."""
        return self._execution.scheduler == "OneCycle" and self.stage == 0 and self._epoch >= self._warmup

    def rates_at(self, batches_done: int, batches: float) -> dict[str, float]:
        """`rates` of the step after `batches_done` of the `batches` of the epoch that comes next."""
        stage = min(self.stage, len(self._stages))
        if stage == 0:
            return dict.fromkeys(PARTS, self._main_rate(batches_done / batches))
        factors = self._stages[stage - 1].rates
        return {part: self._first_rate * factors[part] for part in PARTS if factors.get(part)}

    def weight_rates(
        self, names: Iterable[str], batches_done: int = 0, batches: float = 1
    ) -> dict[str, float]:
        """`{name: rate}` of the weights among `names`, which are all that may be trained, that move next.

        The numbers of batches are those of `rates_at`.
        """
        rates = self.rates_at(batches_done, batches)
        return {name: rates[part] for name, part in parts_of_weights(names).items() if part in rates}

    def _main_rate(self, within_epoch: float) -> float:
        first, done, warmup = self._first_rate, self._epoch, self._warmup
        if done < warmup:
            return first * (done + 1) / warmup
        scheduler, floor = self._execution.scheduler, self._execution.min_lr_ratio
        if scheduler in ("Default", "ReduceLROnPlateau"):
            return self._plateau_rate
        if scheduler == "Exponential":
            return first * max(floor, EXPONENTIAL_FACTOR ** (done - warmup))
        left = max(1, self._nepochs - warmup)
        progress = (done - warmup) / left
        if scheduler == "OneCycle":
            progress, rise = (done - warmup + within_epoch) / left, 0.0 if warmup else ONE_CYCLE_RISE
            if progress < rise:
                return first * (ONE_CYCLE_START + (1 - ONE_CYCLE_START) * progress / rise)
            progress = (progress - rise) / (1 - rise)
        if scheduler in ("Cosine", "WarmupCosine", "OneCycle"):
            swing = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
            return first * (floor + (1 - floor) * swing)
        if scheduler == "MultiStage":
            return first * next(factor for start, factor in reversed(STAGES) if progress >= start)
        raise ConfigError(f"scheduler: got {scheduler!r}, which this version does not know")

    # --- where training is

    @property
    def stage(self) -> int:
        """Stage of the epoch that comes next.

        0 for the main epochs; one more than there are stages when nothing is left.
        """
        return self._stage + 1 if self._stage_is_over else self._stage

    @property
    def epochs_left(self) -> int:
        """Epochs still to come, unless one of the patiences ends some of them early."""
        lengths = [self._nepochs, *(stage.epochs for stage in self._stages)][self.stage :]
        done = 0 if self._stage_is_over else self._epochs_in_stage
        return sum(lengths) - done if lengths else 0

    @property
    def should_stop(self) -> bool:
        """True once training is over: every epoch done, or no improvement for as long as the patience."""
        return self.stage > len(self._stages)

    @property
    def _epochs_in_stage(self) -> int:
        return self._stage_epochs if self._stage else self._epochs_before + self._epoch

    @property
    def _stage_is_over(self) -> bool:
        if self._stage > len(self._stages):
            return False
        patience, length = self._execution.early_stop_patience, self._nepochs
        if self._stage:
            patience = self._execution.finetune_early_stop_patience
            length = self._stages[self._stage - 1].epochs
        return self._epochs_in_stage >= length or self._epochs_since_best >= patience

    def finish_epoch(self, monitored_loss: float) -> None:
        """Record an epoch's loss: of the validation set, or of training where there is none."""
        warming_up = self._epoch < self._warmup
        stage = min(self.stage, len(self._stages))
        if stage != self._stage:
            # every stage looks for a best of its own
            self._stage, self._stage_epochs = stage, 0
            self._best, self._epochs_since_best = math.inf, 0
        self._epoch += 1
        self._stage_epochs += 1 if self._stage else 0
        if monitored_loss < self._best:
            self._best, self._epochs_since_best, self._epochs_since_cut = monitored_loss, 0, 0
            return
        self._epochs_since_best += 1
        if self._stage or warming_up:
            return
        self._epochs_since_cut += 1
        if self._epochs_since_cut >= PLATEAU_PATIENCE:
            smallest = min(PLATEAU_SMALLEST_RATE, self._first_rate)
            self._plateau_rate = max(smallest, self._plateau_rate * PLATEAU_FACTOR)
            self._epochs_since_cut = 0

    # --- state

    def state(self) -> dict[str, Any]:
        """Resume state for `restore`: plain numbers. The best loss is None before the first epoch."""
        return {
            "epoch": self._epoch,
            "first_rate": self._first_rate,
            "plateau_rate": self._plateau_rate,
            "best": None if math.isinf(self._best) else self._best,
            "epochs_since_best": self._epochs_since_best,
            "epochs_since_cut": self._epochs_since_cut,
            "stage": self._stage,
            "stage_epochs": self._stage_epochs,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; one from before there were stages is of the main epochs.

        Another `learning_rate` than that of `state` is used from here on, with the cuts that were made.
        """
        self._epoch = int(state["epoch"])
        self._epochs_before = max(0, self._epochs_before - self._epoch)
        self._plateau_rate = self._restored_rate(float(state["plateau_rate"]), state.get("first_rate"))
        self._best = math.inf if state["best"] is None else float(state["best"])
        self._epochs_since_best = int(state["epochs_since_best"])
        self._epochs_since_cut = int(state["epochs_since_cut"])
        self._stage = max(0, int(state.get("stage", 0)))
        self._stage_epochs = int(state.get("stage_epochs", 0))

    def _restored_rate(self, rate: float, first: float | None) -> float:
        """The rate after the cuts of a state, which started from `first` (None: an older file)."""
        if first is None:
            return min(rate, self._first_rate)
        if first == self._first_rate:
            return rate
        log.info("learning_rate: %g from here on, instead of %g before", self._first_rate, first)
        return max(min(PLATEAU_SMALLEST_RATE, self._first_rate), rate * self._first_rate / first)


def schedule_of(start: "TrainedModel", execution: ExecutionConfig) -> TrainingSchedule:
    """The schedule with which training starts from `start`, or goes on where that was left."""
    schedule = TrainingSchedule(execution, start.config.nepochs, start.epochs_done)
    if start.training_state is not None:
        schedule.restore(start.training_state.schedule)
    return schedule


def already_trained_message(plan: "TrainingPlan", execution: ExecutionConfig) -> str:
    """Message for a resume request with no epochs left."""
    request = f"nepochs: {plan.config.nepochs} asked for"
    if execution.finetune_stages:
        request += f" and {execution.finetune_epochs} of fine-tuning"
    state = plan.start.training_state
    if plan.epochs_done >= plan.config.nepochs + execution.finetune_epochs:
        why = "are done already"
    elif state is not None and state.schedule.get("stage"):
        why = "are done, and fine-tuning, after which there are no more main epochs, is over"
    else:
        why = "are done, and early_stop_patience has ended them; raise it to go on"
    return f"{request}, {plan.epochs_done} {why}; the model is returned as it is"
