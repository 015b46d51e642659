"""A step and a prediction as `Backend` offers them, NumPy in and out, models made anew. Floor: the convolutions."""

import numpy as np
import pytest
from floor import in_turn, make_case

pytestmark = pytest.mark.parametrize("plan", [pytest.param((1, 1, 64, 16), id="f1-g1")], indirect=True)


def test_forward(benchmark, backend, execution, plan):
    batch = plan.gather(plan.train_indices[: plan.config.batch_size])
    config, weights, results = plan.config.model, plan.start.weights, []

    def forward() -> None:
        results.append(backend.forward(config, weights, batch, execution=execution))

    floors = []
    if benchmark.enabled:
        floors = [layer.forward for layer in make_case(backend.name, plan, execution).convolutions]
    median = in_turn(benchmark, forward, warmed(forward, floors))
    if median is not None:
        benchmark.extra_info["groups_per_second"] = len(batch) / median
    assert np.isfinite(results[-1].amplitude).all()


def test_train_steps(benchmark, backend, execution, plan):
    batches = [plan.gather(indices) for indices in plan.epoch_batches(1)[:3]]
    results = []

    def steps() -> None:
        weights = backend.train_step(plan.config, plan.start.weights, batches, execution=execution)
        results.append(weights["log_scale"])

    floors = []
    if benchmark.enabled:
        floors = [layer.both for layer in make_case(backend.name, plan, execution).convolutions]
    median = in_turn(benchmark, steps, warmed(steps, floors), share=1 / len(batches))
    if median is not None:
        benchmark.extra_info["groups_per_second"] = sum(map(len, batches)) / median
    assert not np.array_equal(results[-1], plan.start.weights["log_scale"])


def warmed(work, floors):
    """The floors, after they and `work` ran once: the first time compiles."""
    if floors:
        for one in (work, *floors):
            one()
    return floors
