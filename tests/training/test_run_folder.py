"""The folder of a run: its newest state, and the protection of an earlier run."""

import dataclasses
import os
import signal

import pytest
from oracle_backend import OracleBackend

from ptycho_backends import workflows
from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import ConfigError, OutputError, ScanError
from ptycho_backends.refinement.refine import ByItself
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.checkpoints import Checkpoints, best_checkpoints
from ptycho_backends.training.interrupts import Interrupts, TrainingInterrupted
from ptycho_backends.training.plan import plan_training
from ptycho_backends.training.run_folder import free_folder, resumable_file
from ptycho_backends.training.schedule import TrainingSchedule
from ptycho_backends.values import TrainingState


@pytest.fixture(scope="module")
def scan():
    return simulate_star(64, 24)


def settings(**changes):
    given = {"model": ModelConfig(N=64, n_filters_scale=1), "nepochs": 1, "n_groups": 24, "batch_size": 8}
    return TrainingConfig(**(given | changes))


def trained(scan, folder, config, **options):
    return workflows.train(
        scan, config, folder, backend=OracleBackend(), execution=ExecutionConfig(), **options
    )


def test_a_training_that_replaces_another_leaves_none_of_its_checkpoints(tmp_path, scan):
    trained(scan, tmp_path, settings())
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    for name in ("last.wts.h5.zip", "best-epoch=1-val_loss=-3.ckpt"):
        (tmp_path / "checkpoints" / name).write_bytes((tmp_path / "wts.h5.zip").read_bytes())
    trained(scan, tmp_path, settings(seed=1))
    assert not list((tmp_path / "checkpoints").iterdir())
    assert resumable_file(tmp_path) == tmp_path


def test_a_training_that_goes_on_keeps_the_checkpoints(tmp_path, scan):
    first = trained(scan, tmp_path, settings())
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    best = tmp_path / "checkpoints" / "best-epoch=1-val_loss=-3.ckpt"
    best.touch()
    trained(scan, tmp_path, settings(nepochs=2), resume_from=first.model, overwrite=False)
    assert best.exists()
    with pytest.raises(OutputError, match=f"-o {tmp_path}_2"):
        trained(scan, tmp_path, settings(), overwrite=False)


def test_an_older_checkpoint_of_another_training_is_not_resumed(tmp_path, scan):
    one, two = (
        trained(scan, tmp_path / name, settings(nepochs=epochs)) for name, epochs in (("a", 1), ("b", 2))
    )
    folder = two.output_dir
    checkpoint, archive = folder / "checkpoints" / "last.wts.h5.zip", folder / "wts.h5.zip"
    checkpoint.parent.mkdir(exist_ok=True)
    checkpoint.write_bytes((one.output_dir / "wts.h5.zip").read_bytes())
    os.utime(checkpoint, (1, 1))
    assert resumable_file(folder) == archive
    os.utime(archive, (0, 0))
    assert resumable_file(folder) == checkpoint
    # of the same training, the checkpoint knows more
    checkpoint.write_bytes(archive.read_bytes())
    os.utime(checkpoint, (1, 1))
    os.utime(archive, (2, 2))
    assert resumable_file(folder) == checkpoint


def test_the_working_directory_may_change(tmp_path, scan, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    result = trained(scan, "run", settings(), on_epoch=lambda record: os.chdir("elsewhere"))
    assert (tmp_path / "run" / "wts.h5.zip").is_file()
    assert result.output_dir == tmp_path / "run"
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(("changes", "named"), [({"nphotons": 5.0}, "nphotons"), ({"seed": 7}, "seed")])
def test_settings_that_cannot_be_resumed_with_are_refused(tmp_path, scan, changes, named):
    bare = trained(scan, tmp_path, settings()).model
    schedule = TrainingSchedule(ExecutionConfig(), 1).state()
    first = dataclasses.replace(bare, training_state=TrainingState(3, 1, 0, 0.0, {}, {}, schedule))
    with pytest.raises(ConfigError, match=f"{named}: got"):
        trained(scan, tmp_path / "x", settings(nepochs=2, **changes), resume_from=first)
    if named == "seed":
        assert (
            trained(scan, tmp_path / "x", settings(nepochs=2, **changes), resume_from=bare).model.config.seed
            == 7
        )


def test_the_photons_of_a_resumed_model_stay(tmp_path, scan):
    first = trained(scan, tmp_path, settings(nphotons=777.0)).model
    again = trained(scan, tmp_path / "x", settings(nepochs=2), resume_from=first).model
    assert again.config.nphotons == 777.0


def test_another_learning_rate_is_taken():
    before = TrainingSchedule(ExecutionConfig(learning_rate=1e-2), 20)
    for _ in range(4):
        before.finish_epoch(1.0)
    cuts = before.learning_rate / 1e-2
    after = TrainingSchedule(ExecutionConfig(learning_rate=1e-3), 20)
    after.restore(before.state())
    assert cuts < 1
    assert after.learning_rate == pytest.approx(1e-3 * cuts)
    older = {name: value for name, value in before.state().items() if name != "first_rate"}
    after.restore(older)
    assert after.learning_rate <= 1e-3


def test_best_checkpoints_of_before_count(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "best-epoch=2-val_loss=-3e+06-v1.ckpt").touch()
    (folder / "best-epoch=4-val_loss=-7.5.wts.h5.zip").touch()
    (folder / "best-none").touch()
    assert sorted(best_checkpoints(tmp_path).values()) == [(2, "val_loss", -3e6), (4, "val_loss", -7.5)]
    assert [rank for rank, _ in Checkpoints(tmp_path, ExecutionConfig())._kept] == [-3e6, -7.5]


def test_the_next_free_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run_2").mkdir()
    assert free_folder(tmp_path / "run") == tmp_path / "run_3"


def test_ctrl_c_ends_training_after_the_step():
    number = signal.SIGINT
    before = signal.getsignal(number)
    interrupts = Interrupts(ByItself())
    with interrupts.listening():
        # a framework's own handler
        signal.signal(number, signal.SIG_IGN)
        interrupts.take_signals()
        os.kill(os.getpid(), number)
        with pytest.raises(TrainingInterrupted):
            interrupts.raise_if_requested()
        with pytest.raises(TrainingInterrupted):
            os.kill(os.getpid(), number)
        assert interrupts.within_step
    assert signal.getsignal(number) == before


def test_labels_outside_the_object_are_refused(scan):
    supervised = settings(model=ModelConfig(N=64, n_filters_scale=1, model_type="supervised"))
    plan_training(scan, supervised, "torch")
    moved = dataclasses.replace(scan, xcoords=scan.xcoords + 1000)
    with pytest.raises(ScanError, match="24 of 24 patches reach beyond objectGuess"):
        plan_training(moved, supervised, "torch")
    plan_training(moved, settings(), "torch")
