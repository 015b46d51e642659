"""Training on TensorFlow in a rough world: divergence, signals, errors of callbacks, the state of the process."""

import logging
import os
import random
import signal
import threading
import warnings

import numpy as np
import pytest
import tensorflow as tf
from ptycho_backends.simulate import simulate_star

from ptycho_backends import workflows
from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import DivergenceError
from ptycho_backends.tensorflow.backend import TensorFlowBackend
from ptycho_backends.tensorflow.module import PtychoModule
from ptycho_backends.training.interrupts import Terminated

LOGGERS = ("", "tensorflow", "absl", "matplotlib", "py.warnings")
QUIET = ExecutionConfig(accelerator="cpu", enable_progress_bar=False)

pytestmark = pytest.mark.filterwarnings(
    "ignore:Even though the `tf.config.experimental_run_functions_eagerly"
)


@pytest.fixture(scope="module")
def backend():
    # tracing graphs would take longer than these small trainings
    tf.config.run_functions_eagerly(True)
    yield TensorFlowBackend()
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def scan():
    return simulate_star(16, 24, n_photons=1e5, seed=0)


def config():
    model = ModelConfig(N=16, architecture="unrolled", n_steps=2)
    return TrainingConfig(model=model, nepochs=2, batch_size=8, nphotons=1e5, n_groups=24)


@pytest.fixture(scope="module")
def uninterrupted(backend, scan):
    return backend.train(scan, config(), execution=QUIET)


def same_weights(first, second):
    return all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)


def at_step(monkeypatch, number, action):
    """`action(module)` before the step that is number `number`, counted over epochs of three."""
    original = PtychoModule.training_step

    def training_step(self, batch, *, last_of_epoch):
        if self.epochs_done * 3 + self.batches_done + 1 == number:
            action(self)
        return original(self, batch, last_of_epoch=last_of_epoch)

    monkeypatch.setattr(PtychoModule, "training_step", training_step)


def break_a_weight(module):
    variable = module.model.tensors["probe"]
    variable.assign(tf.fill(variable.shape, tf.constant(float("nan"), variable.dtype)))


def test_divergence_ends_training_with_the_last_good_model(scan, backend, tmp_path, monkeypatch):
    at_step(monkeypatch, 5, break_a_weight)
    with pytest.raises(DivergenceError, match=r"epoch 2, batch 2 of 3: the loss is nan") as caught:
        workflows.train(scan, config(), tmp_path, backend=backend, execution=QUIET)
    assert caught.value.trained_model.epochs_done == 1
    assert same_weights(backend.load(tmp_path / "wts.h5.zip"), caught.value.trained_model)
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 2


def test_sigterm_saves_and_ends_with_143_and_a_callbacks_interrupt_stays_one(
    scan, backend, uninterrupted, tmp_path, monkeypatch
):
    def on_epoch(record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        workflows.train(scan, config(), tmp_path, backend=backend, execution=QUIET, on_epoch=on_epoch)
    assert stopped.value.trained_model.epochs_done == 1
    at_step(monkeypatch, 4, lambda module: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(Terminated) as caught:
            workflows.train(scan, config(), tmp_path, backend=backend, execution=QUIET, resume_from=tmp_path)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 143
    monkeypatch.undo()
    resumed = workflows.train(
        scan, config(), tmp_path, backend=backend, execution=QUIET, resume_from=tmp_path
    )
    assert same_weights(resumed.model, uninterrupted)


def state_of_the_process():
    loggers = {
        name: (logger.level, list(logger.handlers), list(logger.filters), logger.propagate, logger.disabled)
        for name, logger in ((name, logging.getLogger(name)) for name in LOGGERS)
    }
    return {
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002 - the program's generator
        "tensorflow": tf.random.get_global_generator().state.numpy().tolist(),
        "tf32": tf.config.experimental.tensor_float_32_execution_enabled(),
        "eager": tf.config.functions_run_eagerly(),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "errors of NumPy": np.geterr(),
        "environment": dict(os.environ),
        "loggers": loggers,
        "signals": [signal.getsignal(number) for number in (1, 2, 10, 15)],
    }


def test_training_leaves_the_process_as_it_was_and_is_not_led_by_it(scan, backend, uninterrupted):
    """One training by itself, then two in threads."""
    random.seed(5)
    tf.random.set_seed(5)
    before, models = state_of_the_process(), []

    def work():
        models.append(backend.train(scan, config(), execution=QUIET))

    work()
    assert state_of_the_process() == before
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state_of_the_process() == before
    assert len(models) == 3
    assert all(same_weights(model, uninterrupted) for model in models)
