"""A step and a prediction as `Backend` offers them, NumPy in and out, models made anew. Floor: the convolutions."""

import numpy as np
import pytest
from floor import in_turn, make_case

pytestmark = pytest.mark.parametrize("plan", [pytest.param((1, 1, 64, 16), id="f1-g1")], indirect=True)


@pytest.fixture
def case(benchmark, backend, execution, plan):
    """Source of the convolutions; None if they are not needed."""
    return make_case(backend.name, plan, execution) if benchmark.enabled else None


def measure(benchmark, case, work, floors, groups, share):
    if case is None:
        benchmark(work)
        return
    for one in (work, *floors):
        one()
    benchmark.extra_info["groups_per_second"] = groups / in_turn(
        benchmark, work, floors, timed=case.timed, share=share
    )


def test_forward(benchmark, backend, execution, plan, case):
    batch = plan.gather(plan.train_indices[: plan.config.batch_size])
    results = []

    def forward() -> None:
        weights = plan.start.weights
        results.append(backend.forward(plan.config.model, weights, batch, execution=execution).amplitude)

    floors = [layer.forward for layer in case.convolutions] if case else []
    measure(benchmark, case, forward, floors, len(batch), 1.0)
    assert np.isfinite(results[-1]).all()


def test_train_steps(benchmark, backend, execution, plan, case):
    batches = [plan.gather(indices) for indices in plan.epoch_batches(1)[:3]]
    results = []

    def steps() -> None:
        weights = backend.train_step(plan.config, plan.start.weights, batches, execution=execution)
        results.append(weights["log_scale"])

    floors = [layer.both for layer in case.convolutions] if case else []
    measure(benchmark, case, steps, floors, sum(map(len, batches)), 1 / len(batches))
    assert not np.array_equal(results[-1], plan.start.weights["log_scale"])
