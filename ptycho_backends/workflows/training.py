"""The verbs that train: `train` and `train_synthetic`."""

import copy
import dataclasses
import functools
import logging
from pathlib import Path

from ptycho_backends.backend_base import plan_for
from ptycho_backends.checking import require_sound
from ptycho_backends.config import ExecutionConfig, RefinementConfig, TrainingConfig
from ptycho_backends.config_file import save_config
from ptycho_backends.errors import ConfigError
from ptycho_backends.files.output import output_directory
from ptycho_backends.images import results
from ptycho_backends.images.curves import save_history_figure
from ptycho_backends.images.page import Contents
from ptycho_backends.protocol import Backend
from ptycho_backends.recipes import execution_recipe, synthetic_recipe, training_recipe
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.synthetic import Range, SyntheticScans
from ptycho_backends.training.checkpoints import model_to_resume
from ptycho_backends.training.interrupts import Terminated
from ptycho_backends.training.launch import is_first_process
from ptycho_backends.training.live_picture import require_possible
from ptycho_backends.training.loggers import logger_of
from ptycho_backends.training.plan import TrainingPlan
from ptycho_backends.training.rescue import carried, carry, saved_somewhere, without_failure
from ptycho_backends.training.run_folder import (
    FILES,
    IMAGE_FILES,
    TRAINING_FILES,
    continues_run,
    one_writer,
    remove_earlier,
    require_free,
    resumable_file,
)
from ptycho_backends.training.synthetic_canvases import CanvasGroups, SyntheticCanvases
from ptycho_backends.values import EpochCallback, EpochRecord, Reconstruction, TrainedModel
from ptycho_backends.workflows.arguments import AnyPath, chosen_backend, loaded_scan, require_light
from ptycho_backends.workflows.result import RunResult, write_report

log = logging.getLogger(__name__)

# Of each synthetic scan: enough for a canvas of several times the side of a pattern.
SYNTHETIC_PATTERNS = 220


def train(
    scan: Scan | AnyPath | TrainingPlan,
    config: TrainingConfig | None = None,
    output_dir: AnyPath | None = None,
    *,
    backend: str | Backend | None = None,
    execution: ExecutionConfig | None = None,
    resume_from: AnyPath | TrainedModel | None = None,
    on_epoch: EpochCallback | None = None,
    overwrite: bool = True,
    check: bool = True,
) -> RunResult:
    """Train a model and write it, with its configuration and history.

    Parameters
    ----------
    scan : Scan, path or TrainingPlan
        A plan is trained as it is, with its own configuration and start.
    config : TrainingConfig, optional
        `N=0` takes the side from the patterns. Default: `recipes.training_recipe()`. Left out with a plan.
    output_dir : path, optional
        Default: `config.output_dir`.
    backend : str or Backend, optional
        Default: as `get_backend` chooses for `config`.
    execution : ExecutionConfig, optional
        Default: `recipes.execution_recipe` of the architecture.
    resume_from : path or TrainedModel, optional
        An archive, a checkpoint, or the folder of an earlier run.
    on_epoch : callable, optional
        Called with each `EpochRecord`.
    overwrite : bool
        Replace an earlier training in the folder, unless this one continues it: its files go, its checkpoints among
        them. False refuses the folder.
    check : bool
        Look at the scans first: what is certainly wrong is refused, doubts are logged (`checking.require_sound`).

    Returns
    -------
    RunResult
        `interrupted` if Ctrl-C ended training; everything is written all the same.

    Raises
    ------
    PtychoBackendsError
        For bad input and for a folder that cannot be written to: before anything is written.
    """
    data = scan if isinstance(scan, TrainingPlan) else loaded_scan(scan)
    if config is None and not isinstance(data, TrainingPlan):
        config = training_recipe()
    chosen = chosen_backend(backend, data.config if isinstance(data, TrainingPlan) else config)
    if execution is None:
        settings = data.config if isinstance(data, TrainingPlan) else config
        assert settings is not None
        execution = execution_recipe(settings.model.architecture)
    if config is not None and not isinstance(data, TrainingPlan):
        config = _with_folder(config, output_dir)
    if check:
        _require_sound(data)
    plan = plan_for(chosen, data, config, execution, _resumed_model(resume_from, chosen))
    require_light(plan.groups)
    named = Path(plan.config.output_dir if output_dir is None else output_dir)
    # before an earlier run is removed
    logger_of(execution, named)
    require_possible(plan, execution)
    continues = continues_run(named, plan.start)
    if not overwrite and not continues:
        require_free(named, (*TRAINING_FILES, *IMAGE_FILES), "an earlier run")
    folder = output_directory(named)
    if named != plan.config.output_dir:
        plan = plan.changed(output_dir=named)

    writes = is_first_process(execution, chosen.name)
    with one_writer(folder if writes else None):
        files: dict[str, Path] = {}
        if writes:
            if not continues:
                remove_earlier(folder, (*TRAINING_FILES, *IMAGE_FILES))
            files["config"] = save_config(plan.config, folder / FILES["config"])
            files["execution"] = save_config(execution, folder / FILES["execution"])
        if not writes:
            model = chosen.train(plan, plan.config, execution=execution, output_dir=folder, on_epoch=on_epoch)
            return RunResult(chosen.name, folder, files, model, trained=True)
        shown = plan.scan if isinstance(data, TrainingPlan) else data
        title = f"Training on {shown.name}" if isinstance(shown, Scan) else "Training"
        recorded = _HistoryOnDisk(plan.start, folder / FILES["history"], on_epoch)
        try:
            model = chosen.train(plan, plan.config, execution=execution, output_dir=folder, on_epoch=recorded)
        except BaseException as error:
            # whatever ended it: the model is worth more
            model = carried(error)
            if isinstance(model, TrainedModel):
                result = _write_model(chosen, model, folder, files, title, error)
                if isinstance(error, Terminated):
                    error.result = dataclasses.replace(result, signal=error.signal)
            raise
        return _write_model(chosen, model, folder, files, title)


class _HistoryOnDisk:
    """Writes the history after every epoch, then calls `on_epoch`."""

    def __init__(self, start: TrainedModel, path: Path, on_epoch: EpochCallback | None) -> None:
        self._history = list(start.history)
        self._path = path
        self._on_epoch = on_epoch

    def __call__(self, record: EpochRecord) -> None:
        # epochs after the last good one are trained again, where training has diverged
        self._history = [*self._history[: record.epoch - 1], record]
        without_failure(lambda: results.save_history(self._history, self._path), "history")
        if self._on_epoch is not None:
            self._on_epoch(record)


def _write_model(
    backend: Backend,
    model: TrainedModel,
    folder: Path,
    files: dict[str, Path],
    title: str,
    ended_by: BaseException | None = None,
) -> RunResult:
    """Archive, history, figure and page of a model; with a note in `ended_by` about what could not be written."""
    try:
        files["archive"] = saved_somewhere(lambda path: backend.save(model, path), folder / FILES["archive"])
        files["history"] = results.save_history(model.history, folder / FILES["history"])
        if model.history:
            files["history_figure"] = save_history_figure(model.history, folder / FILES["history_figure"])
        if (folder / FILES["live_picture"]).is_file():
            files["live_picture"] = folder / FILES["live_picture"]
        write_report(folder, files, Contents(title, backend.name, model))
    except Exception as error:
        carry(error, model)
        if ended_by is None:
            raise
        log.error("%s", error)
        ended_by.add_note(str(error))
    return RunResult(backend.name, folder, files, model, trained=True)


def train_synthetic(
    probe_from: Scan | AnyPath,
    parts: int,
    config: TrainingConfig | None = None,
    output_dir: AnyPath | None = None,
    *,
    backend: str | Backend | None = None,
    execution: ExecutionConfig | None = None,
    patterns: int = SYNTHETIC_PATTERNS,
    photons: Range | None = None,
    step_px: Range | None = None,
    resume_from: AnyPath | TrainedModel | None = None,
    on_epoch: EpochCallback | None = None,
    overwrite: bool = True,
) -> RunResult:
    """Train a model of 'unrolled' before the beam time: on refined images of synthetic scans with known objects.

    Every epoch has scans of its own, simulated with the probe, the dose and the step of a measured one, and refined
    as a measured one will be. Afterwards `refine(scan, model=...)` and `infer` correct refined images.

    Parameters
    ----------
    probe_from : Scan or path
        Gives the probe, the mean photons of a pattern and the mean step; its object and positions are not used.
    parts : int
        Parts of refined images, as large as a pattern, to train on in all epochs together.
    config : TrainingConfig, optional
        Default: `recipes.synthetic_recipe()`. Its `model.architecture` has to be 'unrolled', its `model.model_type`
        'supervised'.
    output_dir : path, optional
    backend : str or Backend, optional
    execution : ExecutionConfig, optional
    patterns : int
        Of each synthetic scan.
    photons, step_px : float or (float, float), optional
        Mean photons of a pattern, and mean distance of neighbours; of two numbers, each scan draws one between.
        Default: around those of `probe_from`.
    resume_from, on_epoch, overwrite
        As in `train`.

    Raises
    ------
    PtychoBackendsError
        For bad input, before anything is written.
    """
    scan = loaded_scan(probe_from)
    config = synthetic_recipe() if config is None else config
    chosen = chosen_backend(backend, config)
    execution = execution_recipe() if execution is None else execution
    if config.model.architecture != "unrolled" or config.model.model_type != "supervised":
        raise ConfigError(
            f"architecture, model_type: got {config.model.architecture!r}, {config.model.model_type!r}, want "
            "'unrolled', 'supervised' for training on synthetic scans"
        )
    if parts < config.nepochs:
        raise ConfigError(f"parts: got {parts}, want at least one for each of {config.nepochs} epochs")
    output_directory(config.output_dir if output_dir is None else output_dir)
    source = SyntheticScans.like(scan, patterns=patterns, seed=config.seed, photons=photons, step_px=step_px)
    draw = SyntheticCanvases(
        source,
        -(-parts // config.nepochs),
        config.model.gridsize,
        functools.partial(_refined_as_measured, chosen, execution),
    )
    plan = plan_for(chosen, draw(0), config, execution, _resumed_model(resume_from, chosen))
    return train(
        dataclasses.replace(plan, resample=draw),
        output_dir=output_dir,
        backend=chosen,
        execution=execution,
        on_epoch=on_epoch,
        overwrite=overwrite,
        check=False,
    )


def _refined_as_measured(backend: Backend, execution: ExecutionConfig, scan: Scan) -> Reconstruction:
    quiet = dataclasses.replace(execution, enable_progress_bar=False)
    return backend.refine(None, scan, RefinementConfig(refine_probe=False), execution=quiet)


def _with_folder(config: TrainingConfig, output_dir: AnyPath | None) -> TrainingConfig:
    """`config` with the folder that results really go to; unchecked, as planning checks it."""
    if output_dir is None:
        return config
    copied = copy.copy(config)
    copied.output_dir = Path(output_dir)
    return copied


def _require_sound(data: Scan | TrainingPlan) -> None:
    """The quick checks of every scan that is trained on."""
    if isinstance(data, Scan):
        require_sound(data)
    elif not isinstance(data.groups, CanvasGroups):
        for scan in data.groups.parts or (data.scan,):
            require_sound(scan)


def _resumed_model(resume_from: AnyPath | TrainedModel | None, backend: Backend) -> TrainedModel | None:
    if resume_from is None or isinstance(resume_from, TrainedModel):
        return resume_from
    return model_to_resume(resumable_file(resume_from), backend.load)
