"""A step and a prediction as `Backend` offers them, NumPy in and out; `extra_info` gives groups per second."""

import numpy as np
import pytest

pytestmark = pytest.mark.parametrize("plan", [pytest.param((1, 1, 64, 16), id="f1-g1")], indirect=True)


def record_rate(benchmark, groups: int) -> None:
    if benchmark.stats is not None:
        benchmark.extra_info["groups_per_second"] = groups / benchmark.stats.stats.median


def test_forward(benchmark, backend, execution, plan):
    batch = plan.gather(plan.train_indices[: plan.config.batch_size])
    config, weights = plan.config.model, plan.start.weights
    predicted = benchmark(backend.forward, config, weights, batch, execution=execution)
    record_rate(benchmark, len(batch))
    assert np.isfinite(predicted.amplitude).all()


def test_train_steps(benchmark, backend, execution, plan):
    batches = [plan.gather(indices) for indices in plan.epoch_batches(1)[:3]]
    after = benchmark(backend.train_step, plan.config, plan.start.weights, batches, execution=execution)
    record_rate(benchmark, sum(map(len, batches)))
    assert not np.array_equal(after["log_scale"], plan.start.weights["log_scale"])
