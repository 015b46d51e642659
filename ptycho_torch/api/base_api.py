"""The classes that Ptychodus calls: configurations, data, model, trainer and inference engine, in that order.

They only delegate: `scan_folder` makes groups, `config_bridge` translates, `training` trains.
"""

import dataclasses
import enum
import functools
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends.config import LATER_MODEL_FIELDS, SIDES, ExecutionConfig
from ptycho_backends.config import TrainingConfig as NeutralTrainingConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.files.output import output_directory
from ptycho_backends.files.stored_patterns import is_file_backed
from ptycho_backends.images.stitching import Stitcher, canvas_around, probe_weights
from ptycho_backends.params import bridge, params
from ptycho_backends.reference.probe import total_amplitude
from ptycho_backends.refinement.environment import refined_if_wanted
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.scans.scan import PTYCHODUS_ANCHOR_PX, Scan
from ptycho_backends.training import plan as plans
from ptycho_backends.training.plan import (
    TrainingPlan,
    first_probe,
    inference_groups,
    plan_training,
)
from ptycho_backends.values import Reconstruction, TrainedModel
from ptycho_torch.backend import inference, training
from ptycho_torch.backend.backend import TorchBackend
from ptycho_torch.config_bridge import check, to_execution_config, to_model_config, to_training_config
from ptycho_torch.config_params import DataConfig, DatagenConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptycho_torch.lightning_module import Configs, PtychoPINN_Lightning, as_config, stored_configs
from ptycho_torch.scan_folder import (
    image_groups,
    live_scan,
    load_training_scan,
    training_files,
    training_groups,
)

log = logging.getLogger(__name__)

# Pixels with less coverage than this are unknown, and get the value UNKNOWN.
LEAST_COVERAGE = 1e-6
UNKNOWN = 1.0


class ConfigManager:
    """The five configurations together.

    Parameters
    ----------
    data_config, model_config, training_config, inference_config, datagen_config
        Instances of `config_params`, or mappings of their fields; None for the defaults.
    """

    def __init__(
        self,
        data_config: DataConfig | Mapping[str, Any] | None = None,
        model_config: ModelConfig | Mapping[str, Any] | None = None,
        training_config: TrainingConfig | Mapping[str, Any] | None = None,
        inference_config: InferenceConfig | Mapping[str, Any] | None = None,
        datagen_config: DatagenConfig | Mapping[str, Any] | None = None,
    ) -> None:
        self.data_config: DataConfig = as_config(DataConfig, data_config)
        self.model_config: ModelConfig = as_config(ModelConfig, model_config)
        self.training_config: TrainingConfig = as_config(TrainingConfig, training_config)
        self.inference_config: InferenceConfig = as_config(InferenceConfig, inference_config)
        self.datagen_config: DatagenConfig = as_config(DatagenConfig, datagen_config)

    @classmethod
    def from_loaded_model(cls, model: "PtychoModel") -> "ConfigManager":
        """The configurations of a model that was loaded."""
        return cls(*model.configs)

    @property
    def configs(self) -> Configs:
        """Data, model, training, inference."""
        return self.data_config, self.model_config, self.training_config, self.inference_config

    def validate_arch_compatibility(self, model: "PtychoModel") -> None:
        """Refuse configurations that are not those of `model`.

        Raises
        ------
        ConfigError
        """
        network = model.model.config.model
        problems = [
            f"{name}: got {got!r}, but the model has {want!r}"
            for name, got, want in (
                ("N", self.data_config.N, network.N),
                ("C", self.data_config.C, network.group_size),
                ("mode", self.model_config.mode, model.model.model_config.mode),
            )
            if got != want
        ]
        if problems:
            raise ConfigError("; ".join(problems))

    def fill_params(self) -> NeutralTrainingConfig:
        """Check every setting and fill `params.cfg`, before any data are loaded.

        Returns
        -------
        ptycho_backends.config.TrainingConfig
            `N` is 0 if no network has the size of the setting; the data then decide it.

        Raises
        ------
        ConfigError
            Lists every refused setting.
        """
        check(self.configs)
        data, network, run, _ = self.configs
        side = {} if SIDES.accepts(data.N) else {"N": 0}
        config = to_training_config(to_model_config(data, network, side), data, network, run)
        bridge.update_legacy_dict(params.cfg, config)
        return config


class DataloaderFormats(enum.Enum):
    """Formats of training data in memory; there is one."""

    LIGHTNING_ONLY_MODULE = "lightning_only_module"


class PtychoDataLoader:
    """Data for training, or for a reconstruction.

    Parameters
    ----------
    data_dir : path
        Its `*.npz` files, each a scan, are trained on together.
    config_manager : ConfigManager
    data_format : DataloaderFormats
    output_dir : path
        Parent of the folder of this run, `run_<time>`.

    Attributes
    ----------
    output_dir : Path
        The folder of this run.

    Raises
    ------
    ConfigError, ScanError, ShapeError, GroupingError, OutputError
        All problems of settings, data and folder, before any computation.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        config_manager: ConfigManager,
        data_format: DataloaderFormats = DataloaderFormats.LIGHTNING_ONLY_MODULE,
        output_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        config_manager.fill_params()
        self.config_manager = config_manager
        self.data_format = DataloaderFormats(data_format)
        data, network, *_ = config_manager.configs
        self.groups, config_manager.data_config = training_groups(training_files(data_dir), data, network)
        self.scan: Scan = self.groups.scan
        _require_trim(config_manager.inference_config, self.scan.N)
        self.output_dir = _run_folder(Path(data_dir if output_dir is None else output_dir))

    @classmethod
    def from_np(
        cls,
        diff_patterns: ArrayLike,
        probe: ArrayLike,
        positions: ArrayLike,
        config_manager: ConfigManager,
    ) -> "PtychoDataLoader":
        """Live arrays for a reconstruction; no file is written.

        Parameters
        ----------
        diff_patterns : (M, N, N) real array, [ky, kx]
            Counts.
        probe : (P, N, N) complex array, [y, x]
        positions : (M, 2) real array, [y, x]
            Object pixels.
        config_manager : ConfigManager

        Raises
        ------
        ScanError, ShapeError, GroupingError
        """
        config_manager.fill_params()
        return cls._of_scan(live_scan(diff_patterns, probe, positions), config_manager)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], config_manager: ConfigManager) -> "PtychoDataLoader":
        """A scan in a file for a reconstruction; no file is written.

        Raises
        ------
        ScanError, ShapeError, GroupingError
        """
        config_manager.fill_params()
        return cls._of_scan(load_training_scan(path), config_manager)

    @classmethod
    def _of_scan(cls, scan: Scan, config_manager: ConfigManager) -> "PtychoDataLoader":
        self = cls.__new__(cls)
        self.config_manager = config_manager
        self.data_format = DataloaderFormats.LIGHTNING_ONLY_MODULE
        self.scan = scan
        self.groups = image_groups(scan, config_manager.data_config)
        return self


def _require_trim(settings: InferenceConfig, side: int) -> None:
    if settings.middle_trim > side:
        raise ConfigError(
            f"middle_trim: got {settings.middle_trim}, want at most {side}, the side of the patterns"
        )


def _run_folder(parent: Path) -> Path:
    """A new folder for this run, with a number if two runs start within a second."""
    name = time.strftime("run_%Y%m%d_%H%M%S")
    folder, number = parent / name, 1
    while folder.exists():
        number += 1
        folder = parent / f"{name}_{number}"
    return output_directory(folder)


class PtychoModel:
    """A network and its configurations.

    Parameters
    ----------
    model_config, data_config, training_config, inference_config
        Instances of `config_params`, or mappings of their fields; None for the defaults.

    Attributes
    ----------
    model : PtychoPINN_Lightning
        The assigned module; by default one with initial weights, made on first access.
    """

    def __init__(
        self,
        model_config: ModelConfig | Mapping[str, Any] | None = None,
        data_config: DataConfig | Mapping[str, Any] | None = None,
        training_config: TrainingConfig | Mapping[str, Any] | None = None,
        inference_config: InferenceConfig | Mapping[str, Any] | None = None,
    ) -> None:
        self.data_config: DataConfig = as_config(DataConfig, data_config)
        self.model_config: ModelConfig = as_config(ModelConfig, model_config)
        self.training_config: TrainingConfig = as_config(TrainingConfig, training_config)
        self.inference_config: InferenceConfig = as_config(InferenceConfig, inference_config)
        self._model_class: type[PtychoPINN_Lightning] = PtychoPINN_Lightning
        self._model: PtychoPINN_Lightning | None = None

    @classmethod
    def _new_model(cls, model: type[PtychoPINN_Lightning], config_manager: ConfigManager) -> "PtychoModel":
        """A model to train; `Trainer` gives it first weights for its data."""
        data, network, run, image = config_manager.configs
        made = cls(network, data, run, image)
        made._model_class = model
        return made

    @staticmethod
    def _extract_configs_from_checkpoint(path: str | os.PathLike[str]) -> Configs:
        """Data, model, training and inference configuration of a model file.

        Raises
        ------
        ArchiveError
            If the file is damaged, or is none of this library's.
        """
        return stored_configs(path)

    @property
    def configs(self) -> Configs:
        """Data, model, training, inference."""
        return self.data_config, self.model_config, self.training_config, self.inference_config

    @property
    def model(self) -> PtychoPINN_Lightning:
        if self._model is None:
            data, network, run, image = self.configs
            self._model = self._model_class(network, data, run, image)
        return self._model

    @model.setter
    def model(self, model: PtychoPINN_Lightning) -> None:
        self._model = model


class Trainer:
    """Trains a `PtychoModel` on a `PtychoDataLoader`; made by `_from_lightning`."""

    def __init__(self, run: training.TrainingRun) -> None:
        self._run = run
        self._trainer: lightning.Trainer = run.trainer

    @classmethod
    def _from_lightning(
        cls,
        model: PtychoModel,
        dataloader: PtychoDataLoader,
        orchestration: str = "lightning",
        config_manager: ConfigManager | None = None,
        logger_backend: str | None = None,
    ) -> "Trainer":
        """Give `model` its first weights, and set up the training run.

        `logger_backend` names where the metrics go; default: as `ExecutionConfig`.

        Raises
        ------
        ConfigError
            If `orchestration` is not 'lightning', or this machine lacks the requested devices.
        """
        _require_lightning(orchestration)
        manager = dataloader.config_manager if config_manager is None else config_manager
        data, network, run, image = manager.configs
        logger = {} if logger_backend is None else {"logger_backend": logger_backend}
        execution = to_execution_config(run, image, data, logger)
        plan = training_plan(dataloader.groups, manager)
        execution = _with_workers_that_help(execution, plan)
        module = model._model_class(network, data, run, image, start=plan.start, execution=execution)
        model.model = module
        return cls(training.TrainingRun(plan, module, execution=execution, output_dir=dataloader.output_dir))

    def train(self, orchestration: str = "lightning", experiment_name: str = "") -> TrainedModel:
        """Train; checkpoints are in the run's folder at the end. `experiment_name` has no effect."""
        _require_lightning(orchestration)
        return self._run.fit()


def _with_workers_that_help(execution: ExecutionConfig, plan: TrainingPlan) -> ExecutionConfig:
    """Without worker processes where patterns lie in memory; Ptychodus asks for four unless told otherwise.

    A thread gathers these during a step, and processes that each import the framework first take half a minute.
    """
    if execution.num_workers == 0 or is_file_backed(plan.groups.scan.patterns):
        return execution
    log.info("num_workers: %d not started, the patterns lie in memory", execution.num_workers)
    return dataclasses.replace(execution, num_workers=0, persistent_workers=False)


def _require_lightning(orchestration: str) -> None:
    if orchestration.lower() != "lightning":
        raise ConfigError(f"orchestration: got {orchestration!r}, want 'lightning'")


def training_plan(groups: GroupedData, manager: ConfigManager) -> TrainingPlan:
    """The training plan for `groups` under the settings of `manager`, with its complete configuration."""
    data, network, run, _ = manager.configs
    scans = groups.parts or (groups.scan,)
    # all modes that Ptychodus hands over
    modes = max(1 if scan.probe_modes is None else len(scan.probe_modes) for scan in scans)
    model = to_model_config(data, network, {"n_probe_modes": modes})
    config = to_training_config(model, data, network, run, overrides={"n_groups": len(groups)})
    plan = plan_training(groups, config, "torch", complete=_completed)
    if data.probe_normalize or groups.scan.probe_guess is None:
        return plan
    chosen = scans if groups.probe_count > 1 else groups.scan
    weights = {**plan.start.weights, "probe": first_probe(chosen, plan.config, normalised=False)}
    return dataclasses.replace(plan, start=dataclasses.replace(plan.start, weights=weights))


def _completed(
    config: NeutralTrainingConfig, groups: Scan | GroupedData, execution: ExecutionConfig | None
) -> NeutralTrainingConfig:
    """`config` for the data; `params.cfg`, filled before they were read, gets the values that they decide."""
    completed = plans.completed_config(config, groups, "torch", execution)
    decided = {"N": completed.model.N, "n_groups": completed.n_groups, "nphotons": completed.nphotons}
    flat = bridge.dataclass_to_legacy_dict(completed.model)
    bridge.forget_defaults(params.cfg, flat)
    params.cfg.update(decided | {name: flat[name] for name in LATER_MODEL_FIELDS if name in flat})
    return completed


class InferenceEngine:
    """Reconstruction of images.

    Parameters
    ----------
    config_manager : ConfigManager
    ptycho_model : PtychoModel

    Raises
    ------
    ConfigError
        If `middle_trim` is larger than the patches of the model.
    """

    def __init__(self, config_manager: ConfigManager, ptycho_model: PtychoModel) -> None:
        check(config_manager.configs)
        self._data, _, self._run, self._settings = config_manager.configs
        self._module = ptycho_model.model
        _require_trim(self._settings, self._module.config.model.N)

    def predict_and_stitch(self, data_loader: PtychoDataLoader) -> NDArray[np.complex64]:
        """(H, W) complex64, `[y, x]`: the image, 1 in unknown pixels; see `reconstruct`."""
        return self.reconstruct(data_loader).object

    def reconstruct(self, data_loader: PtychoDataLoader) -> Reconstruction:
        """The image and its coverage.

        Returns
        -------
        Reconstruction
            Centred on the bounding box of the positions, which it shows with one probe width more;
            `origin_px` and `group_centres_px` are in Ptychodus's coordinates.

        Raises
        ------
        ConfigError
            If the patterns do not fit the model, or `window` covers the whole image.
        """
        started = time.perf_counter()
        model, scan = self._module.neutral_model(), data_loader.scan
        groups = data_loader.groups
        image, coverage, origin = self._stitched(model, groups, scan)
        stitched = Reconstruction(
            object=image,
            coverage=coverage,
            origin_px=origin,
            group_centres_px=groups.group_centres_px[:, 0, :, 0],
            backend="torch",
            timings_s={"predict": time.perf_counter() - started},
        )
        execution = to_execution_config(self._run, self._settings, self._data)
        refined = refined_if_wanted(
            stitched, scan, functools.partial(TorchBackend().refine, execution=execution)
        )
        return dataclasses.replace(
            refined,
            origin_px=refined.origin_px - PTYCHODUS_ANCHOR_PX,
            group_centres_px=refined.group_centres_px - PTYCHODUS_ANCHOR_PX,
        )

    def _stitched(
        self, model: TrainedModel, groups: GroupedData, scan: Scan
    ) -> tuple[NDArray[np.complex64], NDArray[np.float32], NDArray[np.float64]]:
        groups = inference_groups(model, groups)
        size, window = self._settings.middle_trim, self._settings.window
        canvas = canvas_around(scan.scan_positions_px, scan.N)
        if 2 * window >= min(canvas.height, canvas.width):
            raise ConfigError(
                f"window: got {window}, which leaves nothing of an image of {canvas.width} x {canvas.height} pixels"
            )
        weights = None
        if self._settings.patch_weighting == "probe":
            modes = model.probe_modes if scan.probe_modes is None else scan.probe_modes
            weights = probe_weights(modes[0] if len(modes) == 1 else total_amplitude(modes), size)
        execution = to_execution_config(self._run, self._settings, self._data)
        stitcher = Stitcher(canvas, size, weights)
        inference.stitch_together(stitcher, model, groups, execution)
        image, coverage = stitcher.result()
        inner = np.s_[window : canvas.height - window, window : canvas.width - window]
        unknown = np.ones(image.shape, bool)
        unknown[inner] = coverage[inner] < LEAST_COVERAGE
        image[unknown], coverage[unknown] = UNKNOWN, 0
        if self._settings.pad_eval:
            return image, coverage, canvas.origin_px
        margin = (scan.N - size) // 2
        inner = np.s_[margin : len(image) - margin, margin : image.shape[1] - margin]
        return image[inner], coverage[inner], canvas.origin_px + margin
