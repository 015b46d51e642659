"""What follows a training, with a backend that takes no time."""

import logging

import pytest
from oracle_backend import OracleBackend

from ptycho_backends.cli.reporting import session
from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.following import Follower, followed
from ptycho_backends.training.plan import plan_training
from ptycho_backends.training.progress import Progress, leave_line

CONFIG = TrainingConfig(model=ModelConfig(N=16, architecture="unrolled", gridsize=1), nepochs=2, nphotons=1e4)
SCAN = simulate_star(16, 12)


class Asking(OracleBackend):
    """Notes what its `on_epoch` answers, and shows steps."""

    def train_plan(self, plan, execution, output_dir=None, on_epoch=None):
        assert isinstance(on_epoch, Follower)
        self.answers = []

        def told(record):
            on_epoch.step(1, 2, lambda: 1.0)
            self.answers.append(on_epoch(record))

        return super().train_plan(plan, execution, output_dir, told)


def test_the_callers_answer_reaches_the_backend(capsys):
    backend = Asking()
    execution = ExecutionConfig(enable_progress_bar=False)
    backend.train(SCAN, CONFIG, execution=execution, on_epoch=lambda record: record.epoch == 2)
    assert backend.answers == [False, True]
    backend.train(SCAN, CONFIG, execution=execution)
    assert backend.answers == [None, None]
    assert capsys.readouterr().err == ""


def test_another_process_shows_and_writes_nothing(tmp_path, monkeypatch, capsys):
    launch = {
        "TORCHELASTIC_RUN_ID": "x", "RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2,
    }  # fmt: skip
    for name, value in launch.items():
        monkeypatch.setenv(name, str(value))
    Asking().train(SCAN, CONFIG, output_dir=tmp_path)
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


def test_nothing_begins_where_nothing_is_left_to_do(tmp_path):
    execution = ExecutionConfig()
    model = OracleBackend().train(SCAN, CONFIG, execution=execution)
    plan = plan_training(SCAN, CONFIG, "oracle", execution, model)
    with followed(plan, execution, tmp_path, None, OracleBackend().object_patches):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_follower_is_not_followed():
    execution = ExecutionConfig(enable_progress_bar=False)
    plan = plan_training(SCAN, CONFIG, "oracle", execution)
    with (
        followed(plan, execution, None, None, OracleBackend().object_patches) as first,
        followed(plan, execution, None, first, OracleBackend().object_patches) as second,
    ):
        assert second is first


def test_a_message_has_a_line_of_its_own(capsys, monkeypatch):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with session(0, False, False):
        Progress(2, 0, 4).finish(1, 1.0)
        logging.getLogger("ptycho_backends").warning("look here")
    leave_line()
    assert capsys.readouterr().err.splitlines()[-1] == "warning: look here"


@pytest.mark.parametrize("shown", [True, False])
def test_quiet_is_quiet(shown, capsys):
    OracleBackend().train(SCAN, CONFIG, execution=ExecutionConfig(enable_progress_bar=shown))
    assert bool(capsys.readouterr().err) == shown
