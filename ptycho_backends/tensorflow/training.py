"""Training: epochs, checkpoints, Ctrl-C and resuming."""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.files.output import output_directory
from ptycho_backends.tensorflow import process_group
from ptycho_backends.tensorflow.arrays import shard_sizes
from ptycho_backends.tensorflow.compiling import Kept
from ptycho_backends.tensorflow.data import PtychoData
from ptycho_backends.tensorflow.device import compute_dtype, computing, device, network_dtype, strategy
from ptycho_backends.tensorflow.module import PtychoModule
from ptycho_backends.training.checkpoints import Checkpoints
from ptycho_backends.training.following import Follower
from ptycho_backends.training.interrupts import Interrupts, TrainingInterrupted
from ptycho_backends.training.plan import TrainingPlan
from ptycho_backends.training.rescue import carry
from ptycho_backends.training.schedule import already_trained_message, schedule_of
from ptycho_backends.training.synthetic_canvases import CanvasGroups
from ptycho_backends.values import EpochCallback, TrainedModel

log = logging.getLogger(__name__)

MODULES: Kept[PtychoModule] = Kept(2)
"""Those that trained last; a training that is resumed, tuned or repeated traces nothing anew."""

NOT_IN_GRAPHS: dict[str, Any] = {
    "nepochs": 1,
    "seed": 0,
    "output_dir": Path(),
    "train_data_file": None,
    "test_data_file": None,
}
"""Fields of a `TrainingConfig` that differ between trainings of the same graphs, and one value for each."""


def train(
    plan: TrainingPlan,
    *,
    execution: ExecutionConfig,
    output_dir: str | os.PathLike[str] | None = None,
    on_epoch: EpochCallback | None = None,
) -> TrainedModel:
    """Train along `plan` until `config.nepochs` epochs are done, then the stages of fine-tuning.

    Parameters
    ----------
    plan : TrainingPlan
    execution : ExecutionConfig
    output_dir : path, optional
        Gets `checkpoints/` (the best by `checkpoint_monitor_metric`, and `last.wts.h5.zip`; archives that
        either backend resumes from). None writes nothing.
    on_epoch : callable, optional
        Called with each `EpochRecord`.

    Returns
    -------
    TrainedModel
        `interrupted` if Ctrl-C ended training; its `training_state` is the resume state.

    Raises
    ------
    ConfigError, BackendUnavailableError, OutputError
        Before anything is computed.
    """
    if schedule_of(plan.start, execution).should_stop:
        log.warning(already_trained_message(plan, execution))
        return plan.start
    folder = None if output_dir is None else output_directory(output_dir)
    processes = process_group.process_group_of(execution)
    if not processes.is_first:
        # the first process writes, shows progress and calls back
        folder, on_epoch = None, None
    with contextlib.ExitStack() as stack:
        stack.enter_context(computing(execution))
        module = stack.enter_context(_module(plan, execution))
        interrupts = stack.enter_context(Interrupts(processes).listening())
        run = _Run(module, PtychoData(plan, execution), execution, folder, on_epoch, interrupts)
        try:
            try:
                run.epochs()
                model = module.trained_model()
            except TrainingInterrupted:
                model = run.interrupted_model()
                interrupts.report(module.epochs_done)
        except BaseException as error:
            carry(error, module.last_good)
            raise
        return model


@contextlib.contextmanager
def _module(plan: TrainingPlan, execution: ExecutionConfig) -> Iterator[PtychoModule]:
    """A module that trains along `plan`; of one device, the one that trained alike before, with its graphs."""
    dtypes = compute_dtype(execution), network_dtype(execution)
    if execution.devices > 1 or process_group.process_group_of(execution).size > 1:
        with strategy(execution).scope():
            module = PtychoModule(plan, execution, *dtypes)
        yield module
        return
    key = _traced_for(plan, execution)
    kept = MODULES.take(key)
    if kept is None:
        module = PtychoModule(plan, execution, *dtypes)
    else:
        module = kept
        module.start(plan, execution)
    yield module
    # not after an error
    MODULES.keep(key, module)


def _traced_for(plan: TrainingPlan, execution: ExecutionConfig) -> Hashable:
    """All that the graphs of a training depend on; of the configuration, more than that."""
    config = dataclasses.replace(plan.config, **NOT_IN_GRAPHS)
    groups = plan.groups
    return (
        repr(config),
        plan.start.intensity_scale,
        execution.accum_steps,
        execution.gradient_clip_val,
        execution.precision,
        device(execution),
        groups.is_masked,
        isinstance(groups, CanvasGroups),
    )


class _Run:
    """The loop over epochs and batches, with its checkpoints and callback."""

    def __init__(
        self,
        module: PtychoModule,
        data: PtychoData,
        execution: ExecutionConfig,
        folder: Path | None,
        on_epoch: EpochCallback | None,
        interrupts: Interrupts,
    ) -> None:
        self._module = module
        self._data = data
        self._on_epoch = on_epoch
        self._follower = on_epoch if isinstance(on_epoch, Follower) else None
        self._interrupts = interrupts
        writes = execution.enable_checkpointing and folder is not None
        self._checkpoints = Checkpoints(folder, execution) if writes and folder is not None else None

    def epochs(self) -> None:
        module = self._module
        while not module.schedule.should_stop:
            self._interrupts.raise_if_requested()
            module.start_epoch()
            self._train_epoch()
            record = module.finish_epoch(self._validate())
            model = module.keep(module.trained_model())
            if self._checkpoints is not None:
                self._checkpoints.save_last(model)
                self._checkpoints.save_best(model, record)
            if self._on_epoch is not None and self._on_epoch(record) is True:
                self._interrupts.request()

    def _train_epoch(self) -> None:
        module, epoch = self._module, self._module.epochs_done + 1
        batches = self._data.training_batches(epoch, module.batches_done)
        steps = len(batches)
        for step, batch in enumerate(batches, start=1):
            last = step == steps
            loss = module.training_step(batch, last_of_epoch=last)
            if self._follower is not None:
                self._follower.step(step, steps, loss.__float__)
            # at the last batch of an epoch the epoch is finished first
            if module.between_steps and not last:
                self._interrupts.raise_if_requested()

    def _validate(self) -> float | None:
        total, groups = 0.0, 0
        for batch in self._data.validation_batches():
            count = int(shard_sizes(batch)[1])
            total += float(self._module.validation_loss(batch)) * count
            groups += count
        return total / groups if groups else None

    def interrupted_model(self) -> TrainedModel:
        """The model after Ctrl-C, which is the last checkpoint, too."""
        model = self._interrupts.resumable(self._module.trained_model(interrupted=True))
        if self._checkpoints is not None and model.training_state is not None:
            self._checkpoints.save_last(model)
        return model
