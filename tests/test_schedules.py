import itertools
import json

import pytest

from ptycho_backends.config import SCHEDULERS, ExecutionConfig
from ptycho_backends.schedules import TrainingSchedule


def rates(losses, nepochs=None, **settings):
    schedule = TrainingSchedule(ExecutionConfig(**settings), nepochs or len(losses))
    seen = []
    for loss in losses:
        seen.append(schedule.learning_rate)
        schedule.finish_epoch(loss)
    return [*seen, schedule.learning_rate]


def test_default_halves_after_two_epochs_without_improvement():
    assert rates([5, 4, 4, 4, 3, 3, 3]) == [1e-3] * 4 + [5e-4] * 3 + [2.5e-4]
    assert rates([5, 4, 4, 3, 3, 2]) == [1e-3] * 7


def test_default_stops_at_the_smallest_rate():
    assert rates([1.0] * 30)[-1] == 1e-4
    # a user's own rate below that is kept, not raised
    assert rates([1.0] * 30, learning_rate=1e-5)[-1] == 1e-5


def test_exponential():
    assert rates([1, 1], scheduler="Exponential") == pytest.approx([1e-3, 0.95e-3, 0.9025e-3])


def test_warmup_cosine():
    got = rates([1.0] * 100, scheduler="WarmupCosine")
    assert got[:5] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3])
    assert got[5] == pytest.approx(1e-3)
    assert got[-1] == pytest.approx(1e-4)
    assert all(a >= b for a, b in itertools.pairwise(got[5:]))


def test_multi_stage():
    got = rates([1.0] * 20, scheduler="MultiStage")
    assert got[:20] == pytest.approx([1e-3] * 10 + [5e-4] * 5 + [2.5e-4] * 3 + [1e-4] * 2)


def test_early_stopping_counts_epochs_since_the_best():
    schedule = TrainingSchedule(ExecutionConfig(early_stop_patience=3), 100)
    for loss, stop in [(3, False), (2, False), (2, False), (2.5, False), (2, True)]:
        schedule.finish_epoch(loss)
        assert schedule.should_stop == stop


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("split", [0, 1, 4])
def test_a_restored_schedule_goes_on_as_if_nothing_had_happened(scheduler, split):
    losses = [5, 4, 4, 4, 3, 3, 3, 3]
    execution = ExecutionConfig(scheduler=scheduler)
    first = TrainingSchedule(execution, 8)
    for loss in losses[:split]:
        first.finish_epoch(loss)
    second = TrainingSchedule(execution, 8)
    second.restore(json.loads(json.dumps(first.state())))
    got = []
    for loss in losses[split:]:
        got.append(second.learning_rate)
        second.finish_epoch(loss)
    assert got == rates(losses, scheduler=scheduler)[split:-1]
