"""The batch size that a device computes well with, found on a device that is made up."""

import numpy as np
import pytest

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training import batch_size
from ptycho_backends.training.batch_size import inference_batch_size, training_batch_size
from ptycho_backends.training.plan import inference_groups, plan_training

EXECUTION = ExecutionConfig()


class ResourceExhaustedError(Exception):
    """As TensorFlow names it."""


class Device:
    """A backend whose batch takes `seconds(groups)`; a memory that holds `holds` groups."""

    name = "made up"

    def __init__(self, monkeypatch, seconds, holds=10**6, error=ResourceExhaustedError):
        self.now, self.seconds, self.holds, self.error, self.seen = 0.0, seconds, holds, error, []
        monkeypatch.setattr(batch_size.time, "perf_counter", lambda: self.now)

    def _compute(self, batch):
        self.seen.append(len(batch))
        if len(batch) > self.holds:
            raise self.error("no more")
        self.now += self.seconds(len(batch))

    def train_step(self, config, weights, batches, *, execution):
        self.now += 3.0  # to begin with
        for batch in batches:
            self._compute(batch)

    def forward(self, config, weights, batch, *, execution):
        self._compute(batch)


@pytest.fixture(scope="module")
def plan():
    scan = simulate_star(64, 300, seed=0)
    config = TrainingConfig(model=ModelConfig(N=64, gridsize=1), n_groups=300)
    return plan_training(scan, config, "made up")


def predicted(device, plan):
    return inference_batch_size(device, plan.start, inference_groups(plan.start, plan.groups.scan), EXECUTION)


def test_batches_grow_while_that_pays(monkeypatch, plan):
    # full at 16 groups: from there on, twice the groups take twice the time
    device = Device(monkeypatch, lambda groups: max(1.0, groups / 16))
    assert training_batch_size(device, plan, EXECUTION) == 16
    assert max(device.seen) == 32
    assert predicted(Device(monkeypatch, device.seconds), plan) == 16


def test_an_epoch_keeps_its_steps(monkeypatch, plan):
    """300 positions, some of which judge: 32 groups make 8 steps; a prediction may take them all at once."""
    assert training_batch_size(Device(monkeypatch, lambda groups: 1.0), plan, EXECUTION) == 32
    assert predicted(Device(monkeypatch, lambda groups: 1.0), plan) == 256


def test_no_step_takes_very_long(monkeypatch, plan):
    device = Device(monkeypatch, lambda groups: 0.4 * groups**0.8)
    # in proportion, 128 would take 22 seconds
    assert predicted(device, plan) == 64
    assert max(device.seen) == 64


@pytest.mark.parametrize("error", [MemoryError, ResourceExhaustedError])
def test_what_does_not_fit_is_not_taken(monkeypatch, plan, error):
    assert training_batch_size(Device(monkeypatch, lambda _: 1.0, 20, error), plan, EXECUTION) == 16
    with pytest.raises(error):
        training_batch_size(Device(monkeypatch, lambda _: 1.0, 2, error), plan, EXECUTION)


def test_other_errors_are_told(monkeypatch, plan):
    with pytest.raises(ValueError, match="no more"):
        training_batch_size(Device(monkeypatch, lambda _: 1.0, 20, ValueError), plan, EXECUTION)


def test_few_groups_are_enough(monkeypatch):
    scan = simulate_star(64, 3, seed=0)
    plan = plan_training(scan, TrainingConfig(model=ModelConfig(N=64, gridsize=1), n_groups=3), "made up")
    device = Device(monkeypatch, lambda _: 1.0)
    assert predicted(device, plan) == 2
    assert np.log2(training_batch_size(device, plan, EXECUTION)) % 1 == 0
