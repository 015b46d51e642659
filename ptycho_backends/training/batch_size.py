"""The batch size that a device computes well with, found by trying, on any backend.

Steps take longer with their batch, but at first less than in proportion. The size that is found is the smallest
power of two whose next one computes hardly more groups a second, or no longer fits the memory.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.training.plan import TrainingPlan
from ptycho_backends.values import Batch, TrainedModel, Weights

log = logging.getLogger(__name__)

SMALLEST = 4
# A larger batch means fewer steps from the same groups, so it must pay.
LEAST_GAIN = 1.1
# An epoch of fewer steps would learn little.
LEAST_STEPS = 8
# No step is tried that should take longer.
LONGEST_STEP_S = 20.0


class Computes(Protocol):
    """The two methods of a backend that are timed."""

    def forward(
        self, config: ModelConfig, weights: Weights, batch: Batch, *, execution: ExecutionConfig | None = None
    ) -> Any: ...

    def train_step(
        self,
        config: TrainingConfig,
        weights: Weights,
        batches: Sequence[Batch],
        *,
        execution: ExecutionConfig | None = None,
    ) -> Any: ...


Gather = Callable[[int], Batch]
Compute = Callable[[Batch], float]


def training_batch_size(backend: Computes, plan: TrainingPlan, execution: ExecutionConfig) -> int:
    """Value for `TrainingConfig.batch_size` that trains most groups a second, with at least 8 steps an epoch.

    Parameters
    ----------
    backend : Backend
    plan : TrainingPlan
        Of `plan_training`; its own batch size plays no part.
    execution : ExecutionConfig

    Raises
    ------
    MemoryError, or the framework's own
        If even the smallest batch, 4 groups, does not fit.
    """

    def step_seconds(batch: Batch) -> float:
        # several steps less one: without the time it takes to begin
        steps = [_seconds(backend, plan, execution, [batch] * count) for count in (1, 3)]
        return max(steps[1] - steps[0], 0.0) / 2 or steps[0]

    groups = plan.train_indices
    largest = max(SMALLEST, len(groups) // LEAST_STEPS)
    return _smallest_good(lambda size: plan.gather(groups[:size]), step_seconds, largest)


def inference_batch_size(
    backend: Computes, model: TrainedModel, groups: GroupedData, execution: ExecutionConfig
) -> int:
    """Value for `ExecutionConfig.inference_batch_size` that predicts most groups a second.

    Parameters
    ----------
    backend : Backend
    model : TrainedModel
    groups : GroupedData
        To be predicted (`plan.inference_groups`).
    execution : ExecutionConfig

    Raises
    ------
    MemoryError, or the framework's own
        If even the smallest batch, 4 groups, does not fit.
    """

    def seconds(batch: Batch) -> float:
        started = time.perf_counter()
        backend.forward(model.config.model, model.weights, batch, execution=execution)
        return time.perf_counter() - started

    def gather(size: int) -> Batch:
        return groups.batch(slice(size), intensity_scale=model.intensity_scale)

    return _smallest_good(gather, seconds, len(groups))


def _seconds(
    backend: Computes, plan: TrainingPlan, execution: ExecutionConfig, batches: list[Batch]
) -> float:
    started = time.perf_counter()
    backend.train_step(plan.config, plan.start.weights, batches, execution=execution)
    return time.perf_counter() - started


def _smallest_good(gather: Gather, compute: Compute, largest: int) -> int:
    size = min(SMALLEST, 1 << (largest.bit_length() - 1))
    rate = _rate(gather, compute, size)
    while 2 * size <= largest and 2 * size / rate <= LONGEST_STEP_S:
        try:
            next_rate = _rate(gather, compute, 2 * size)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            log.info("batches of %d groups do not fit the memory", 2 * size)
            break
        if next_rate < LEAST_GAIN * rate:
            break
        size, rate = 2 * size, next_rate
    log.info("batches of %d groups: %.3g groups/s", size, rate)
    return size


def _rate(gather: Gather, compute: Compute, size: int) -> float:
    """Groups a second; the first call warms up."""
    batch = gather(size)
    compute(batch)
    return size / max(compute(batch), 1e-9)


def _is_out_of_memory(error: BaseException) -> bool:
    """True for an error by which a framework reports that memory ran out."""
    named = type(error).__name__ in ("OutOfMemoryError", "ResourceExhaustedError")
    return isinstance(error, MemoryError) or named or "can't allocate memory" in str(error)
