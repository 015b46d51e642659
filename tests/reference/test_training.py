"""The reference's trainer: against sums by hand, and against itself after a stop."""

import dataclasses

import numpy as np
import pytest

from ptycho_backends import constants
from ptycho_backends.config import FinetuneStage
from ptycho_backends.reference import model as reference
from ptycho_backends.reference import training
from ptycho_backends.testing.measurements import DOUBLE
from ptycho_backends.testing.verb_cases import VerbCase
from ptycho_backends.training.plan import plan_training
from ptycho_backends.training.schedule import schedule_of

CASE = VerbCase(loss="nll+mae", nepochs=2, seed=3)


def made_up(config, weights, batch):
    """A gradient that needs no reverse pass: it leads to small weights, and knows the batch."""
    lit = float(batch.diffraction_amplitude.mean())
    return {name: value * lit for name, value in reference.in_double(weights).items()}


def course(plan, **settings):
    return training.Course(
        lambda epoch: [plan.gather(part, epoch) for part in plan.epoch_batches(epoch)],
        [plan.gather(part) for part in plan.validation_batches()],
        **settings,
    )


def trained(plan, execution=DOUBLE, **options):
    settings = {"accum_steps": execution.accum_steps, "largest_norm": execution.gradient_clip_val}
    schedule = schedule_of(plan.start, execution)
    return training.train(plan.start, course(plan, **settings), schedule, made_up, **options)


@pytest.fixture(scope="module")
def plan():
    return plan_training(CASE.data(), CASE.config, "torch", DOUBLE)


def test_first_steps_by_hand(plan):
    model = trained(plan, stop_after=1)
    [first, *_] = course(plan).batches(1)
    slope = made_up(None, plan.start.weights, first)["log_scale"]
    rate = DOUBLE.learning_rate
    want = plan.start.weights["log_scale"] - rate * slope / (abs(slope) + constants.ADAM_EPSILON)
    np.testing.assert_allclose(model.weights["log_scale"], want, rtol=1e-7)
    state = model.training_state
    assert (state.step, state.epoch, state.batches_done) == (1, 0, 1)
    np.testing.assert_allclose(state.first_moments["log_scale"], (1 - constants.ADAM_BETA1) * slope)
    loss = reference.loss(plan.config, plan.start.weights, first)["total"]
    assert state.loss_sum == pytest.approx(loss * len(first))
    assert model.interrupted


def test_a_stop_changes_nothing_but_the_rounding_of_the_weights(plan):
    whole = trained(plan)
    assert [row.epoch for row in whole.history] == [1, 2]
    for batches in (1, 3, 4):
        start = trained(plan, stop_after=batches)
        resumed = trained(dataclasses.replace(plan, start=start))
        assert resumed.training_state.step == whole.training_state.step
        for one, other in zip(resumed.history, whole.history, strict=True):
            assert one.train_loss == pytest.approx(other.train_loss, rel=1e-6)
            assert one.val_loss == pytest.approx(other.val_loss, rel=1e-6)
        for name, value in whole.weights.items():
            np.testing.assert_allclose(resumed.weights[name], value, rtol=1e-5, atol=1e-6)
        # what was resumed stays as it was
        assert start.training_state.step == batches


def test_accumulation_makes_fewer_steps(plan):
    model = trained(plan, dataclasses.replace(DOUBLE, accum_steps=2))
    batches = plan.batches_an_epoch
    assert model.training_state.step == 2 * -(-batches // 2)


def test_stages_freeze_what_they_do_not_name(plan):
    stage = FinetuneStage(1, {"decoder": 1.0})
    main = trained(plan)
    tuned = trained(plan, dataclasses.replace(DOUBLE, finetune_stages=(stage,)))
    assert len(tuned.history) == 3
    frozen = [name for name in main.weights if name.startswith("encoder/")]
    assert frozen
    for name in frozen:
        np.testing.assert_array_equal(tuned.weights[name], main.weights[name])
        first, kept = (one.training_state.first_moments[name] for one in (tuned, main))
        np.testing.assert_array_equal(first, kept)
    assert (tuned.weights["log_scale"] != main.weights["log_scale"]).all()


def test_clipped_gradients_keep_their_direction():
    gradients = {"a": np.array([3.0, 0.0]), "probe": np.array([[4.0j]])}
    short = training.clipped(gradients, 1.0)
    np.testing.assert_allclose(short["a"], [0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(short["probe"], [[0.8j]], rtol=1e-6)
    assert training.clipped(gradients, 6.0) is gradients
    assert training.clipped(gradients, None) is gradients
