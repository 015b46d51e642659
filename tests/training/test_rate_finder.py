"""The search for a learning rate, on a loss that is known, and on real backends."""

import numpy as np
import pytest

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import plan_training
from ptycho_backends.training.rate_finder import RateSweep, save_sweep, suggested_rate, sweep_rates


class Bowl:
    """A backend whose loss is the squared distance of all weights that move from the start plus `away`."""

    def __init__(self, plan, away):
        self.aim = {name: value + away for name, value in plan.start.weights.items()}
        self.calls = 0

    def loss(self, config, weights, batch, *, execution=None):
        distances = [np.sum(np.abs(weights[name] - self.aim[name]) ** 2) for name in self.moving(weights)]
        return {"total": float(sum(distances))}

    def gradients(self, config, weights, batch, *, execution=None):
        self.calls += 1
        return {name: 2 * (weights[name] - self.aim[name]) for name in weights}

    @staticmethod
    def moving(weights):
        return [name for name in weights if name != "probe"]


@pytest.fixture(scope="module")
def plan():
    config = TrainingConfig(
        model=ModelConfig(N=16, architecture="unrolled", gridsize=1, n_filters_scale=1), batch_size=4
    )
    return plan_training(simulate_star(16, 20, seed=0), config, "made up")


def test_the_suggestion_goes_down_the_bowl_and_the_sweep_ends_beyond_it(plan):
    before = {name: value.copy() for name, value in plan.start.weights.items()}
    sweep = sweep_rates(Bowl(plan, 0.1), plan, steps=40)
    # the steps so far add up: 0.1 is reached with a rate of a few hundredths, and overshot afterwards
    assert 3e-3 < sweep.suggestion < 0.1
    assert sweep.losses[-1] > 4 * sweep.losses.max(initial=0, where=sweep.learning_rates < 1e-2)
    assert len(sweep.losses) < 40
    np.testing.assert_allclose(np.diff(np.log(sweep.learning_rates)), np.log(1e6) / 39)
    for name, value in before.items():
        np.testing.assert_array_equal(plan.start.weights[name], value)


def test_accumulated_steps_see_more_batches(plan):
    bowl = Bowl(plan, 10.0)
    sweep_rates(bowl, plan, ExecutionConfig(accum_steps=3, gradient_clip_val=1.0), steps=10)
    assert bowl.calls == 30


def test_a_loss_that_never_falls_has_no_suggestion(plan):
    assert sweep_rates(Bowl(plan, 0.0), plan, steps=20).suggestion is None
    rates = np.geomspace(1e-6, 1, 10)
    assert suggested_rate(rates, np.full(10, 3.0)) is None
    assert suggested_rate(rates[:2], np.array([3.0, 2.0])) is None
    # not in the fall that follows a rise
    losses = np.array([9, 9, 8.5, 5, 4, 4, 20, 40, 20, 6])
    assert suggested_rate(rates, losses) == rates[3]


def test_no_number_ends_a_sweep(plan):
    class Overflows(Bowl):
        def loss(self, *arguments, **options):
            self.calls += 0
            return {"total": np.nan if self.calls > 5 else 9.0 - self.calls}

    sweep = sweep_rates(Overflows(plan, 1.0), plan, steps=20)
    assert len(sweep.losses) == len(sweep.learning_rates) == 5
    assert np.isfinite(sweep.losses).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 3}, "steps: got 3"), ({"lowest": 1.0, "highest": 0.1}, "lowest, highest: got 1, 0.1")],
)
def test_no_sweep(plan, options, message):
    with pytest.raises(ConfigError, match=message):
        sweep_rates(Bowl(plan, 1.0), plan, **options)


def test_a_sweep_as_a_table_and_a_picture(tmp_path):
    sweep = RateSweep(np.array([1e-3, 1e-2]), np.array([2.0, 1.0]), 1e-2)
    assert (
        save_sweep(sweep, tmp_path / "rates.csv").read_text() == "learning_rate,loss\n0.001,2.0\n0.01,1.0\n"
    )
    assert "suggestion 0.01" in sweep._repr_html_()
    assert sweep.plot()._repr_png_().startswith(b"\x89PNG")
