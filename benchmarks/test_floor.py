"""Training and inference beside their floor (`floor.py`), and a whole epoch beside its steps."""

import statistics

import numpy as np
import pytest
from floor import make_case, measured, record_ratios

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.registry import get_backend, installed_backends
from ptycho_backends.training.plan import plan_training

BACKENDS = [name for name in ("torch", "tensorflow") if name in installed_backends()]
BATCH = 16


@pytest.fixture(params=["32-true", "bf16-mixed"])
def execution(request) -> ExecutionConfig:
    return ExecutionConfig(
        precision=request.param, enable_progress_bar=False, logger_backend=None, enable_checkpointing=False
    )


@pytest.fixture(params=BACKENDS)
def case(request, plan, execution):
    return make_case(request.param, plan, execution)


def test_training_step(benchmark, case, plan):
    measured(benchmark, case, training=True, groups=plan.config.batch_size)
    assert np.isfinite(float(case.step()))


def test_inference(benchmark, case, plan):
    measured(benchmark, case, training=False, groups=plan.config.batch_size)
    assert np.isfinite(np.asarray(case.infer())).all()


@pytest.mark.parametrize("name", BACKENDS)
def test_epoch(benchmark, make_scan, name):
    """Floor: as many single steps, which are measured before and after it."""
    batches, epochs = (8, 8) if benchmark.enabled else (2, 2)
    config = TrainingConfig(
        model=ModelConfig(N=64, n_filters_scale=1, gridsize=1),
        n_groups=BATCH * batches,
        batch_size=BATCH,
        nepochs=epochs,
        validation_share=0.0,
    )
    scan, execution = make_scan(BATCH * batches), ExecutionConfig(logger_backend="csv")
    case = make_case(name, plan_training(scan, config, name), execution)
    case.step()
    before = [case.timed(case.step) for _ in range(epochs)]
    model = benchmark.pedantic(get_backend(name).train, (scan, config), {"execution": execution}, rounds=1)
    after = [case.timed(case.step) for _ in range(epochs)]
    assert len(model.history) == epochs
    if benchmark.stats is not None:
        # the first compiles and warms up
        seconds = [record.seconds for record in model.history[1:]]
        floors = [batches * (one + other) / 2 for one, other in zip(before, after, strict=True)][1:]
        record_ratios(benchmark, seconds, floors)
        benchmark.extra_info["groups_per_second"] = BATCH * batches / statistics.median(seconds)
