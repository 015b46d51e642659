"""Training on TensorFlow as a user meets it: seeds, resuming, Ctrl-C, checkpoints, refusals."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from ptycho_backends.config import ExecutionConfig, FinetuneStage, ModelConfig, TrainingConfig
from ptycho_backends.errors import ConfigError, OutputError, ScanError
from ptycho_backends.params import params
from ptycho_backends.reference import probe as probes
from ptycho_backends.scans.grouping import GroupedData, group_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.tensorflow import inference, training
from ptycho_backends.tensorflow.backend import TensorFlowBackend
from ptycho_backends.tensorflow.module import PtychoModule
from ptycho_backends.training.schedule import parts_of_weights


def quiet(**changes):
    settings = {"accelerator": "cpu", "enable_progress_bar": False, "logger_backend": None}
    return ExecutionConfig(**{**settings, **changes})


QUIET = quiet()
LAST = Path("checkpoints", "last.wts.h5.zip")


@pytest.fixture(scope="module")
def scan():
    return simulate_star(64, 10, n_photons=1e5, seed=7)


@pytest.fixture(scope="module")
def backend():
    return TensorFlowBackend()


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


def interrupting(monkeypatch, step, times=1):
    """SIGINT during the step that is number `step` of this run, counted from 1."""
    original, done = PtychoModule.training_step, []

    def training_step(self, batch, **kwargs):
        done.append(None)
        if len(done) == step:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, **kwargs)

    monkeypatch.setattr(PtychoModule, "training_step", training_step)


@pytest.fixture(scope="module")
def uninterrupted(backend, scan, tmp_path_factory):
    """Three epochs in one go, with the files they leave."""
    folder = tmp_path_factory.mktemp("run")
    return backend.train(scan, config(), execution=quiet(logger_backend="csv"), output_dir=folder), folder


def test_training_learns_and_keeps_its_history(uninterrupted):
    model, _ = uninterrupted
    assert [record.epoch for record in model.history] == [1, 2, 3]
    assert model.history[-1].train_loss < model.history[0].train_loss
    assert all(np.isfinite(record.val_loss) for record in model.history)
    assert model.history[0].learning_rate == 1e-3
    assert model.backend == "tensorflow"
    assert model.config.model.N == 64
    assert model.config.backend == "tensorflow"
    assert not model.interrupted


def test_the_same_seed_gives_the_same_weights(backend, scan, uninterrupted):
    again = backend.train(scan, config(), execution=QUIET)
    assert same_weights(again, uninterrupted[0])
    other = backend.train(scan, config(nepochs=1, seed=1), execution=QUIET)
    assert not same_weights(other, uninterrupted[0])


def test_resuming_is_as_if_nothing_had_happened(backend, scan, uninterrupted, tmp_path):
    model = backend.train(scan, config(nepochs=2), execution=QUIET, output_dir=tmp_path)
    for source in (model, tmp_path / LAST):
        resumed = backend.train(scan, config(), execution=QUIET, resume_from=source)
        assert same_weights(resumed, uninterrupted[0])
        assert [record.epoch for record in resumed.history] == [1, 2, 3]
        assert resumed.history[-1].train_loss == uninterrupted[0].history[-1].train_loss
        assert resumed.history[-1].val_loss == uninterrupted[0].history[-1].val_loss
    finished = backend.train(scan, config(), execution=QUIET, resume_from=resumed)
    assert same_weights(finished, resumed)
    assert len(finished.history) == 3


@pytest.mark.parametrize("step", [5, 7])
def test_ctrl_c_loses_nothing(backend, scan, uninterrupted, tmp_path, monkeypatch, step):
    """9 groups in batches of 2: five steps an epoch, so the first case is the last one of an epoch."""
    interrupting(monkeypatch, step)
    stopped = backend.train(scan, config(), execution=QUIET, output_dir=tmp_path)
    monkeypatch.undo()
    assert stopped.interrupted
    assert len(stopped.history) == step // 5
    assert stopped.training_state.step == step
    assert not same_weights(stopped, uninterrupted[0])
    assert same_weights(backend.load(tmp_path / LAST), stopped)
    for source in (stopped, tmp_path / LAST):
        resumed = backend.train(scan, config(), execution=QUIET, resume_from=source)
        assert not resumed.interrupted
        assert same_weights(resumed, uninterrupted[0])
        assert resumed.history[-1].train_loss == uninterrupted[0].history[-1].train_loss
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_ends_at_once(backend, scan, monkeypatch):
    interrupting(monkeypatch, 1, times=2)
    stopped = backend.train(scan, config(), execution=QUIET)
    assert stopped.interrupted
    assert stopped.training_state is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_accumulated_steps_are_not_cut_in_two(backend, scan, monkeypatch):
    """Five batches of an epoch make three steps; Ctrl-C waits for the end of one, and resuming is exact."""
    run = quiet(accum_steps=2, gradient_clip_val=1.0)
    whole = backend.train(scan, config(nepochs=1), execution=run)
    assert whole.training_state.step == 3
    interrupting(monkeypatch, 1)
    stopped = backend.train(scan, config(nepochs=1), execution=run)
    monkeypatch.undo()
    assert (stopped.training_state.step, stopped.training_state.batches_done) == (1, 2)
    resumed = backend.train(scan, config(nepochs=1), execution=run, resume_from=stopped)
    assert same_weights(resumed, whole)


def test_clipping_and_accumulation_are_those_of_their_definition(backend, scan):
    """The first step, against gradients of the whole window in NumPy."""
    run = quiet(accum_steps=2, gradient_clip_val=0.5, precision="64-true", learning_rate=1e-3)
    data = group_scan(scan, n_groups=5, seed=0)
    model = backend.train(data, config(nepochs=1), execution=run)
    assert model.training_state.step == 1
    plan = backend.prepare(data, config(nepochs=1), execution=run).plan
    gradients = [
        backend.gradients(plan.config, plan.start.weights, plan.gather(batch), execution=run)
        for batch in plan.epoch_batches(1)
    ]
    trained = [name for name in gradients[0] if name != "probe"]
    mean = {name: (gradients[0][name] + gradients[1][name]) / 2 for name in trained}
    norm = np.sqrt(sum(np.sum(value**2) for value in mean.values()))
    assert norm > 0.5
    assert model.training_state.first_moments[trained[0]].dtype == np.float64
    for name in trained:
        expected = 0.1 * mean[name] * 0.5 / (norm + 1e-6)
        np.testing.assert_allclose(model.training_state.first_moments[name], expected, rtol=1e-9, atol=1e-18)


def test_checkpoints_hold_the_best_and_the_last(backend, uninterrupted):
    model, folder = uninterrupted
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert len(names) == 2
    assert names[-1] == "last.wts.h5.zip"
    losses = [record.val_loss for record in model.history]
    best = backend.load(folder / "checkpoints" / names[0])
    assert len(best.history) == int(np.argmin(losses)) + 1
    last = backend.load(folder / LAST)
    assert same_weights(last, model)
    assert last.history == model.history
    assert last.config == model.config


def test_the_csv_log_is_the_history(uninterrupted):
    model, folder = uninterrupted
    header, *rows = (folder / "logs" / "metrics.csv").read_text().splitlines()
    assert header == "epoch,train_loss,val_loss,learning_rate,seconds"
    assert [float(row.split(",")[1]) for row in rows] == [record.train_loss for record in model.history]


def test_nothing_is_written_without_an_output_folder(backend, scan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backend.train(scan, config(nepochs=1), execution=quiet(logger_backend="csv"))
    assert list(tmp_path.iterdir()) == []


def test_progress_shows_steps_on_a_terminal(backend, scan, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    trained = backend.train(scan, config(nepochs=1), execution=quiet(enable_progress_bar=True))
    shown = capsys.readouterr().err
    assert shown.startswith("\repoch 1/1, batch 1/")
    assert f"\repoch 1/1: train_loss {trained.history[0].train_loss:.6g}, val_loss" in shown


def test_probe_and_scale_train_only_if_asked(backend, scan):
    fixed = backend.train(scan, config(nepochs=1, intensity_scale_trainable=False), execution=QUIET)
    free = backend.train(scan, config(nepochs=1, probe_trainable=True), execution=QUIET)
    initial = probes.normalise_probe(scan.probe_guess, 4.0)
    np.testing.assert_array_equal(fixed.probe, initial)
    assert float(fixed.weights["log_scale"]) == np.float32(np.log(fixed.intensity_scale))
    assert np.abs(free.probe - initial).max() > 1e-4
    assert free.training_state.second_moments["probe"].imag.min() >= 0
    assert float(free.weights["log_scale"]) != np.float32(np.log(free.intensity_scale))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"gridsize": 2}, "n_groups": 8},
        {"model": {"model_type": "supervised"}},
        {"realspace_weight": 1.0, "realspace_mae_weight": 1.0, "tv_weight": 0.01},
    ],
    ids=["gridsize 2", "supervised", "real space"],
)
def test_every_kind_of_training_lowers_its_loss(backend, scan, changes):
    model = backend.train(scan, config(nepochs=2, **changes), execution=QUIET)
    assert model.history[-1].train_loss < model.history[0].train_loss


def test_a_single_group_trains_without_validation(backend, scan, tmp_path):
    model = backend.train(group_scan(scan, n_groups=1, seed=0), config(nepochs=1), execution=QUIET,
                          output_dir=tmp_path)  # fmt: skip
    assert model.history[0].val_loss is None
    assert len(list((tmp_path / "checkpoints").glob("best-epoch=1-train_loss=*"))) == 1


def test_early_stopping(backend, scan):
    run = quiet(early_stop_patience=1, learning_rate=1e-12)
    model = backend.train(scan, config(nepochs=30, intensity_scale_trainable=False), execution=run)
    assert len(model.history) < 30
    assert not model.interrupted


def test_fine_tuning_moves_only_what_a_stage_names(backend, scan, capsys):
    """The weights and moments of the rest stay; epochs and progress go on."""
    data = group_scan(scan, n_groups=3, seed=0)
    run = quiet(finetune_stages=(FinetuneStage(1, {"encoder_top": 0.1, "decoder": 0.0}),))
    model = backend.train(data, config(nepochs=1), execution=QUIET)
    shown = dataclasses.replace(run, enable_progress_bar=True)
    tuned = backend.train(data, config(nepochs=1), execution=shown, resume_from=model)
    assert [record.learning_rate for record in tuned.history] == pytest.approx([1e-3, 1e-4])
    assert capsys.readouterr().err.startswith("epoch 2/2")
    parts = parts_of_weights(model.weights)
    for before, now in (
        (model.weights, tuned.weights),
        (model.training_state.first_moments, tuned.training_state.first_moments),
        (model.training_state.second_moments, tuned.training_state.second_moments),
    ):
        moved = {parts[name] for name in before if not np.array_equal(before[name], now[name])}
        assert moved == {"encoder_top"}
    assert tuned.training_state.step == 2 * model.training_state.step


def test_training_works_in_another_thread(backend, scan):
    results = []
    worker = threading.Thread(
        target=lambda: results.append(backend.train(scan, config(nepochs=1), execution=QUIET))
    )
    worker.start()
    worker.join()
    assert len(results[0].history) == 1


def test_each_step_is_compiled_once(backend, scan, monkeypatch):
    """9 groups in batches of 2 leave a short one, which must not be compiled anew; nor must a second training."""
    training.MODULES.forget()
    traced = []
    original = PtychoModule._gradients

    def gradients(self, batch):
        traced.append(batch["diffraction"].shape)
        return original(self, batch)

    monkeypatch.setattr(PtychoModule, "_gradients", gradients)
    first = backend.train(scan, config(nepochs=2), execution=QUIET)
    assert len(traced) == 1
    again = backend.train(scan, config(nepochs=2), execution=QUIET)
    assert len(traced) == 1
    assert same_weights(first, again)
    assert [row.train_loss for row in again.history] == [row.train_loss for row in first.history]
    # what the graphs hold differs: another loss
    backend.train(scan, config(nepochs=1, mae_weight=1.0, nll_weight=0.0), execution=QUIET)
    assert len(traced) == 2


def test_images_of_two_models_share_a_graph_and_nothing_else(backend, scan, uninterrupted):
    model, _ = uninterrupted
    other = dataclasses.replace(model, weights={name: 1.1 * one for name, one in model.weights.items()})
    inference.RUNNERS.forget()
    alone = backend.infer(other, scan, execution=QUIET)
    inference.RUNNERS.forget()
    first = backend.infer(model, scan, execution=QUIET)
    np.testing.assert_array_equal(backend.infer(other, scan, execution=QUIET).object, alone.object)
    np.testing.assert_array_equal(backend.infer(model, scan, execution=QUIET).object, first.object)
    assert not np.array_equal(first.object, alone.object)


def test_batches_come_in_the_order_of_the_plan(backend, scan):
    data = backend.prepare(group_scan(scan, seed=0), config(), execution=quiet(prefetch_factor=3))
    expected = [data.plan.gather(batch).diffraction_amplitude for batch in data.plan.epoch_batches(2)]
    for skipped in (0, 2):
        got = [batch["diffraction"].numpy() for batch in data.training_batches(2, skipped)]
        assert len(got) == len(expected) - skipped
        for one, other in zip(got, expected[skipped:], strict=True):
            np.testing.assert_array_equal(one, other)


def test_params_cfg_is_filled_before_data_are_gathered(backend, scan, monkeypatch):
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
    assert image.backend == "tensorflow"
    assert len(image.group_centres_px) == len(scan)
    again = backend.infer(model, scan, execution=quiet(inference_batch_size=5))
    np.testing.assert_allclose(again.object, image.object, rtol=1e-4, atol=1e-5)
    groups = group_scan(scan, sequential_sampling=True, seed=0)
    predicted = backend.predict(model, groups, execution=QUIET)
    np.testing.assert_allclose(predicted.object, image.object_patches, rtol=1e-4, atol=1e-5)
    assert predicted.amplitude.shape == (10, 64, 64, 1)


def test_archive_round_trip_keeps_every_bit(backend, uninterrupted, tmp_path):
    model, _ = uninterrupted
    loaded = backend.load(backend.save(model, tmp_path))
    assert same_weights(loaded, model)
    assert loaded.config == model.config
    assert loaded.history == model.history
    assert loaded.training_state is None


def test_impossible_settings_are_refused_before_training(backend, scan, uninterrupted, tmp_path):
    with pytest.raises(ConfigError, match="nothing to minimise"):
        backend.train(scan, config(nll_weight=0.0), execution=QUIET)
    with pytest.raises(ConfigError, match="64 x 64 pixels; set N=64"):
        backend.train(scan, TrainingConfig(model=ModelConfig(N=128)), execution=QUIET)
    with pytest.raises(ConfigError, match="n_filters_scale: got 2, want 1"):
        backend.train(scan, TrainingConfig(), execution=QUIET, resume_from=uninterrupted[0])
    with pytest.raises(ConfigError, match="use 'bf16-mixed' or '32-true'"):
        backend.complete_config(config(), scan, quiet(precision="16-mixed"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        backend.train(scan, config(), execution=QUIET, output_dir=tmp_path / "file" / "run")
    blind = dataclasses.replace(scan, object_guess=None, object_mask=None)
    with pytest.raises(ScanError, match="no objectGuess"):
        backend.train(blind, config(model={"model_type": "supervised"}), execution=QUIET)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_training_moves_from_torch_to_tensorflow_and_back(backend, scan, tmp_path):
    """In float64, where rounding hides nothing: one epoch on each in turn, against all on TensorFlow."""
    from ptycho_torch.backend.backend import TorchBackend

    run = quiet(precision="64-true", checkpoint_save_top_k=-1)
    data = group_scan(scan, n_groups=5, seed=0)
    want = backend.train(data, config(), execution=run)
    model = TorchBackend().train(data, config(nepochs=1), execution=run, output_dir=tmp_path)
    checkpoint = next((tmp_path / "checkpoints").glob("best-*.ckpt"))
    assert same_weights(backend.load(checkpoint), model)
    model = backend.train(data, config(nepochs=2), execution=run, resume_from=checkpoint)
    assert model.backend == "tensorflow"
    model = TorchBackend().train(data, config(), execution=run, resume_from=model)
    for got, expected in zip(model.history, want.history, strict=True):
        assert got.train_loss == pytest.approx(expected.train_loss, rel=1e-4)
        assert got.learning_rate == expected.learning_rate


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_a_torch_checkpoint_is_resumed_where_torch_is_not_installed(backend, tmp_path):
    """In float64: the second epoch in a process that cannot import torch, and on torch."""
    from ptycho_torch.backend.backend import TorchBackend

    program = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "lightning", "ptycho_torch"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
from ptycho_backends import ExecutionConfig, get_backend
from ptycho_backends.simulate import simulate_star
backend, (checkpoint, folder) = get_backend("tensorflow"), sys.argv[1:]
config = backend.load(checkpoint).config
config.nepochs, config.backend = 2, "tensorflow"
run = ExecutionConfig(
    accelerator="cpu", enable_progress_bar=False, logger_backend=None, precision="64-true"
)
scan = simulate_star(64, 6, n_photons=1e5, seed=7)
backend.save(backend.train(scan, config, execution=run, resume_from=checkpoint), folder)
"""
    run, scan = quiet(precision="64-true"), simulate_star(64, 6, n_photons=1e5, seed=7)
    TorchBackend().train(scan, config(nepochs=1), execution=run, output_dir=tmp_path)
    checkpoint = next((tmp_path / "checkpoints").glob("best-*.ckpt"))
    command = [sys.executable, "-c", program, str(checkpoint), str(tmp_path / "resumed")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    got = backend.load(tmp_path / "resumed")
    want = TorchBackend().train(scan, config(nepochs=2), execution=run, resume_from=checkpoint)
    assert got.backend == "tensorflow"
    assert got.history[0] == want.history[0]
    assert got.history[1].train_loss == pytest.approx(want.history[1].train_loss, rel=1e-6)
    difference = max(np.abs(got.weights[name] - value).max() for name, value in want.weights.items())
    assert difference < 1e-5


@pytest.mark.slow
def test_importing_redirects_no_file_descriptor_and_is_quiet():
    """In a process of its own, which has not imported TensorFlow yet."""
    program = (
        "import os, sys\n"
        "def refused(*arguments): raise AssertionError('a file descriptor was redirected')\n"
        "os.dup = os.dup2 = refused\n"
        "from ptycho_backends import get_backend\n"
        "assert 'tensorflow' not in sys.modules\n"
        "assert get_backend('tf').name == 'tensorflow'\n"
        "print(os.environ['TF_CPP_MIN_LOG_LEVEL'], end='')\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2"
