"""Numbers that are not finite: found, named, and tried again at a smaller rate."""

import dataclasses
import math

import numpy as np
import pytest
from ptycho_backends.simulate import simulate_star

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import DivergenceError
from ptycho_backends.training.divergence import (
    NotFiniteError,
    StepWatch,
    divergence,
    seconds_between_looks,
    with_retries,
)
from ptycho_backends.training.epochs import EpochCounter
from ptycho_backends.training.plan import plan_training
from ptycho_backends.training.schedule import schedule_of


@pytest.fixture(scope="module")
def plan():
    model = ModelConfig(N=16, architecture="unrolled", n_steps=2)
    config = TrainingConfig(model=model, nepochs=3, batch_size=8, nphotons=1e5, n_groups=24)
    return plan_training(simulate_star(16, 24, n_photons=1e5, seed=0), config, "torch")


def test_the_first_number_that_is_not_finite_is_named():
    looks = []

    def fetch(values):
        looks.append(len(values))
        return values

    watch = StepWatch(fetch, math.inf)
    for batch, loss in enumerate((1.0, 2.0, math.inf, math.nan), start=1):
        watch.note(batch, "the loss", loss)
    assert looks == []
    with pytest.raises(NotFiniteError) as caught:
        watch.look()
    assert caught.value.args == (3, "the loss", math.inf)
    assert looks == [4]
    watch.look()
    assert looks == [4]


def test_a_processor_is_looked_at_after_every_step_and_processes_together():
    watch = StepWatch(list, seconds_between_looks(1, on_processor=True))
    with pytest.raises(NotFiniteError):
        watch.note(1, "the loss", math.nan)
    assert seconds_between_looks(2, on_processor=True) == math.inf
    assert 0 < seconds_between_looks(1, on_processor=False) < math.inf


def counter(plan, epochs=0):
    module = EpochCounter()
    module.start_from(plan.start, ExecutionConfig(learning_rate=10.0))
    module.epoch_batches = plan.batches_an_epoch
    for _ in range(epochs):
        module.begin_epoch()
        module.count_batches(1, 8)
        module.end_epoch(8.0, 1.0)
    return module


def test_the_error_tells_where_and_what_to_change(plan):
    module = counter(plan, epochs=1)
    module.begin_epoch()
    module.count_batches(1, 8)
    with pytest.raises(DivergenceError) as caught:
        module.note("the loss", math.nan)
    for part in (
        "epoch 2, batch 1 of 3",
        "the loss is nan",
        "learning_rate (got 10",
        "nphotons (got 100000)",
        "patterns",
    ):
        assert part in str(caught.value)
    assert caught.value.trained_model is plan.start


@pytest.mark.parametrize(("loss", "val_loss"), [(math.inf, 1.0), (8.0, math.nan)])
def test_an_epoch_whose_mean_is_not_finite_is_not_in_the_history(plan, loss, val_loss):
    module = counter(plan)
    module.begin_epoch()
    module.count_batches(1, 8)
    with pytest.raises(DivergenceError, match="in epoch 1:"):
        module.end_epoch(loss, val_loss)
    assert module.history == []


def test_no_model_has_a_weight_or_a_moment_that_is_not_finite(plan):
    module = counter(plan, epochs=1)

    def state(weights, moment):
        return module.neutral_state(
            backend="torch",
            weights=weights,
            step=1,
            loss_sum=0.0,
            moments=({}, {"log_scale": moment}),
            interrupted=False,
        )

    assert state(plan.start.weights, np.float32(1)).epochs_done == 1
    # of float64, and too large for the float32 of files
    broken = {**plan.start.weights, "log_scale": np.float64(1e300)}
    with np.errstate(over="ignore"), pytest.raises(DivergenceError, match="the weight log_scale"):
        state(broken, np.float32(1))
    with pytest.raises(DivergenceError, match="Adam's moment of log_scale"):
        state(plan.start.weights, np.float32(np.inf))


def test_retries_go_on_from_the_last_good_model_at_a_tenth_of_the_rate(plan, caplog):
    rates = []

    def train(plan, execution):
        rates.append(schedule_of(plan.start, execution).learning_rate)
        if len(rates) < 3:
            good = dataclasses.replace(plan.start, backend=f"try {len(rates)}")
            raise divergence(good, "epoch 1, batch 2", "the loss is nan", execution.learning_rate)
        return plan.start

    model = with_retries(train, plan, ExecutionConfig(learning_rate=1.0, divergence_retries=2))
    assert rates == pytest.approx([1.0, 0.1, 0.01])
    assert model.backend == "try 2"
    assert "going on from there with learning_rate=0.01" in caplog.text
    rates.clear()
    with pytest.raises(DivergenceError):
        with_retries(train, plan, ExecutionConfig(learning_rate=1.0, divergence_retries=1))
