"""Training over `tf.data`: checkpoints, loggers, progress, Ctrl-C and resuming."""

import contextlib
import dataclasses
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tensorflow as tf

from ptycho_backends.archive.members import history_to_bytes
from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import BackendUnavailableError
from ptycho_backends.files.output import output_directory, replaced_atomically
from ptycho_backends.tensorflow import process_group
from ptycho_backends.tensorflow.data import PtychoData
from ptycho_backends.tensorflow.device import compute_dtype, computing, network_dtype, strategy
from ptycho_backends.tensorflow.module import PtychoModule
from ptycho_backends.training.checkpoints import Checkpoints
from ptycho_backends.training.plan import TrainingPlan
from ptycho_backends.training.schedule import already_trained_message, schedule_of
from ptycho_backends.values import EpochCallback, EpochRecord, TrainedModel

log = logging.getLogger(__name__)

Recorder = Callable[[PtychoModule, EpochRecord], None]


class TrainingInterrupted(Exception):
    """Ends the training loop after Ctrl-C."""


def train(
    plan: TrainingPlan,
    *,
    execution: ExecutionConfig,
    output_dir: str | os.PathLike[str] | None = None,
    on_epoch: EpochCallback | None = None,
) -> TrainedModel:
    """Train what `plan` says until `config.nepochs` epochs are done, and then the stages of fine-tuning.

    Parameters
    ----------
    plan : TrainingPlan
    execution : ExecutionConfig
    output_dir : path, optional
        Gets `checkpoints/` (the best by `checkpoint_monitor_metric`, and `last.wts.h5.zip`; archives that
        either backend resumes from) and the logger's folder. None writes nothing.
    on_epoch : callable, optional
        Called with each `EpochRecord`.

    Returns
    -------
    TrainedModel
        `interrupted` if Ctrl-C ended training; its `training_state` then says where to go on.

    Raises
    ------
    ConfigError, BackendUnavailableError, OutputError
        Before anything is computed.
    """
    if schedule_of(plan.start, execution).should_stop:
        log.warning(already_trained_message(plan, execution))
        return plan.start
    folder = None if output_dir is None else output_directory(output_dir)
    team = process_group.process_group_of(execution)
    if not team.is_first:
        # the first process writes, shows progress and calls back
        folder, on_epoch = None, None
        execution = dataclasses.replace(execution, enable_progress_bar=False)
    with contextlib.ExitStack() as stack:
        stack.enter_context(computing(execution))
        record = _recorder(execution, folder, stack)
        with strategy(execution).scope():
            module = PtychoModule(plan, execution, compute_dtype(execution), network_dtype(execution))
        run = _Run(module, PtychoData(plan, execution), execution, folder, record, on_epoch, team)
        interrupts = stack.enter_context(_Interrupts(team).listening())
        try:
            run.epochs(interrupts)
        except TrainingInterrupted:
            if team.is_first:
                log.warning("interrupted after %d epochs; what was learned is kept", module.epochs_done)
            return run.interrupted_model(interrupts)
        return module.trained_model()


class _Run:
    """The loop over epochs and batches, and what goes with it."""

    def __init__(
        self,
        module: PtychoModule,
        data: PtychoData,
        execution: ExecutionConfig,
        folder: Path | None,
        record: Recorder,
        on_epoch: EpochCallback | None,
        team: process_group.ProcessGroup,
    ) -> None:
        self._module = module
        self._data = data
        self._record = record
        self._on_epoch = on_epoch
        self._team = team
        epochs = data.plan.config.nepochs + execution.finetune_epochs
        self._progress = _Progress(epochs) if execution.enable_progress_bar else None
        writes = execution.enable_checkpointing and folder is not None
        self._checkpoints = Checkpoints(folder, execution) if writes and folder is not None else None

    def epochs(self, interrupts: "_Interrupts") -> None:
        module = self._module
        while not module.schedule.should_stop:
            if self._team.any(interrupts.asked):
                raise TrainingInterrupted
            module.start_epoch()
            self._train_epoch(interrupts)
            record = module.finish_epoch(self._validate())
            if self._progress is not None:
                self._progress.finish(record)
            if self._checkpoints is not None:
                model = module.trained_model()
                self._checkpoints.save_last(model)
                self._checkpoints.save_best(model, record)
            self._record(module, record)
            if self._on_epoch is not None:
                self._on_epoch(record)

    def _train_epoch(self, interrupts: "_Interrupts") -> None:
        module, epoch = self._module, self._module.epochs_done + 1
        batches = self._data.training_batches(epoch, module.batches_done)
        steps = int(batches.cardinality())
        for step, batch in enumerate(batches, start=1):
            last = step == steps
            loss = module.training_step(batch, last_of_epoch=last)
            if self._progress is not None:
                self._progress.show(epoch, step, steps, loss)
            # at the last batch of an epoch the epoch is finished first
            if module.between_steps and not last and self._team.any(interrupts.asked):
                raise TrainingInterrupted

    def _validate(self) -> float | None:
        total, groups = 0.0, 0
        for batch in self._data.validation_batches():
            count = int(process_group.groups_of(batch))
            total += float(self._module.validation_loss(batch)) * count
            groups += count
        return total / groups if groups else None

    def interrupted_model(self, interrupts: "_Interrupts") -> TrainedModel:
        """What was learned; not to be resumed exactly if a step was cut short."""
        model = self._module.trained_model(interrupted=True)
        if interrupts.within_step:
            return dataclasses.replace(model, training_state=None)
        if self._checkpoints is not None:
            self._checkpoints.save_last(model)
        return model


class _Interrupts:
    """Turns Ctrl-C into an end after the current optimiser step; a second Ctrl-C ends at once.

    Processes that train together end after the same step.
    """

    def __init__(self, team: process_group.ProcessGroup) -> None:
        self._team = team
        self.asked = False
        self.within_step = False

    @contextlib.contextmanager
    def listening(self) -> Iterator["_Interrupts"]:
        """Listen for SIGINT; elsewhere than in the main thread Python cannot, and Ctrl-C goes there."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = signal.signal(signal.SIGINT, self._note)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, previous)

    def _note(self, signum: int, frame: Any) -> None:
        if self.asked:
            self.within_step = True
            raise TrainingInterrupted
        self.asked = True
        if self._team.is_first:
            log.warning("Ctrl-C: ending after this step; press it again to end at once")


class _Progress:
    """A line on standard error: rewritten while an epoch runs if that is a terminal, one per epoch if not."""

    SECONDS_BETWEEN = 0.2

    def __init__(self, nepochs: int) -> None:
        self._nepochs = nepochs
        self._shown = 0.0

    def show(self, epoch: int, batch: int, batches: int, loss: tf.Tensor) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and now - self._shown > self.SECONDS_BETWEEN:
            self._shown = now
            text = f"epoch {epoch}/{self._nepochs}  batch {batch}/{batches}  loss {float(loss):.6g}"
            sys.stderr.write(f"\r{text:<78}")
            sys.stderr.flush()

    def finish(self, record: EpochRecord) -> None:
        losses = f"train_loss {record.train_loss:.6g}"
        if record.val_loss is not None:
            losses += f"  val_loss {record.val_loss:.6g}"
        text = f"epoch {record.epoch}/{self._nepochs}  {losses}  {record.seconds:.1f} s"
        sys.stderr.write(f"\r{text:<78}\n" if sys.stderr.isatty() else f"{text}\n")
        sys.stderr.flush()


def _recorder(execution: ExecutionConfig, folder: Path | None, stack: contextlib.ExitStack) -> Recorder:
    """What `logger_backend` names, called after each epoch; what it opens is closed by `stack`."""
    kind = execution.logger_backend
    if kind in (None, "none") or folder is None:
        return lambda module, record: None
    logs = folder / "logs"
    if kind == "csv":
        return lambda module, record: _write_history(module, logs / "metrics.csv")
    if find_spec(kind) is None:
        raise BackendUnavailableError(
            f"logger_backend: got {kind!r}, but {kind!r} is not installed; run: pip install {kind}, "
            "or use logger_backend='csv'"
        )
    if kind == "tensorboard":
        writer = stack.enter_context(tf.summary.create_file_writer(str(logs)))

        def to_tensorboard(module: PtychoModule, record: EpochRecord) -> None:
            for name, value in _metrics(record).items():
                tf.summary.scalar(name, value, step=record.epoch)
            writer.flush()

        return to_tensorboard
    mlflow = import_module("mlflow")
    mlflow.set_tracking_uri((folder / "mlruns").resolve().as_uri())
    mlflow.set_experiment("ptycho-backends")
    stack.enter_context(mlflow.start_run())
    return lambda module, record: mlflow.log_metrics(_metrics(record), step=record.epoch)


def _write_history(module: PtychoModule, path: Path) -> None:
    """The whole history, also of the time before training was resumed: the archive's `history.csv`."""
    with replaced_atomically(path) as stream:
        stream.write(history_to_bytes(module.history))


def _metrics(record: EpochRecord) -> dict[str, float]:
    values = dataclasses.asdict(record)
    return {name: value for name, value in values.items() if name != "epoch" and value is not None}
