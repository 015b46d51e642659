"""Training under Lightning's Trainer: checkpoints, Ctrl-C and resuming."""

import contextlib
import dataclasses
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.fabric.utilities import rank_zero
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from ptycho_backends.config import ExecutionConfig, TrainingConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.files.output import output_directory, replaced_atomically
from ptycho_backends.training.checkpoints import FOLDER, Checkpoints, best_checkpoints
from ptycho_backends.training.following import Follower, followed
from ptycho_backends.training.host import HeldTogether
from ptycho_backends.training.interrupts import CallbackInterrupted, Interrupts, TrainingInterrupted
from ptycho_backends.training.launch import SINGLE_DEVICE
from ptycho_backends.training.plan import TrainingPlan
from ptycho_backends.training.rescue import carry, without_failure
from ptycho_backends.training.schedule import already_trained_message, schedule_of
from ptycho_backends.values import EpochCallback, EpochRecord, Shown, TrainedModel
from ptycho_torch.backend.data import PtychoDataModule
from ptycho_torch.backend.device import computing, determinism, own_defaults
from ptycho_torch.backend.inference import object_patches
from ptycho_torch.backend.module import PtychoModule
from ptycho_torch.backend.process_group import SHARED, ProcessGroup, process_group_of, working_together

log = logging.getLogger(__name__)

# an attribute that type checkers do not see
_RANK: Any = rank_zero.rank_zero_only


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
        Gets `checkpoints/` (the best by `checkpoint_monitor_metric` as Lightning's `.ckpt`, the last as an
        archive that every backend resumes from). None writes nothing.
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
    return train_extended(plan, Extensions(), execution, output_dir, on_epoch)


@dataclass(frozen=True)
class Extensions:
    """Parts of Lightning that a user adds to training.

    Attributes
    ----------
    callbacks : sequence of lightning.Callback
        Called after the library's own; in every one of several processes, for which they have to be picklable.
    loggers : sequence of lightning.pytorch.loggers.Logger
        Beside the one of `ExecutionConfig.logger_backend`; in the first process alone.
    data : callable
        From plan, execution and processes to a data module, whose batches are those of `PtychoDataModule`: a class
        derived from that one.
    """

    callbacks: Sequence[Callback] = ()
    loggers: Sequence[Logger] = ()
    data: Callable[[TrainingPlan, ExecutionConfig, ProcessGroup], lightning.LightningDataModule] = (
        PtychoDataModule
    )


def train_extended(
    plan: TrainingPlan,
    extensions: Extensions,
    execution: ExecutionConfig,
    output_dir: str | os.PathLike[str] | None = None,
    on_epoch: EpochCallback | None = None,
) -> TrainedModel:
    """As `train`, with callbacks, loggers and data of the user's."""
    remaining = schedule_of(plan.start, execution).epochs_left
    if not remaining:
        log.warning(already_trained_message(plan, execution))
        return plan.start
    module = PtychoModule(plan.start, execution, on_epoch)
    run = TrainingRun(plan, module, execution=execution, output_dir=output_dir, extensions=extensions)
    return run.fit()


def _help(
    processes: ProcessGroup,
    plan: TrainingPlan,
    execution: ExecutionConfig,
    folder: Path | None,
    extensions: Extensions,
) -> None:
    """Task of the helpers that the first process starts."""
    module = PtychoModule(plan.start, execution)
    run = TrainingRun(
        plan, module, execution=execution, output_dir=folder, processes=processes, extensions=extensions
    )
    run.fit()


class TrainingRun(Shown):
    """A trainer with its module and data; callbacks may be added to it before `fit`.

    Parameters
    ----------
    plan : TrainingPlan
        At least one epoch is left to do.
    module : PtychoModule
        Made from `plan.start`.
    execution, output_dir
        As in `train`.
    processes : ProcessGroup, optional
        Connected already. Default: those that `execution` asks for, from `fit` on.
    extensions : Extensions, optional
        Callbacks, loggers and data of the user's.

    Attributes
    ----------
    trainer : lightning.Trainer
    """

    shown_as = "training"

    def __init__(
        self,
        plan: TrainingPlan,
        module: PtychoModule,
        *,
        execution: ExecutionConfig,
        output_dir: str | os.PathLike[str] | None = None,
        processes: ProcessGroup | None = None,
        extensions: Extensions | None = None,
    ) -> None:
        folder = None if output_dir is None else output_directory(output_dir)
        self._plan = plan
        self._extensions = Extensions() if extensions is None else extensions
        self._module = module
        module.epoch_batches = plan.batches_an_epoch
        self._execution = execution
        self._folder = folder
        self._processes = process_group_of(execution) if processes is None else processes
        self._connected = processes is not None
        checkpoints = None
        if execution.enable_checkpointing and folder is not None and self._processes.is_first:
            checkpoints = Checkpoints(folder, execution)
        self._interrupts = Interrupts(self._processes)
        module.request_stop = self._interrupts.request
        between_steps = _BetweenSteps(self._interrupts, checkpoints, execution.accum_steps)
        module.after_epoch = between_steps.save
        with self._settings():
            self.trainer = _trainer(
                execution, module, folder, between_steps, plan, self._processes, self._extensions
            )
        # Lightning's own handler of SIGTERM ends the program with exit code 0, or waits for the other processes
        self.trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]

    @property
    def history(self) -> tuple[EpochRecord, ...]:
        """Of the epochs that are finished, those before a resume among them."""
        return tuple(self._module.history)

    def __repr__(self) -> str:
        epochs, groups = self._plan.config.nepochs, len(self._plan.train_indices)
        return f"TrainingRun({len(self.history)} of {epochs} epochs of {groups} groups)"

    def fit(self) -> TrainedModel:
        """Train; returns as `train` does."""
        module, interrupts = self._module, self._interrupts
        data = self._extensions.data(self._plan, self._execution, self._processes)
        with (
            self._settings(),
            computing(self._execution),
            interrupts.listening(),
            self._followed() as follower,
        ):
            module.on_epoch = follower
            try:
                with self._together():
                    self.trainer.fit(module, datamodule=data)
                model = module.trained_model()
            except TrainingInterrupted:
                model = interrupts.resumable(module.trained_model(interrupted=True))
                interrupts.report(module.epochs_done)
            except CallbackInterrupted as error:
                carry(error.original, module.last_good)
                raise error.original from None
            except BaseException as error:
                carry(error, module.last_good)
                raise
            follower.model = model
        return model

    def _followed(self) -> contextlib.AbstractContextManager[Follower]:
        is_first = self._processes.is_first
        folder = self._folder if is_first else None
        return followed(
            self._plan, self._execution, folder, self._module.on_epoch, object_patches, is_first=is_first
        )

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        with (
            _quiet(),
            own_defaults(),
            determinism(self._execution.deterministic),
            _rank_of(self._processes),
        ):
            yield

    def _together(self) -> contextlib.AbstractContextManager[None]:
        if self._connected:
            return contextlib.nullcontext()
        # loggers write in the first process
        others = dataclasses.replace(self._extensions, loggers=())
        return working_together(self._processes, _help, self._plan, self._execution, self._folder, others)


def _trainer(
    execution: ExecutionConfig,
    module: PtychoModule,
    folder: Path | None,
    between_steps: "_BetweenSteps",
    plan: TrainingPlan,
    processes: ProcessGroup,
    extensions: Extensions,
) -> lightning.Trainer:
    callbacks: list[Callback] = [between_steps]
    checkpointing = execution.enable_checkpointing and folder is not None
    if checkpointing and folder is not None:
        callbacks.append(_checkpoints(execution, folder, has_validation=len(plan.validation_indices) > 0))
    callbacks += extensions.callbacks
    number = execution.device_number
    own_files = any(isinstance(callback, ModelCheckpoint) for callback in extensions.callbacks)
    try:
        return lightning.Trainer(
            accelerator=execution.device_kind,
            devices=processes.local_size if number is None else [number],
            num_nodes=processes.size // processes.local_size,
            strategy=_strategy(execution, plan.config, processes),
            # otherwise Lightning looks for a cluster's variables, those of a process by itself included
            plugins=[_ProcessGroupEnvironment(processes), _CheckpointFiles()],
            precision=execution.precision,  # type: ignore[arg-type]
            gradient_clip_val=execution.gradient_clip_val,
            accumulate_grad_batches=execution.accum_steps,
            max_epochs=module.schedule.epochs_left,
            # the display, and the loggers of the configuration, are those of every backend: `training.following`
            logger=list(extensions.loggers) if processes.is_first else False,
            callbacks=callbacks,
            enable_checkpointing=checkpointing or own_files,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            # losses are logged by epochs
            log_every_n_steps=0,
            # the order of the batches is the plan's, the same on every backend
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=int(module.batches_done > 0),
            default_root_dir=folder,
        )
    except (lightning.pytorch.utilities.exceptions.MisconfigurationException, ValueError) as error:
        raise ConfigError(
            f"execution: accelerator={execution.accelerator!r}, devices={execution.devices}, "
            f"strategy={execution.strategy!r}, precision={execution.precision!r} cannot be had here: {error}"
        ) from error


def _strategy(
    execution: ExecutionConfig, config: TrainingConfig, processes: ProcessGroup
) -> str | DDPStrategy:
    if processes.size == 1:
        return "auto" if execution.strategy in (*SHARED, SINGLE_DEVICE) else execution.strategy
    sees_diffraction = config.model.model_type == "pinn" and config.nll_weight + config.mae_weight > 0
    return DDPStrategy(
        # a probe that no loss sees, and the scale of 'unrolled', have no gradient, for which the processes would wait
        find_unused_parameters=config.model.architecture == "unrolled"
        or (config.probe_trainable and not sees_diffraction),
    )


def _checkpoints(execution: ExecutionConfig, folder: Path, *, has_validation: bool) -> ModelCheckpoint:
    metric = execution.checkpoint_monitor_metric
    if metric == "val_loss" and not has_validation:
        metric = "train_loss"
    callback = ModelCheckpoint(
        dirpath=folder / FOLDER,
        filename="best-{epoch}-{" + metric + ":.6g}",
        monitor=metric,
        mode=execution.checkpoint_mode,
        save_top_k=execution.checkpoint_save_top_k,
        # after the epoch is in the history, so that the file can be resumed
        save_on_train_epoch_end=True,
    )
    # of the run that goes on here; files of an earlier one are gone by now
    kept = {
        str(folder / FOLDER / name): torch.tensor(value)
        for name, (_, of, value) in best_checkpoints(folder).items()
        if of == metric and name.endswith(".ckpt")
    }
    if kept and execution.checkpoint_save_top_k:
        falls = execution.checkpoint_mode == "min"
        ranked = sorted(kept, key=lambda name: float(kept[name]), reverse=not falls)
        if execution.checkpoint_save_top_k > 0:
            ranked = ranked[: execution.checkpoint_save_top_k]
        callback.best_k_models = {name: kept[name] for name in ranked}
        callback.best_model_path, callback.best_model_score = ranked[0], kept[ranked[0]]
        callback.kth_best_model_path, callback.kth_value = ranked[-1], kept[ranked[-1]]
    return callback


class _ProcessGroupEnvironment(ClusterEnvironment):
    """A `ProcessGroup` as Lightning knows clusters: its processes exist, and no variable is looked at."""

    def __init__(self, processes: ProcessGroup) -> None:
        super().__init__()
        self._processes = processes

    @property
    def creates_processes_externally(self) -> bool:
        return True

    # of a process by itself; several are connected before Lightning starts
    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        return find_free_network_port()

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._processes.size

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self._processes.rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return self._processes.local_rank

    def node_rank(self) -> int:
        return self._processes.rank // self._processes.local_size


class _CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints beside their destination, whole or not at all; Lightning's own go by the temporary folder."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        def save() -> None:
            # torch's own writer would turn the errors of a file into others
            content = io.BytesIO()
            torch.save(checkpoint, content)
            with replaced_atomically(path) as stream:
                stream.write(content.getbuffer())

        without_failure(save, f"checkpoint {Path(path).name}")


class _BetweenSteps(Callback):
    """Shows steps, ends training where Ctrl-C asks for it, and keeps the last checkpoint current."""

    def __init__(self, interrupts: Interrupts, checkpoints: Checkpoints | None, accum_steps: int) -> None:
        self._interrupts = interrupts
        self._checkpoints = checkpoints
        self._accum_steps = accum_steps

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._interrupts.take_signals()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        module = _as_module(pl_module)
        if isinstance(module.on_epoch, Follower) and module.step_loss is not None:
            module.on_epoch.step(module.batches_done, int(module.epoch_batches), module.step_loss.__float__)
        stepped = (batch_idx + 1) % self._accum_steps == 0
        # at the last batch of an epoch the epoch is finished first
        if stepped and not trainer.is_last_batch:
            self._end_if_requested(pl_module)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._interrupts.raise_if_requested()

    def _end_if_requested(self, pl_module: lightning.LightningModule) -> None:
        try:
            self._interrupts.raise_if_requested()
        except TrainingInterrupted:
            if not self._interrupts.within_step:
                self.save(_as_module(pl_module).trained_model())
            raise

    def save(self, model: TrainedModel) -> None:
        """Write the last checkpoint; what cannot be written is no reason to end."""
        if self._checkpoints is not None:
            self._checkpoints.save_last(model)


def _as_module(pl_module: lightning.LightningModule) -> PtychoModule:
    assert isinstance(pl_module, PtychoModule)
    return pl_module


@contextlib.contextmanager
def _rank_of(processes: ProcessGroup) -> Iterator[None]:
    """Let Lightning's loggers know the rank, which they take from a launcher's variables otherwise."""
    before = _RANK.rank
    _RANK.rank = processes.rank
    try:
        yield
    finally:
        _RANK.rank = before


@contextlib.contextmanager
def _less_advice() -> Iterator[None]:
    """Silence Lightning's advice on matters that the configuration decides."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
        # no validation set, where validation_share is 0
        warnings.filterwarnings("ignore", message="Total length of .* across ranks is zero.*")
        warnings.filterwarnings("ignore", message=".*Experiment logs directory .* exists.*")
        # logged values are means over all processes already
        warnings.filterwarnings("ignore", message=".*recommended to use `self.log.*sync_dist=True.*")
        # a process by itself on a machine of a cluster
        warnings.filterwarnings("ignore", message=".*`srun` command is available .* but is not used.*")
        # Lightning's calls of torch are not the user's to change
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        noisy = logging.getLogger("lightning.pytorch")
        level = noisy.level
        noisy.setLevel(logging.WARNING)
        try:
            yield
        finally:
            noisy.setLevel(level)


_quiet = HeldTogether(_less_advice)
