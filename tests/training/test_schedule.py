import itertools
import json

import pytest

from ptycho_backends.config import SCHEDULERS, ExecutionConfig, FinetuneStage, ModelConfig
from ptycho_backends.reference.initial_weights import weight_shapes
from ptycho_backends.training.schedule import TrainingSchedule, parts_of_weights


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

    assert rates([1] * 60, scheduler="Exponential")[44:47] == pytest.approx([0.95**44 / 1e3, 1e-4, 1e-4])
    assert rates([1] * 9, scheduler="Exponential", min_lr_ratio=0.9)[-1] == pytest.approx(9e-4)


def test_cosine():
    got = rates([1.0] * 8, scheduler="Cosine", min_lr_ratio=0.2, learning_rate=1.0)
    assert got[0] == 1.0
    assert got[2] == pytest.approx(0.6 + 0.4 * 0.5**0.5)
    assert got[4] == pytest.approx(0.6)
    assert got[8] == pytest.approx(0.2)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_warmup_comes_first_and_the_schedule_after_it(scheduler):
    """The rise is the same for every schedule; after it comes the schedule of a shorter training."""
    settings = {"scheduler": scheduler, "min_lr_ratio": 0.3}
    got = rates([1.0] * 14, warmup_epochs=4, **settings)
    assert got[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    if scheduler in ("WarmupCosine", "OneCycle"):
        # it has no rise of its own then
        settings["scheduler"] = "Cosine"
    after = rates([1.0] * 10, **settings)
    if scheduler in ("Default", "ReduceLROnPlateau"):
        # the best epoch was the first of all, so the schedule has not seen one
        after = rates([1.0] * 11, **settings)[1:]
    assert got[4 : 4 + len(after)] == pytest.approx(after)


def test_warmup_cosine():
    got = rates([1.0] * 100, scheduler="WarmupCosine")
    assert got[:5] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3])
    assert got[5] == pytest.approx(1e-3)
    assert got[-1] == pytest.approx(1e-4)
    assert all(a >= b for a, b in itertools.pairwise(got[5:]))


def test_one_cycle_changes_the_rate_at_every_step():
    schedule = TrainingSchedule(
        ExecutionConfig(scheduler="OneCycle", learning_rate=0.5, min_lr_ratio=0.2), nepochs=5
    )
    seen = []
    for _ in range(5):
        assert schedule.changes_within_epoch
        assert schedule.learning_rate == schedule.rates_at(0, 8)["decoder"]
        seen += [schedule.rates_at(step, 8)["decoder"] for step in range(8)]
        schedule.finish_epoch(1.0)
    assert seen[:5] == pytest.approx([0.02, 0.14, 0.26, 0.38, 0.5])  # 4 of 40 steps
    assert seen[4 + 18] == pytest.approx(0.5 * 0.6)
    assert 0.1 < seen[-1] < 0.11
    assert all(a > b for a, b in itertools.pairwise(seen[4:]))


def test_other_rates_are_those_of_the_epoch():
    for scheduler in SCHEDULERS[:-1]:
        schedule = TrainingSchedule(ExecutionConfig(scheduler=scheduler), nepochs=5)
        assert not schedule.changes_within_epoch
        assert schedule.rates_at(3, 8) == schedule.rates
    staged = TrainingSchedule(ExecutionConfig(scheduler="OneCycle", finetune_stages=STAGES), nepochs=1)
    staged.finish_epoch(1.0)
    assert not staged.changes_within_epoch
    assert staged.rates_at(3, 8) == staged.rates


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


# --- fine-tuning

STAGES = (FinetuneStage(3, {"decoder": 0.5, "phase_head": 2}), FinetuneStage(2, {"encoder_top": 0.1}))


def walk(schedule, losses):
    """`(stage, rates, epochs left)` of each epoch until training is over."""
    seen = []
    for loss in losses:
        if schedule.should_stop:
            break
        seen.append((schedule.stage, schedule.rates, schedule.epochs_left))
        schedule.finish_epoch(loss)
    return seen


def tuned(nepochs=2, epochs_done=0, **settings):
    settings = {"learning_rate": 1.0, "scheduler": "Exponential", "finetune_stages": STAGES, **settings}
    return TrainingSchedule(ExecutionConfig(**settings), nepochs, epochs_done)


def test_stages_follow_the_main_epochs():
    seen = walk(tuned(), range(99, 0, -1))
    all_parts = ("encoder_bottom", "encoder_top", "decoder", "phase_head")
    assert seen == [
        (0, dict.fromkeys(all_parts, 1.0), 7),
        (0, dict.fromkeys(all_parts, 0.95), 6),
        *((1, {"decoder": 0.5, "phase_head": 2.0}, left) for left in (5, 4, 3)),
        *((2, {"encoder_top": 0.1}, left) for left in (2, 1)),
    ]
    schedule = tuned()
    walk(schedule, (2, 1))
    assert schedule.learning_rate == 2.0


def test_a_stage_ends_early_and_looks_for_a_best_of_its_own():
    # main: best 1; stage 1: 5 is its best, 6 and 5 are none
    seen = walk(tuned(finetune_early_stop_patience=2), [2, 1, 5, 6, 5, 7, 3])
    assert [stage for stage, _, _ in seen] == [0, 0, 1, 1, 1, 2, 2]
    long = FinetuneStage(9, {"decoder": 0.0, "phase_head": 1.0})
    seen = walk(tuned(finetune_early_stop_patience=1, finetune_stages=(long,)), [2, 1, 5, 5, 4])
    assert [rates for _, rates, _ in seen][2:] == [{"phase_head": 1.0}] * 2
    # main epochs that end early hand over too
    seen = walk(tuned(nepochs=9, early_stop_patience=1), [1, 1, 5, 4, 3, 2, 1])
    assert [stage for stage, _, _ in seen] == [0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("split", range(8))
def test_restored_within_and_between_stages(split):
    losses = [3, 2, 3, 2, 2, 2, 2]
    whole = walk(tuned(), losses)
    first = tuned()
    walk(first, losses[:split])
    second = tuned(epochs_done=split)
    second.restore(json.loads(json.dumps(first.state())))
    assert walk(second, losses[split:]) == whole[split:]
    assert second.should_stop


def test_a_state_from_before_there_were_stages():
    schedule = TrainingSchedule(ExecutionConfig(), 5)
    schedule.finish_epoch(1.0)
    old = {key: value for key, value in schedule.state().items() if not key.startswith("stage")}
    # its training was over, and is now to be fine-tuned
    later = tuned(nepochs=1, epochs_done=1)
    later.restore(old)
    assert (later.stage, later.epochs_left) == (1, 5)
    # and a model without a state has its epochs behind it all the same
    assert (tuned(nepochs=4, epochs_done=3).epochs_left, tuned(nepochs=4, epochs_done=4).stage) == (6, 1)
    assert TrainingSchedule(ExecutionConfig(), 4, 4).should_stop


def test_every_weight_has_its_part():
    parts = parts_of_weights(weight_shapes(ModelConfig(N=64)))
    assert list(parts) == list(weight_shapes(ModelConfig(N=64)))
    named = {
        "encoder/block0/conv1/bias": "encoder_bottom", "encoder/block1/conv0/kernel": "encoder_top",
        "encoder/block2/conv0/kernel": "encoder_top", "phase/inner_head/kernel": "phase_head",
        "phase/border_head/bias": "phase_head", "phase/border/conv0/kernel": "decoder",
        "phase/block0/conv0/kernel": "decoder", "amplitude/inner_head/bias": "decoder",
        "log_scale": "decoder", "probe": "decoder",
    }  # fmt: skip
    assert {name: parts[name] for name in named} == named
    attention = parts_of_weights(
        weight_shapes(
            ModelConfig(
                N=256,
                architecture="attention",
                cbam_encoder=True,
                cbam_bottleneck=True,
                use_shared_decoder=True,
            )
        )
    )
    assert {name.split("/")[1] for name, part in attention.items() if part == "encoder_bottom"} == {
        "block0", "block1",
    }  # fmt: skip
    assert attention["encoder/block1/cbam/mlp0/kernel"] == "encoder_bottom"
    assert attention["encoder/bottleneck/cbam/mlp0/kernel"] == "encoder_top"
    assert attention["decoder/block0/conv0/kernel"] == "decoder"
    assert attention["phase/border_head/kernel"] == "phase_head"
    schedule = tuned()
    walk(schedule, (2, 1))
    assert schedule.weight_rates(["encoder/block0/conv0/bias", "probe", "phase/inner_head/bias"]) == {
        "probe": 0.5, "phase/inner_head/bias": 2.0,
    }  # fmt: skip
