"""The progress display, on a terminal and in a log file, with a clock that the tests move."""

import sys

import pytest
from oracle_backend import OracleBackend

from ptycho_backends.config import ExecutionConfig, ModelConfig, RefinementConfig, TrainingConfig
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.progress import Progress, as_time, leave_line

CONFIG = TrainingConfig(model=ModelConfig(N=16, architecture="unrolled", gridsize=1), nphotons=1e4)
SHOWN = ExecutionConfig(enable_progress_bar=True, logger_backend="none", enable_checkpointing=False)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def terminal(capsys, monkeypatch):
    """Makes standard error a terminal of so many columns, when the test calls it."""

    def become_terminal(columns=120):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(columns))

    yield become_terminal
    leave_line()


def test_one_line_is_rewritten_on_a_terminal(terminal, clock, capsys):
    terminal()
    progress = Progress(3, 0, 80, clock=clock)
    clock.now += 2
    progress.step(5, 10, lambda: 4.0)
    progress.step(6, 10, lambda: pytest.fail("too soon for another look at the loss"))
    clock.now += 2
    progress.finish(1, 3.5, 3.75, 4.0)
    clock.now += 1
    progress.step(5, 10, lambda: 3.0)
    clock.now += 3
    progress.finish(2, 2.5, None, 4.0)
    progress.close()
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown.endswith("\n")
    assert [line.rstrip() for line in shown.strip().split("\r")] == [
        # half of the first epoch in 2 s: 10 s of 12 are left
        "epoch 1/3, batch 5/10: train_loss 4, 20 groups/s, 0:10 left",
        "epoch 1/3: train_loss 3.5, val_loss 3.75, 20 groups/s, 0:08 left",
        "epoch 2/3, batch 5/10: train_loss 3 (-0.5), 40 groups/s, 0:06 left",
        "epoch 2/3: train_loss 2.5 (-1), 20 groups/s, 0:04 left",
    ]


def test_a_line_never_reaches_the_next_one(terminal, clock, capsys):
    terminal(30)
    Progress(3, 0, 80, clock=clock).finish(1, 1 / 3, 1 / 7, 4.0)
    shown = capsys.readouterr().err
    assert len(shown.lstrip("\r")) == 29


def test_a_shorter_line_leaves_nothing_of_a_longer_one(terminal, clock, capsys):
    terminal()
    progress = Progress(9, 0, 80, clock=clock)
    progress.finish(1, 1 / 3, 1 / 7, 4.0)
    clock.now += 1
    progress.finish(2, 1.0, None, 4.0)
    first, second = capsys.readouterr().err.strip("\r").split("\r")
    assert len(second) == len(first) > len(second.rstrip())


def test_a_log_file_gets_a_line_an_epoch_and_one_a_second_at_most(clock, capsys):
    slow = Progress(3, 0, 80, clock=clock)
    slow.step(1, 2, lambda: pytest.fail("nobody watches"))
    for number in (1, 2, 3):
        clock.now += 2
        slow.finish(number, 1.0, None, 2.0)
    slow.close()
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "epoch 1/3", "epoch 2/3", "epoch 3/3",
    ]  # fmt: skip
    quick = Progress(100, 0, 80, clock=clock)
    for number in range(1, 101):
        clock.now += 0.1
        quick.finish(number, 1.0, None, 0.1)
    quick.close()
    numbers = [int(line.split()[1].split("/")[0]) for line in capsys.readouterr().err.splitlines()]
    assert numbers[0] == 1
    assert numbers[-1] == 100
    assert 9 <= len(numbers) <= 12


def test_the_last_epoch_is_shown_where_training_ends_early(clock, capsys):
    progress = Progress(100, 0, 80, clock=clock)
    progress.finish(1, 1.0)
    progress.finish(2, 0.5)
    progress.close()
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "epoch 1/100",
        "epoch 2/100",
    ]


def test_durations():
    assert [as_time(seconds) for seconds in (-1, 0.4, 59.6, 3599, 3600, 90000)] == [
        "0:00", "0:00", "1:00", "59:59", "1:00:00", "25:00:00",
    ]  # fmt: skip


def test_every_backend_has_the_display_and_counts_from_one(capsys):
    scan = simulate_star(16, 12)
    config = TrainingConfig(**{**vars(CONFIG), "nepochs": 2})
    model = OracleBackend().train(scan, config, execution=SHOWN)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("epoch 1/2: train_loss 10, val_loss 11, ")
    assert last.startswith("epoch 2/2: train_loss 5 (-5), val_loss 5.5, ")
    assert last.endswith("groups/s, 0:00 left")
    # one that is resumed goes on with the numbers, and with the change since the first epoch of all
    config = TrainingConfig(**{**vars(CONFIG), "nepochs": 4})
    OracleBackend().train(scan, config, execution=SHOWN, resume_from=model)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("epoch 3/4: train_loss 3.33333 (-6.67), ")
    assert lines[-1].startswith("epoch 4/4: ")


def test_refinement_has_it_too(capsys):
    scan = simulate_star(16, 12)
    seen = []
    config = RefinementConfig(passes=2, refine_probe=False)
    OracleBackend().refine(None, scan, config, execution=SHOWN, on_pass=seen.append)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"pass 1/2: R-factor {seen[0].r_factor:.4g}, ")
    assert lines[-1].startswith("pass 2/2: R-factor ")
    assert "positions/s" in lines[-1]
    OracleBackend().refine(None, scan, config, execution=ExecutionConfig(enable_progress_bar=False))
    assert capsys.readouterr().err == ""
