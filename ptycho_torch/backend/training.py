"""Training under Lightning's Trainer: checkpoints, loggers, progress, Ctrl-C and resuming."""

import contextlib
import dataclasses
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.strategies import DDPStrategy

from ptycho_backends.config import ExecutionConfig, TrainingConfig
from ptycho_backends.errors import BackendUnavailableError, ConfigError
from ptycho_backends.files.output import output_directory
from ptycho_backends.training.checkpoints import Checkpoints
from ptycho_backends.training.plan import TrainingPlan
from ptycho_backends.training.schedule import already_trained_message, schedule_of
from ptycho_backends.values import EpochCallback, TrainedModel
from ptycho_torch.backend.data import PtychoDataModule
from ptycho_torch.backend.device import computing
from ptycho_torch.backend.module import PtychoModule
from ptycho_torch.backend.process_group import SHARED, ProcessGroup, process_group_of, working_together

log = logging.getLogger(__name__)

_MEMORY: Any = torch.utils.deterministic  # its switch is a property that type checkers do not see


class TrainingInterrupted(Exception):
    """Ends Lightning's loop after Ctrl-C; Lightning itself would end the whole process."""


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
        Gets `checkpoints/` (the best by `checkpoint_monitor_metric` as Lightning's `.ckpt`, the last as an
        archive that every backend resumes from) and the logger's folder. None writes nothing.
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
    remaining = schedule_of(plan.start, execution).epochs_left
    if not remaining:
        log.warning(already_trained_message(plan, execution))
        return plan.start
    module = PtychoModule(plan.start, execution, on_epoch)
    return TrainingRun(plan, module, execution=execution, output_dir=output_dir).fit()


def _help(team: ProcessGroup, plan: TrainingPlan, execution: ExecutionConfig, folder: Path | None) -> None:
    """What the processes do that the first one starts."""
    module = PtychoModule(plan.start, execution)
    TrainingRun(plan, module, execution=execution, output_dir=folder, team=team).fit()


class TrainingRun:
    """A trainer that is set up, and what it will train; callbacks may be added to it before `fit`.

    Parameters
    ----------
    plan : TrainingPlan
        At least one epoch is left to do.
    module : PtychoModule
        Made from `plan.start`.
    execution, output_dir
        As in `train`.
    team : Team, optional
        Connected already, this process among them. Default: what `execution` asks for, from `fit` on.

    Attributes
    ----------
    trainer : lightning.Trainer
    """

    def __init__(
        self,
        plan: TrainingPlan,
        module: PtychoModule,
        *,
        execution: ExecutionConfig,
        output_dir: str | os.PathLike[str] | None = None,
        team: ProcessGroup | None = None,
    ) -> None:
        folder = None if output_dir is None else output_directory(output_dir)
        self._plan = plan
        self._module = module
        self._execution = execution
        self._folder = folder
        self._team = process_group_of(execution) if team is None else team
        self._connected = team is not None
        checkpoints = None
        if execution.enable_checkpointing and folder is not None and self._team.is_first:
            checkpoints = Checkpoints(folder, execution)
        self._interrupts = _Interrupts(checkpoints, execution.accum_steps, self._team)
        with _quiet(), _deterministic_settings_restored():
            self.trainer = _trainer(
                execution,
                module.schedule.epochs_left,
                folder,
                self._interrupts,
                plan,
                module.batches_done > 0,
                self._team,
            )

    def fit(self) -> TrainedModel:
        """Train; see `train` for what comes back."""
        module, interrupts = self._module, self._interrupts
        data = PtychoDataModule(self._plan, self._execution, self._team)
        with (
            _quiet(),
            _deterministic_settings_restored(),
            computing(self._execution),
            interrupts.listening(),
        ):
            if self._execution.deterministic:
                # as Lightning set it when the trainer was made
                torch.use_deterministic_algorithms(True)
                torch.backends.cudnn.benchmark = False
                # nothing here reads memory that nobody has written; to fill it all takes a twentieth of a step
                _MEMORY.fill_uninitialized_memory = False
            try:
                with self._together():
                    self.trainer.fit(module, datamodule=data)
            except TrainingInterrupted:
                if self._team.is_first:
                    log.warning("interrupted after %d epochs; what was learned is kept", module.epochs_done)
                return interrupts.interrupted_model(module)
        return module.trained_model()

    def _together(self) -> contextlib.AbstractContextManager[None]:
        if self._connected:
            return contextlib.nullcontext()
        return working_together(self._team, _help, self._plan, self._execution, self._folder)


def _trainer(
    execution: ExecutionConfig,
    epochs: int,
    folder: Path | None,
    interrupts: "_Interrupts",
    plan: TrainingPlan,
    reload_batches: bool,
    team: ProcessGroup,
) -> lightning.Trainer:
    callbacks: list[Callback] = [interrupts]
    shows = execution.enable_progress_bar and team.is_first
    checkpointing = execution.enable_checkpointing and folder is not None
    if checkpointing and folder is not None:
        callbacks.append(_checkpoints(execution, folder, has_validation=len(plan.validation_indices) > 0))
    if shows:
        callbacks.append(_ProgressBar())
    try:
        return lightning.Trainer(
            accelerator=execution.accelerator,
            devices=team.local_size,
            num_nodes=team.size // team.local_size,
            strategy=_strategy(execution, plan.config, team),
            precision=execution.precision,  # type: ignore[arg-type]
            deterministic=execution.deterministic,
            gradient_clip_val=execution.gradient_clip_val,
            accumulate_grad_batches=execution.accum_steps,
            max_epochs=epochs,
            logger=_logger(execution, folder) if team.is_first else False,
            callbacks=callbacks,
            enable_checkpointing=checkpointing,
            enable_progress_bar=shows,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            # losses are logged by epochs
            log_every_n_steps=0,
            # the order of the batches is the plan's, the same on every backend
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=int(reload_batches),
            default_root_dir=folder,
        )
    except (lightning.pytorch.utilities.exceptions.MisconfigurationException, ValueError) as error:
        raise ConfigError(
            f"execution: accelerator={execution.accelerator!r}, devices={execution.devices}, "
            f"strategy={execution.strategy!r}, precision={execution.precision!r} cannot be had here: {error}"
        ) from error


def _strategy(execution: ExecutionConfig, config: TrainingConfig, team: ProcessGroup) -> str | DDPStrategy:
    if team.size == 1:
        return "auto" if execution.strategy in SHARED else execution.strategy
    sees_diffraction = config.model.model_type == "pinn" and config.nll_weight + config.mae_weight > 0
    return DDPStrategy(
        cluster_environment=_ProcessGroupEnvironment(team),
        # a probe that no loss sees has no gradient, for which the processes would wait
        find_unused_parameters=config.probe_trainable and not sees_diffraction,
    )


def _checkpoints(execution: ExecutionConfig, folder: Path, *, has_validation: bool) -> ModelCheckpoint:
    metric = execution.checkpoint_monitor_metric
    if metric == "val_loss" and not has_validation:
        metric = "train_loss"
    return ModelCheckpoint(
        dirpath=folder / "checkpoints",
        filename="best-{epoch}-{" + metric + ":.6g}",
        monitor=metric,
        mode=execution.checkpoint_mode,
        save_top_k=execution.checkpoint_save_top_k,
        # after the epoch is in the history, so that the file can be resumed
        save_on_train_epoch_end=True,
    )


def _logger(execution: ExecutionConfig, folder: Path | None) -> Logger | bool:
    kind = execution.logger_backend
    if kind in (None, "none") or folder is None:
        return False
    if kind == "csv":
        return CSVLogger(folder, name="logs", version="")
    package = {"tensorboard": "tensorboard", "mlflow": "mlflow"}[kind]
    if find_spec(package) is None:
        raise BackendUnavailableError(
            f"logger_backend: got {kind!r}, but {package!r} is not installed; run: pip install {package}, "
            "or use logger_backend='csv'"
        )
    if kind == "tensorboard":
        from lightning.pytorch.loggers import TensorBoardLogger

        return TensorBoardLogger(folder, name="logs", version="")
    from lightning.pytorch.loggers import MLFlowLogger

    return MLFlowLogger(experiment_name="ptycho-backends", save_dir=str(folder / "mlruns"))


class _ProcessGroupEnvironment(ClusterEnvironment):
    """What Lightning asks about a `ProcessGroup` whose processes are there already."""

    def __init__(self, team: ProcessGroup) -> None:
        super().__init__()
        self._team = team

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        raise NotImplementedError("the processes are connected before Lightning starts")

    main_port = main_address  # type: ignore[assignment]

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._team.size

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self._team.rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return self._team.local_rank

    def node_rank(self) -> int:
        return self._team.rank // self._team.local_size


class _ProgressBar(TQDMProgressBar):
    """Looks at the loss now and then: each look waits until a device has come so far."""

    SECONDS_BETWEEN = 0.2

    def __init__(self) -> None:
        super().__init__()
        self._shown = 0.0

    def on_train_batch_end(self, trainer: lightning.Trainer, *rest: Any) -> None:
        now = time.monotonic()
        if trainer.is_last_batch or now - self._shown > self.SECONDS_BETWEEN:
            self._shown = now
            super().on_train_batch_end(trainer, *rest)


class _Interrupts(Callback):
    """Turns Ctrl-C into an end after the current optimiser step, and keeps the last checkpoint current.

    A second Ctrl-C ends at once. Processes that train together end after the same step.
    """

    def __init__(self, checkpoints: Checkpoints | None, accum_steps: int, team: ProcessGroup) -> None:
        self._checkpoints = checkpoints
        self._accum_steps = accum_steps
        self._team = team
        self._asked = False
        self._within_step = False

    def interrupted_model(self, module: PtychoModule) -> TrainedModel:
        """What was learned; not to be resumed exactly if a step was cut short."""
        model = module.trained_model(interrupted=True)
        return dataclasses.replace(model, training_state=None) if self._within_step else model

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen for SIGINT; elsewhere than in the main thread Python cannot, and Ctrl-C goes there."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _note(self, signum: int, frame: Any) -> None:
        if self._asked:
            self._within_step = True
            raise TrainingInterrupted
        self._asked = True
        if self._team.is_first:
            log.warning("Ctrl-C: ending after this step; press it again to end at once")

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        module = _as_module(pl_module)
        stepped = (batch_idx + 1) % self._accum_steps == 0
        # at the last batch of an epoch the epoch is finished first
        if stepped and not trainer.is_last_batch and self._team.any(self._asked):
            self._save(module)
            raise TrainingInterrupted

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # here, because the module finishes the epoch after this callback's own end-of-epoch hook
        module = _as_module(pl_module)
        if module.batches_done == 0 and module.epochs_done:
            self._save(module)
        if self._team.any(self._asked):
            raise TrainingInterrupted

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._save(_as_module(pl_module))

    def _save(self, module: PtychoModule) -> None:
        if self._checkpoints is not None:
            self._checkpoints.save_last(module.trained_model())


def _as_module(pl_module: lightning.LightningModule) -> PtychoModule:
    assert isinstance(pl_module, PtychoModule)
    return pl_module


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning from advising on what the configuration decides."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
        # no validation set, where validation_share is 0
        warnings.filterwarnings("ignore", message="Total length of .* across ranks is zero.*")
        warnings.filterwarnings("ignore", message=".*Experiment logs directory .* exists.*")
        # what is logged is the mean over all processes already
        warnings.filterwarnings("ignore", message=".*recommended to use `self.log.*sync_dist=True.*")
        # how Lightning calls torch is not the user's to change
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        noisy = logging.getLogger("lightning.pytorch")
        level = noisy.level
        noisy.setLevel(logging.WARNING)
        try:
            yield
        finally:
            noisy.setLevel(level)


@contextlib.contextmanager
def _deterministic_settings_restored() -> Iterator[None]:
    """Lightning sets torch's process-wide switches; put them back for whoever comes after."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    filled = _MEMORY.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        _MEMORY.fill_uninitialized_memory = filled
