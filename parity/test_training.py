"""Training: the first steps, hand-overs from one backend to the other, against a replay in NumPy."""

import dataclasses
import itertools
import signal
from importlib import import_module

import numpy as np
import pytest
from hypothesis import settings

from ptycho_backends.testing.agreement import (
    ALLOWANCES,
    Allowance,
    assert_all_agree,
    assert_within,
    step_deviation,
)
from ptycho_backends.testing.measurements import DOUBLE, require_agreement
from ptycho_backends.testing.replay import replayed_training
from ptycho_backends.testing.scan_measurements import ScanCase, measure_scan
from ptycho_backends.testing.verb_cases import VerbCase
from ptycho_backends.training.plan import plan_training

SCANS = (
    ScanCase(gridsize=2, positions=11, seed=1),
    ScanCase(positions=13, supervised=True, attention=True, seed=3),
    ScanCase(positions=11, seed=1, staged=True),
    ScanCase(positions=10, seed=1, probes=2),
)

SMALL = VerbCase(seed=1)
"""For what does not depend on the network: its graphs are made in a second."""

FIRST_STEP = Allowance(1e-7, "the moments after one step are the gradient and its square, in float64")


# In the profile fast the cases of verbs have stages, and scans with a probe each.
WHOLE = SCANS if settings().max_examples > 16 else SCANS[:2]


@pytest.mark.parametrize("scan", WHOLE, ids=repr)
def test_trained_alike(pair, scan):
    """Weights, history, stitched image and archives of every backend and between them."""
    require_agreement(measure_scan(scan, pair))


@pytest.mark.parametrize(
    "schedule", ["Exponential", "WarmupCosine", "MultiStage", "ReduceLROnPlateau", "Cosine"]
)
def test_learning_rates(backends, schedule):
    config = dataclasses.replace(SCANS[0].config, nepochs=4, n_groups=2, batch_size=2)
    execution = dataclasses.replace(
        DOUBLE, scheduler=schedule, learning_rate=2e-3, warmup_epochs=2 * (schedule == "Cosine")
    )
    rates = [
        [row.learning_rate for row in backend.train(SCANS[0].scan(), config, execution=execution).history]
        for backend in backends.values()
    ]
    assert len(rates[0]) == 4
    for other in rates[1:]:
        assert other == rates[0]


@pytest.mark.parametrize("accum_steps", [1, 2])
def test_a_rate_for_every_step(pair, accum_steps):
    """As replayed in NumPy; stopped within the second epoch, then here or there, the same."""
    scan = SMALL.data()
    config = dataclasses.replace(SMALL.config, nepochs=2, n_groups=11, batch_size=2)
    execution = dataclasses.replace(DOUBLE, scheduler="OneCycle", learning_rate=2e-3, accum_steps=accum_steps)
    for first in pair.values():
        plan = plan_training(scan, config, first.name)
        want, _ = replayed_training(first, plan, execution)
        whole = first.train(scan, config, execution=execution)
        error, where = step_deviation(whole.weights, want, plan.start.weights)
        assert_within(f"{first.name}: weights", error, "training, float64", where)
        start = stopped_after(5 + 2, first, scan, config, execution=execution)
        assert start.training_state.batches_done == 2
        for other in pair.values():
            resumed = other.train(scan, config, execution=execution, resume_from=start)
            error, where = step_deviation(resumed.weights, want, plan.start.weights)
            assert_within(f"{first.name}, then {other.name}: weights", error, "training, float64", where)


def one_step(scan):
    """A configuration of which every epoch is a single step."""
    return dataclasses.replace(scan.config, n_groups=4, batch_size=4, nepochs=1)


def stopped_after(batches, backend, *arguments, **settings):
    """Training that is stopped by Ctrl-C in its batch number `batches`."""
    package = {"torch": "ptycho_torch.backend", "tensorflow": "ptycho_backends.tensorflow"}[backend.name]
    module = import_module(f"{package}.module").PtychoModule
    original, steps = module.training_step, []

    def training_step(self, *given, **named):
        steps.append(1)
        if len(steps) == batches:
            signal.raise_signal(signal.SIGINT)
        return original(self, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "training_step", training_step)
        return backend.train(*arguments, **settings)


def test_fine_tuning_goes_on_elsewhere(pair):
    """Stopped after the main epoch or within the stage that follows, then here or there: the same."""
    case = SCANS[2]
    # three batches an epoch
    execution = dataclasses.replace(case.execution, accum_steps=1)
    rates = [5e-4, 2e-3, 7.5e-4]
    one = next(iter(pair.values()))
    whole = one.train(case.scan(), case.config, execution=execution)
    origin = plan_training(case.scan(), case.config, one.name).start.weights
    assert [row.epoch for row in whole.history] == [1, 2, 3]
    assert [row.learning_rate for row in whole.history] == rates
    for number, first in enumerate(pair.values()):
        start = stopped_after(3 + number % 2, first, case.scan(), case.config, execution=execution)
        assert start.interrupted
        assert (len(start.history), start.training_state.batches_done) == (1, number % 2)
        for other in pair.values():
            resumed = other.train(case.scan(), case.config, execution=execution, resume_from=start)
            subject = f"{first.name}, then {other.name}"
            assert resumed.training_state.step == whole.training_state.step == 9, subject
            assert [row.learning_rate for row in resumed.history] == rates, subject
            # the hand-over rounds the weights to float32
            error, where = step_deviation(resumed.weights, whole.weights, origin)
            assert_within(f"{subject}: weights", error, "training, float64", where)


def test_groups_of_every_epoch_go_on_elsewhere(pair):
    """Other groups in each epoch: stopped within the second, then here or there, the same."""
    scan = SMALL.data()
    config = dataclasses.replace(SMALL.config, resample_groups=True, n_groups=6, batch_size=2, nepochs=2)
    one = next(iter(pair.values()))
    fixed = one.train(scan, dataclasses.replace(config, resample_groups=False), execution=DOUBLE)
    whole = one.train(scan, config, execution=DOUBLE)
    origin = plan_training(scan, config, one.name).start.weights
    assert step_deviation(fixed.weights, whole.weights, origin)[0] > 1e-2
    for first in pair.values():
        start = stopped_after(3 + 1, first, scan, config, execution=DOUBLE)
        assert start.training_state.batches_done == 1
        for other in pair.values():
            resumed = other.train(scan, config, execution=DOUBLE, resume_from=start)
            error, where = step_deviation(resumed.weights, whole.weights, origin)
            assert_within(f"{first.name}, then {other.name}: weights", error, "training, float64", where)


@pytest.mark.parametrize(("scan", "accum_steps"), [(SCANS[0], 1), (SCANS[0], 2), (SCANS[1], 1)], ids=repr)
def test_resuming_on_another_backend(pair, scan, accum_steps):
    """A first step here, the second here or there: the same, moments and weights, running values too."""
    config = one_step(scan)
    execution = dataclasses.replace(DOUBLE, accum_steps=accum_steps)
    for first in pair.values():
        start = first.train(scan.scan(), config, execution=execution)
        longer = dataclasses.replace(config, nepochs=2)
        resumed = {
            name: backend.train(scan.scan(), longer, execution=execution, resume_from=start)
            for name, backend in pair.items()
        }
        for one, other in itertools.combinations(resumed, 2):
            subject = f"{first.name}, then {one} or {other}"
            a, b = resumed[one], resumed[other]
            assert a.training_state.step == b.training_state.step
            loss_bound = ALLOWANCES["losses, float64"].bound
            assert a.training_state.schedule == pytest.approx(b.training_state.schedule, rel=loss_bound)
            for moments in ("first_moments", "second_moments"):
                assert_all_agree(
                    f"{subject}: {moments}",
                    getattr(a.training_state, moments),
                    getattr(b.training_state, moments),
                    FIRST_STEP,
                )
            error, where = step_deviation(a.weights, b.weights, start.weights)
            assert_within(f"{subject}: weights", error, "training, float64", where)
            assert a.history[0] == b.history[0] == start.history[0]
            np.testing.assert_allclose(a.history[1].train_loss, b.history[1].train_loss, rtol=loss_bound)
