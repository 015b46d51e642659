"""Training as a user meets it: seeds, resuming, Ctrl-C, checkpoints, schedules, refusals."""

import dataclasses
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from ptycho_backends.config import ExecutionConfig, FinetuneStage, ModelConfig, TrainingConfig
from ptycho_backends.errors import (
    ArchiveError,
    ConfigError,
    GroupingError,
    OutputError,
    ScanError,
)
from ptycho_backends.params import params
from ptycho_backends.reference import physics
from ptycho_backends.reference import probe as probes
from ptycho_backends.scans.grouping import group_scan
from ptycho_backends.scans.scan import Scan
from ptycho_backends.training.schedule import parts_of_weights
from ptycho_torch.backend.backend import TorchBackend
from ptycho_torch.backend.device import computing

QUIET = ExecutionConfig(accelerator="cpu", enable_progress_bar=False, logger_backend=None)


def small_scan(count=10, truth=True):
    """A smooth object under a round probe: enough for a step to be a step."""
    generator = np.random.default_rng(7)
    y, x = np.mgrid[:140, :140] / 20.0
    image = ((0.7 + 0.3 * np.sin(x) * np.cos(y)) * np.exp(1j * np.sin(x + 0.5 * y))).astype(np.complex64)
    probe = probes.default_probe(64) * 30
    positions = generator.uniform(50, 90, (count, 2))
    expected = physics.diffraction_amplitude(probe * physics.extract_patches(image, positions, 64)) ** 2
    counts = generator.poisson(expected).astype(np.uint16)
    return Scan(positions[:, 0], positions[:, 1], counts, probe, image if truth else None)


@pytest.fixture(scope="module")
def scan():
    return small_scan()


@pytest.fixture(scope="module")
def backend():
    return TorchBackend()


def config(nepochs=3, **changes):
    model = changes.pop("model", {})
    return TrainingConfig(
        **{
            "model": ModelConfig(N=0, n_filters_scale=1, **model),
            "nepochs": nepochs,
            "batch_size": 2,
            "nphotons": 1e5,
            **changes,
        }
    )


def same_weights(first, second):
    return all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)


@pytest.fixture(scope="module")
def uninterrupted(backend, scan, tmp_path_factory):
    """Three epochs in one go, with the checkpoints they leave."""
    folder = tmp_path_factory.mktemp("run")
    return backend.train(scan, config(), execution=QUIET, output_dir=folder), folder


def test_training_learns_and_keeps_its_history(uninterrupted):
    model, _ = uninterrupted
    assert [record.epoch for record in model.history] == [1, 2, 3]
    assert model.history[-1].train_loss < model.history[0].train_loss
    assert all(np.isfinite(record.val_loss) for record in model.history)
    assert model.history[0].learning_rate == pytest.approx(1e-3)
    assert model.backend == "torch"
    assert model.config.model.N == 64
    assert model.config.backend == "torch"
    assert "3 epochs on torch" in repr(model)


def test_the_same_seed_gives_the_same_weights(backend, scan, uninterrupted):
    again = backend.train(scan, config(), execution=QUIET)
    assert same_weights(again, uninterrupted[0])
    other = backend.train(scan, config(nepochs=1, seed=1), execution=QUIET)
    assert not same_weights(other, uninterrupted[0])


def test_resuming_a_checkpoint_is_as_if_nothing_had_happened(backend, scan, uninterrupted, tmp_path):
    backend.train(scan, config(nepochs=2), execution=QUIET, output_dir=tmp_path)
    resumed = backend.train(
        scan, config(), execution=QUIET, resume_from=tmp_path / "checkpoints" / "last.wts.h5.zip"
    )
    assert same_weights(resumed, uninterrupted[0])
    assert [record.epoch for record in resumed.history] == [1, 2, 3]
    assert resumed.history[-1].train_loss == uninterrupted[0].history[-1].train_loss


def test_resuming_the_model_itself_works_too(backend, scan, uninterrupted):
    model = backend.train(scan, config(nepochs=1), execution=QUIET)
    resumed = backend.train(scan, config(), execution=QUIET, resume_from=model)
    assert same_weights(resumed, uninterrupted[0])


@pytest.mark.parametrize("batches", [5, 7])
def test_ctrl_c_within_an_epoch_loses_nothing(backend, scan, uninterrupted, tmp_path, monkeypatch, batches):
    """SIGINT after some steps: the model comes back, and resuming gives the uninterrupted weights."""
    from ptycho_torch.backend.module import PtychoModule

    original = PtychoModule.training_step

    def training_step(self, batch, batch_idx):
        if self.epochs_done * 5 + self.batches_done + 1 == batches:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(PtychoModule, "training_step", training_step)
    stopped = backend.train(scan, config(), execution=QUIET, output_dir=tmp_path)
    monkeypatch.undo()
    assert stopped.interrupted
    assert len(stopped.history) == batches // 5
    assert stopped.training_state.step == batches
    assert not same_weights(stopped, uninterrupted[0])
    checkpoint = tmp_path / "checkpoints" / "last.wts.h5.zip"
    assert same_weights(backend.load(checkpoint), stopped)
    for source in (stopped, checkpoint):
        resumed = backend.train(scan, config(), execution=QUIET, resume_from=source)
        assert not resumed.interrupted
        assert same_weights(resumed, uninterrupted[0])
        assert resumed.history[-1].train_loss == pytest.approx(
            uninterrupted[0].history[-1].train_loss, rel=1e-12
        )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_checkpoints_hold_the_best_and_the_last(backend, uninterrupted):
    model, folder = uninterrupted
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names[-1] == "last.wts.h5.zip"
    assert len(names) == 2
    assert names[0].startswith("best-epoch=")
    assert names[0].endswith(".ckpt")
    best = backend.load(folder / "checkpoints" / names[0])
    losses = [record.val_loss for record in model.history]
    assert len(best.history) == int(np.argmin(losses)) + 1
    last = backend.load(folder / "checkpoints" / "last.wts.h5.zip")
    assert same_weights(last, model)
    assert last.history == model.history
    assert last.config == model.config


def test_a_lightning_checkpoint_resumes_as_exactly_as_an_archive(backend, scan, uninterrupted, tmp_path):
    run = ExecutionConfig(
        accelerator="cpu", enable_progress_bar=False, logger_backend=None, checkpoint_save_top_k=-1
    )
    backend.train(scan, config(nepochs=2), execution=run, output_dir=tmp_path)
    for epoch in (1, 2):
        checkpoint = next((tmp_path / "checkpoints").glob(f"best-epoch={epoch}-*.ckpt"))
        assert len(backend.load(checkpoint).history) == epoch
        resumed = backend.train(scan, config(), execution=QUIET, resume_from=checkpoint)
        assert same_weights(resumed, uninterrupted[0])


def test_csv_log_only_when_asked(backend, scan, tmp_path):
    run = ExecutionConfig(accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False)
    backend.train(scan, config(nepochs=1), execution=run, output_dir=tmp_path)
    header = (tmp_path / "logs" / "metrics.csv").read_text().splitlines()[0]
    assert {"train_loss", "val_loss"} <= set(header.split(","))
    assert not (tmp_path / "checkpoints").exists()


def test_nothing_is_written_without_an_output_folder(backend, scan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backend.train(
        scan, config(nepochs=1), execution=ExecutionConfig(accelerator="cpu", enable_progress_bar=False)
    )
    assert list(tmp_path.iterdir()) == []


def test_probe_and_scale_train_only_if_asked(backend, scan):
    fixed = backend.train(scan, config(nepochs=1, intensity_scale_trainable=False), execution=QUIET)
    free = backend.train(scan, config(nepochs=1, probe_trainable=True), execution=QUIET)
    initial = probes.normalise_probe(scan.probe_guess, 4.0)
    np.testing.assert_array_equal(fixed.probe, initial)
    assert float(fixed.weights["log_scale"]) == np.float32(np.log(fixed.intensity_scale))
    assert np.abs(free.probe - initial).max() > 1e-4
    assert float(free.weights["log_scale"]) != np.float32(np.log(free.intensity_scale))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"gridsize": 2}, "n_groups": 8},
        {"model": {"model_type": "supervised"}},
        {"nll_weight": 0.0, "mae_weight": 1.0},
        {"realspace_weight": 1.0, "realspace_mae_weight": 1.0, "tv_weight": 0.01},
    ],
    ids=["gridsize 2", "supervised", "mae", "real space"],
)
def test_every_kind_of_training_lowers_its_loss(backend, scan, changes):
    model = backend.train(scan, config(nepochs=2, **changes), execution=QUIET)
    assert model.history[-1].train_loss < model.history[0].train_loss


def test_double_precision_and_accumulation(backend, scan):
    run = ExecutionConfig(
        accelerator="cpu", enable_progress_bar=False, logger_backend=None,
        precision="64-true", accum_steps=2, gradient_clip_val=1.0,
    )  # fmt: skip
    model = backend.train(scan, config(nepochs=1), execution=run)
    # 9 groups train in batches of 2: five batches, so three steps
    assert model.training_state.step == 3
    assert model.training_state.first_moments["encoder/block0/conv0/kernel"].dtype == np.float64


def test_early_stopping(backend, scan):
    run = ExecutionConfig(
        accelerator="cpu", enable_progress_bar=False, logger_backend=None,
        early_stop_patience=1, learning_rate=1e-12,
    )  # fmt: skip
    model = backend.train(scan, config(nepochs=30, intensity_scale_trainable=False), execution=run)
    assert len(model.history) < 30
    assert not model.interrupted


STAGES = (FinetuneStage(1, {"phase_head": 0.5}), FinetuneStage(1, {"encoder_top": 0.1, "decoder": 0.0}))


def part_that_moved(first, second):
    names = [name for name in first if not np.array_equal(first[name], second[name])]
    return {parts_of_weights(first)[name] for name in names}


def test_fine_tuning_moves_only_what_a_stage_names(backend, scan, tmp_path):
    """Stage after stage, from the checkpoints of the epoch before: weights and moments of the rest stay."""
    run = dataclasses.replace(QUIET, finetune_stages=STAGES, checkpoint_save_top_k=-1)
    data = group_scan(scan, n_groups=3, seed=0)
    whole = backend.train(data, config(nepochs=1), execution=run, output_dir=tmp_path)
    assert [record.learning_rate for record in whole.history] == pytest.approx([1e-3, 5e-4, 1e-4])
    after = [
        backend.load(next((tmp_path / "checkpoints").glob(f"best-epoch={epoch}-*.ckpt")))
        for epoch in (1, 2, 3)
    ]
    for epoch, part in ((1, "phase_head"), (2, "encoder_top")):
        assert part_that_moved(after[epoch - 1].weights, after[epoch].weights) == {part}
        before, now = after[epoch - 1].training_state, after[epoch].training_state
        assert part_that_moved(before.first_moments, now.first_moments) == {part}
        assert part_that_moved(before.second_moments, now.second_moments) == {part}
        resumed = backend.train(data, config(nepochs=1), execution=run, resume_from=after[epoch - 1])
        assert same_weights(resumed, whole)
        assert [record.epoch for record in resumed.history] == [1, 2, 3]


def test_a_trained_model_is_fine_tuned_later(backend, scan, caplog):
    data = group_scan(scan, n_groups=3, seed=0)
    run = dataclasses.replace(QUIET, finetune_stages=STAGES[:1])
    model = backend.train(data, config(nepochs=1), execution=QUIET)
    for start in (model, dataclasses.replace(model, training_state=None)):
        tuned = backend.train(data, config(nepochs=1), execution=run, resume_from=start)
        assert part_that_moved(model.weights, tuned.weights) == {"phase_head"}
        assert len(tuned.history) == 2
        # a longer `nepochs` comes too late for it
        caplog.clear()
        again = backend.train(data, config(nepochs=5), execution=run, resume_from=tuned)
        assert same_weights(again, tuned)
        assert "nepochs: 5 asked for and 1 of fine-tuning, 2 are done, and fine-tuning" in caplog.text


def test_a_machine_of_a_cluster_gives_no_advice(backend, scan, tmp_path, monkeypatch):
    """Warnings are errors in tests."""
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    backend.train(scan, config(nepochs=1), execution=QUIET)


def test_settings_of_the_process_are_put_back(backend, scan):
    before = torch.are_deterministic_algorithms_enabled()
    backend.train(scan, config(nepochs=1), execution=QUIET)
    assert torch.are_deterministic_algorithms_enabled() == before


def test_params_cfg_is_filled_before_data_are_gathered(backend, scan, monkeypatch):
    from ptycho_backends.scans.grouping import GroupedData

    seen = []
    original = GroupedData.batch

    def batch(self, *args, **kwargs):
        seen.append((params.cfg["N"], params.cfg["nphotons"], params.cfg["gridsize"]))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(GroupedData, "batch", batch)
    params.cfg["nphotons"] = 1.0
    backend.train(scan, config(nepochs=1, nphotons=12345.0), execution=QUIET)
    assert seen[0] == (64, 12345.0, 1)


def test_prediction_and_image_of_a_trained_model(backend, scan, uninterrupted):
    model, _ = uninterrupted
    image = backend.infer(model, scan, execution=QUIET)
    assert image.object.dtype == np.complex64
    assert image.backend == "torch"
    assert len(image.group_centres_px) == len(scan)
    assert np.isfinite(image.object).all()
    one_by_one = ExecutionConfig(accelerator="cpu", inference_batch_size=1)
    again = backend.infer(model, scan, execution=one_by_one)
    np.testing.assert_allclose(again.object, image.object, rtol=1e-4, atol=1e-5)


def test_archive_round_trip_keeps_every_bit(backend, scan, uninterrupted, tmp_path):
    model, _ = uninterrupted
    path = backend.save(model, tmp_path)
    assert path == tmp_path / "wts.h5.zip"
    loaded = backend.load(path)
    assert same_weights(loaded, model)
    assert loaded.config == model.config
    assert loaded.history == model.history
    assert loaded.training_state is None
    first, second = backend.infer(model, scan), backend.infer(loaded, scan)
    np.testing.assert_array_equal(first.object, second.object)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"nll_weight": 0.0}, ConfigError, "nothing to minimise"),
        ({"model": {"gridsize": 2}, "n_groups": 512}, GroupingError, "512 groups for 10 positions"),
        ({"model": {"gridsize": 7}, "n_groups": 10, "neighbor_count": 49}, GroupingError, "want at least 49"),
    ],
)
def test_impossible_training_is_refused(backend, scan, change, error, message):
    with pytest.raises(error, match=message):
        backend.train(scan, config(**change), execution=QUIET)


def test_wrong_side_is_refused(backend, scan):
    with pytest.raises(ConfigError, match="64 x 64 pixels; set N=64"):
        backend.train(scan, TrainingConfig(model=ModelConfig(N=128)), execution=QUIET)
    odd = Scan(np.arange(5.0), np.arange(5.0), np.ones((5, 48, 48), np.uint16))
    with pytest.raises(ConfigError, match=r"48 x 48 pixels, want one of 64, 128, 256"):
        backend.train(odd, config(), execution=QUIET)


def test_truth_is_asked_for_before_anything_is_computed(backend):
    with pytest.raises(ScanError, match="no objectGuess"):
        backend.train(small_scan(6, truth=False), config(model={"model_type": "supervised"}), execution=QUIET)


def test_unwritable_output_is_refused_before_training(backend, scan, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        backend.train(scan, config(), execution=QUIET, output_dir=tmp_path / "file" / "run")


def test_an_accelerator_that_is_not_there_is_named(backend, scan):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    run = ExecutionConfig(accelerator="cuda", enable_progress_bar=False, logger_backend=None)
    with pytest.raises(ConfigError, match="accelerator"):
        backend.train(scan, config(nepochs=1), execution=run)


def test_another_model_cannot_be_resumed(backend, scan, uninterrupted):
    with pytest.raises(ConfigError, match="n_filters_scale: got 2, want 1"):
        backend.train(
            scan, TrainingConfig(model=ModelConfig(N=64)), execution=QUIET, resume_from=uninterrupted[0]
        )


@pytest.mark.parametrize("damage", ["missing", "text", "truncated", "foreign"])
def test_damaged_checkpoints_are_refused(backend, uninterrupted, tmp_path, damage):
    whole = next((uninterrupted[1] / "checkpoints").glob("best*.ckpt")).read_bytes()
    path = tmp_path / "x.ckpt"
    if damage == "text":
        path.write_text("not a checkpoint")
    elif damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "foreign":
        torch.save({"state_dict": {}}, path)
    with pytest.raises(ArchiveError, match=r"x\.ckpt"):
        backend.load(path)


@pytest.mark.slow
def test_two_ctrl_c_end_at_once(tmp_path):
    """In a process of its own: the second SIGINT ends within a step, and the model still comes back."""
    program = """
import os, signal, sys
sys.path[:0] = {path!r}
from test_torch_training import QUIET, config, small_scan
from ptycho_torch.backend import TorchBackend
from ptycho_torch.backend.device import computing
from ptycho_torch.model import PtychoModule
original = PtychoModule.training_step
def step(self, batch, batch_idx):
    os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT)
    return original(self, batch, batch_idx)
PtychoModule.training_step = step
model = TorchBackend().train(small_scan(12), config(), execution=QUIET)
assert model.interrupted and model.training_state is None
print("came back")
"""
    here = os.path.dirname(__file__)
    done = subprocess.run(
        [sys.executable, "-c", program.format(path=[here])], capture_output=True, text=True, timeout=600
    )
    assert "came back" in done.stdout, done.stderr


# --- speed


def test_tf32_is_for_convolutions_alone_and_put_back(monkeypatch):
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    for before in (False, True):
        monkeypatch.setattr(convolutions, "allow_tf32", before)
        for allowed in (False, True):
            with computing(dataclasses.replace(QUIET, allow_tf32=allowed)):
                assert (convolutions.allow_tf32, products.allow_tf32) == (allowed, False)
            assert convolutions.allow_tf32 == before


def test_mixed_precision_may_clip_gradients(backend, scan):
    execution = dataclasses.replace(QUIET, precision="bf16-mixed", gradient_clip_val=1.0)
    assert np.isfinite(backend.train(scan, config(1), execution=execution).history[0].train_loss)


def test_processes_that_gather_have_the_groups_of_the_epoch(backend, scan):
    given = config(2, n_groups=5, resample_groups=True)
    gathered = dataclasses.replace(QUIET, num_workers=1, persistent_workers=True)
    assert same_weights(
        backend.train(scan, given, execution=gathered), backend.train(scan, given, execution=QUIET)
    )


def test_no_validation_set_is_no_warning(backend, scan):
    assert backend.train(scan, config(1, validation_share=0.0), execution=QUIET).history[0].val_loss is None


def test_progress_shows_steps_on_a_terminal(backend, scan, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run = ExecutionConfig(accelerator="cpu", logger_backend=None)
    trained = backend.train(scan, config(nepochs=1), execution=run)
    shown = capsys.readouterr().err
    assert shown.startswith("\repoch 1/1, batch 1/")
    assert f"\repoch 1/1: train_loss {trained.history[0].train_loss:.6g}, val_loss" in shown
