"""Training on torch in a rough world: divergence, signals, errors of callbacks, full disks, other threads."""

import dataclasses
import errno
import logging
import os
import random
import signal
import tempfile
import threading
import warnings

import numpy as np
import pytest
import torch
from ptycho_backends.simulate import simulate_star

from ptycho_backends import workflows
from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import ConfigError, DivergenceError, OutputError, ShapeError
from ptycho_backends.files import output
from ptycho_backends.training.interrupts import Terminated
from ptycho_backends.training.plan import inference_groups
from ptycho_torch.backend.backend import TorchBackend
from ptycho_torch.backend.module import PtychoModule

LOGGERS = ("", "torch", "lightning", "lightning.pytorch", "lightning.fabric", "matplotlib", "py.warnings")
QUIET = ExecutionConfig(accelerator="cpu", enable_progress_bar=False)


@pytest.fixture(scope="module")
def backend():
    return TorchBackend()


@pytest.fixture(scope="module")
def scan():
    return simulate_star(16, 24, n_photons=1e5, seed=0)


def config(nepochs=2, **changes):
    model = ModelConfig(N=16, architecture="unrolled", n_steps=2)
    return TrainingConfig(
        **{"model": model, "nepochs": nepochs, "batch_size": 8, "nphotons": 1e5, "n_groups": 24, **changes}
    )


@pytest.fixture(scope="module")
def uninterrupted(backend, scan):
    return backend.train(scan, config(), execution=QUIET)


def same_weights(first, second):
    return all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)


def at_step(monkeypatch, number, action):
    """`action(module)` before the step that is number `number`, counted over epochs of three."""
    original = PtychoModule.training_step

    def training_step(self, batch, batch_idx):
        if self.epochs_done * 3 + self.batches_done + 1 == number:
            action(self)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(PtychoModule, "training_step", training_step)


def break_a_weight(module):
    with torch.no_grad():
        next(iter(module.model.parameters())).fill_(float("nan"))


def test_divergence_ends_training_with_the_last_good_model(
    scan, backend, uninterrupted, tmp_path, monkeypatch
):
    at_step(monkeypatch, 5, break_a_weight)
    with pytest.raises(DivergenceError, match=r"epoch 2, batch 2 of 3: the loss is nan") as caught:
        workflows.train(scan, config(), tmp_path, backend=backend, execution=QUIET)
    kept = caught.value.trained_model
    assert kept.epochs_done == 1
    assert kept.history[0].train_loss == uninterrupted.history[0].train_loss
    written = backend.load(tmp_path / "wts.h5.zip")
    assert same_weights(written, kept)
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 2
    for path in (tmp_path / "checkpoints").iterdir():
        assert all(np.isfinite(array).all() for array in backend.load(path).weights.values())
    monkeypatch.undo()
    resumed = backend.train(scan, config(), execution=QUIET, resume_from=kept)
    assert same_weights(resumed, uninterrupted)


def test_divergence_goes_on_at_a_smaller_rate(scan, backend, tmp_path, monkeypatch):
    broken = []
    at_step(monkeypatch, 5, lambda module: broken or (broken.append(1), break_a_weight(module)))
    retry = dataclasses.replace(QUIET, divergence_retries=1)
    result = workflows.train(scan, config(3), tmp_path, backend=backend, execution=retry)
    assert [record.learning_rate for record in result.model.history] == pytest.approx([1e-3, 1e-4, 1e-4])
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 4


def test_a_gradient_that_is_not_finite_is_named(scan, backend, monkeypatch):
    original = PtychoModule.on_before_optimizer_step

    def step(self, optimizer):
        if self.batches_done == 2:
            next(value.grad for value in self.model.parameters() if value.grad is not None).fill_(
                float("inf")
            )
        original(self, optimizer)

    monkeypatch.setattr(PtychoModule, "on_before_optimizer_step", step)
    with pytest.raises(DivergenceError, match=r"epoch 1, batch 2 of 3: the norm of the gradient is inf"):
        backend.train(scan, config(), execution=QUIET)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_schedulers_signal_saves_and_ends_with_128_and_n(
    scan, backend, uninterrupted, tmp_path, monkeypatch, number
):
    before = signal.signal(number, signal.SIG_DFL)
    try:
        at_step(monkeypatch, 4, lambda module: os.kill(os.getpid(), number))
        with pytest.raises(Terminated) as caught:
            workflows.run(scan, config(), tmp_path, backend=backend, execution=QUIET)
    finally:
        signal.signal(number, before)
    monkeypatch.undo()
    assert caught.value.code == 128 + number
    assert caught.value.result.interrupted
    assert (tmp_path / "wts.h5.zip").is_file()
    assert not (tmp_path / "reconstruction.npz").exists()
    resumed = workflows.train(
        scan, config(), tmp_path, backend=backend, execution=QUIET, resume_from=tmp_path
    )
    assert same_weights(resumed.model, uninterrupted)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError])
def test_errors_of_a_callback_stay_what_they_are_and_the_model_is_kept(scan, backend, tmp_path, kind):
    def on_epoch(record):
        if record.epoch == 1:
            raise kind("mine")

    with pytest.raises(kind, match="mine") as caught:
        workflows.train(scan, config(), tmp_path, backend=backend, execution=QUIET, on_epoch=on_epoch)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert caught.value.trained_model.epochs_done == 1
    assert same_weights(backend.load(tmp_path / "wts.h5.zip"), caught.value.trained_model)
    last = backend.load(tmp_path / "checkpoints" / "last.wts.h5.zip")
    assert last.training_state.epoch == 1


def test_checkpoints_do_not_go_by_the_temporary_folder(scan, backend, tmp_path, monkeypatch):
    full = tmp_path / "full"
    full.write_text("no folder at all")
    monkeypatch.setattr(tempfile, "tempdir", str(full))
    monkeypatch.setenv("TMPDIR", str(full))
    model = backend.train(scan, config(), execution=QUIET, output_dir=tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert len(names) == 2
    assert names[0].startswith("best-epoch=")
    assert same_weights(backend.load(tmp_path / "run" / "checkpoints" / names[1]), model)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_during_training_costs_no_model(
    scan, backend, uninterrupted, tmp_path, monkeypatch, caplog, code
):
    """Every write into the folder fails from the first epoch on; the model goes into the working folder."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    original, sync = os.replace, []

    def replace(source, target):
        if str(target).startswith(str(run)) and sync:
            raise OSError(code, os.strerror(code))
        original(source, target)

    at_step(monkeypatch, 1, lambda module: sync.append(True))
    monkeypatch.setattr(output.os, "replace", replace)
    with pytest.raises(OutputError, match=r"rescued_run_wts\.h5\.zip") as caught:
        workflows.train(scan, config(), run, backend=backend, execution=QUIET)
    assert os.strerror(code) in str(caught.value)
    assert same_weights(backend.load(elsewhere / "rescued_run_wts.h5.zip"), uninterrupted)
    assert same_weights(caught.value.trained_model, uninterrupted)
    assert "no checkpoint last.wts.h5.zip" in caplog.text
    assert not list(run.rglob("*.part"))


# --- isolation


def state_of_the_process():
    return {
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002 - the program's generator
        "torch": torch.get_rng_state().tolist(),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.utils.deterministic.fill_uninitialized_memory,
        ),
        "tf32": (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "errors of NumPy": np.geterr(),
        "loggers": {
            name: (
                logger.level,
                list(logger.handlers),
                list(logger.filters),
                logger.propagate,
                logger.disabled,
            )
            for name, logger in ((name, logging.getLogger(name)) for name in LOGGERS)
        },
        "environment": dict(os.environ),
        "signals": [signal.getsignal(number) for number in (1, 2, 10, 15)],
    }


def test_training_leaves_the_process_as_it_was_and_is_not_led_by_it(scan, backend, uninterrupted, tmp_path):
    random.seed(5)
    torch.manual_seed(5)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(False)
    try:
        before = state_of_the_process()
        model = backend.train(scan, config(), execution=QUIET, output_dir=tmp_path)
        backend.infer(model, scan, execution=QUIET)
        assert state_of_the_process() == before
    finally:
        torch.set_default_dtype(torch.float32)
    assert same_weights(model, uninterrupted)


def test_threads_leave_the_process_as_it_was_and_train_the_same(scan, backend, uninterrupted, tmp_path):
    before, models = state_of_the_process(), []

    def work(number):
        models.append(backend.train(scan, config(), execution=QUIET, output_dir=tmp_path / str(number)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state_of_the_process() == before
    assert len(models) == 2
    assert all(same_weights(model, uninterrupted) for model in models)


def test_what_torch_would_replace_is_refused(scan, backend, monkeypatch):
    half = dataclasses.replace(QUIET, precision="16-mixed")
    with pytest.raises(ConfigError, match="use 'bf16-mixed' or '32-true' on a processor"):
        backend.train(scan, config(), execution=half)
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(ConfigError, match=r"compile_network: .*'no-such-compiler'"):
        backend.train(scan, config(), execution=dataclasses.replace(QUIET, compile_network=True))


def test_small_operations_refuse_what_torch_would_not_explain(backend, uninterrupted, scan):
    model = uninterrupted
    groups = inference_groups(model, scan)
    batch = groups.batch(np.arange(4), intensity_scale=model.intensity_scale)
    empty = dataclasses.replace(batch, diffraction_amplitude=batch.diffraction_amplitude[:0])
    without_probe = {name: value for name, value in model.weights.items() if name != "probe"}
    for operation in (backend.loss, backend.gradients):
        with pytest.raises(ShapeError, match="no groups"):
            operation(model.config, model.weights, empty)
        with pytest.raises(ShapeError, match="weights: probe missing"):
            operation(model.config, without_probe, batch)
    turned = dataclasses.replace(batch, diffraction_amplitude=batch.diffraction_amplitude[:, ::-1])
    assert np.isfinite(backend.forward(model.config.model, model.weights, turned).object).all()
    with pytest.raises(ShapeError, match="no groups"):
        backend.train_step(model.config, model.weights, [batch, empty])
