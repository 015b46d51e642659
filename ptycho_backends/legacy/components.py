"""Train, reconstruct, load and write, in the steps of the legacy package.

The legacy interface lacks some settings; `filled_in` chooses them, as a user would who wants to train on the
whole scan.
"""

import copy
import dataclasses
import functools
import logging
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.backend_base import plan_for
from ptycho_backends.config import ExecutionConfig, TrainingConfig, from_values, raise_if_any, with_side
from ptycho_backends.errors import ConfigError, ScanError
from ptycho_backends.files.output import output_directory, replaced_atomically
from ptycho_backends.images import results as files
from ptycho_backends.images.figures import save_history_figure, save_reconstruction_figure
from ptycho_backends.legacy import model_manager
from ptycho_backends.legacy.framework_choice import DEFAULTS, training_backend
from ptycho_backends.legacy.raw_data import RawData
from ptycho_backends.params import params
from ptycho_backends.params.bridge import LEGACY_DEFAULTS
from ptycho_backends.protocol import Backend
from ptycho_backends.refinement.environment import refined_if_wanted
from ptycho_backends.registry import get_backend
from ptycho_backends.scans.scan import Scan
from ptycho_backends.training.plan import TrainingPlan, inference_groups, needs_truth
from ptycho_backends.values import EpochRecord, TrainedModel

log = logging.getLogger(__name__)

AnyPath = str | os.PathLike[str]
Outcome = tuple[NDArray[np.float32] | None, NDArray[np.float32] | None, dict[str, Any]]


def run_cdi_example(
    train_data: RawData,
    test_data: RawData | None,
    config: TrainingConfig,
    M: int = constants.DEFAULT_STITCHING_SIZE,
    *,
    backend: str | None = None,
    execution: ExecutionConfig | None = None,
) -> Outcome:
    """Train on one scan and reconstruct another.

    Parameters
    ----------
    train_data : RawData
    test_data : RawData, optional
        None: only train.
    config : TrainingConfig
        Completed as in `completed_for`; its paths are not used.
    M : int
        Side of the central square of each patch that is stitched, pixels.
    backend : str, optional
        Default: as `training_backend`.
    execution : ExecutionConfig, optional
        Default: no progress bar, since every epoch is logged.

    Returns
    -------
    amplitude, phase : (H, W) float32 arrays, [y, x], or None
        Of the test scan; phase in radians.
    results : dict
        As `train_cdi_model`; and with test data `reconstruction` (`Reconstruction`), `obj_tensor_full`
        (B, N, N, 1) and `global_offsets` (B, 1, 2, 1).

    Raises
    ------
    PtychoBackendsError
        For problems with the data or the settings; before anything is trained.
    """
    chosen = _backend(backend, config)
    plan, execution = _plan(train_data, config, chosen, execution)
    if test_data is not None:
        _require_reconstructable(test_data, plan)
    model, results = _train(plan, chosen, execution)
    if test_data is None:
        return None, None, results
    groups = inference_groups(model, test_data.scan)
    image = chosen.infer(model, groups, execution=execution, stitching_size=M)
    image = refined_if_wanted(image, test_data.scan, functools.partial(chosen.refine, execution=execution))
    results |= {
        "reconstruction": image,
        "obj_tensor_full": image.object_patches,
        "global_offsets": groups.group_centres_px,
    }
    return np.abs(image.object), np.angle(image.object), results


def train_cdi_model(
    train_data: RawData,
    test_data: RawData | None,
    config: TrainingConfig,
    *,
    backend: str | None = None,
    execution: ExecutionConfig | None = None,
) -> dict[str, Any]:
    """Train on one scan; parameters as in `run_cdi_example`.

    Parameters
    ----------
    test_data
        Not used: the groups that judge are split off the training scan.

    Returns
    -------
    dict
        `backend` (name), `history` (`loss` and `val_loss`, a number an epoch), `model`
        (`TrainedModel`), `model_instance` (with the legacy `predict`), `intensity_scale`.
    """
    chosen = _backend(backend, config)
    plan, execution = _plan(train_data, config, chosen, execution)
    return _train(plan, chosen, execution)[1]


def completed_for(config: TrainingConfig, raw: RawData) -> TrainingConfig:
    """A complete copy of `config` for `raw`: `filled_in`, and `N` that of the patterns.

    Raises
    ------
    ConfigError, ScanError
        As `filled_in`; or the patterns have another size than `config` names.
    """
    return with_side(filled_in(config, raw), raw.scan.N)


def filled_in(config: TrainingConfig, raw: RawData) -> TrainingConfig:
    """A validated copy of `config`, with the settings that the legacy interface lacks filled in for `raw`.

    `n_groups`, `neighbor_count` and `n_probe_modes`, where they equal their defaults and so were not chosen, become
    as many groups as there are positions, enough neighbours to form a group, and the number of modes that `raw`
    has. `nphotons` is PtychoPINN's 1e9 where it is None. `N=0` is left to the plan.

    Raises
    ------
    ConfigError
        If a field is invalid, or positions are to be left out of account.
    ScanError
        If the loss compares with a known object, and that of the scan is constant.
    """
    completed, problems = from_values(TrainingConfig, copy.deepcopy(vars(config)))
    raise_if_any("TrainingConfig", problems)
    if not completed.positions_provided:
        raise ConfigError(
            "positions_provided: got False, want True; a scan always has positions, and they count"
        )
    if completed.nphotons is None:
        completed.nphotons = LEGACY_DEFAULTS["nphotons"]
    if completed.n_groups in (None, LEGACY_DEFAULTS["n_groups"]):
        positions = len(raw)
        kept = positions if completed.n_subsample is None else min(completed.n_subsample, positions)
        completed.n_groups = kept
    if completed.neighbor_count == DEFAULTS["neighbor_count"]:
        completed.neighbor_count = max(completed.neighbor_count, completed.model.group_size)
    if completed.model.n_probe_modes == 1 and raw.scan.probe_modes is not None:
        completed.model.n_probe_modes = len(raw.scan.probe_modes)
    known = raw.scan.object_guess
    if needs_truth(completed) and known is not None and np.all(known == known.flat[0]):
        raise ScanError(
            f"{raw.scan.name}: objectGuess is {known.flat[0]:g} everywhere, as where no object is known, but "
            "supervised training and the real-space error learn from it; reconstruct one first by other means"
        )
    return completed


def load_data(
    file_path: AnyPath,
    n_images: int | None = None,
    n_subsample: int | None = None,
    subsample_seed: int | None = None,
    *,
    measurement: str = "auto",
) -> RawData:
    """Read a scan, or a part of it.

    Parameters
    ----------
    file_path : path
    n_images : int, optional
        Keep the first so many positions.
    n_subsample : int, optional
        Of those keep so many, drawn at random, in the scan's order.
    subsample_seed : int, optional
        Default 0.
    measurement : {'auto', 'amplitude', 'intensity'}

    Raises
    ------
    ScanError, ShapeError
        As `load_scan`; or fewer than one position is asked for.
    """
    for name, count in (("n_images", n_images), ("n_subsample", n_subsample)):
        if count is not None and count < 1:
            raise ScanError(f"{name}: got {count}, want at least 1 position")
    raw = RawData.from_file(file_path, measurement=measurement)
    kept = np.arange(len(raw))[:n_images]
    if n_subsample is not None and n_subsample < len(kept):
        generator = np.random.default_rng(subsample_seed or 0)
        kept = np.sort(generator.choice(kept, n_subsample, replace=False))
    if len(kept) < len(raw):
        raw.scan = _part_of(raw.scan, kept)
    return raw


def load_inference_bundle(
    bundle_dir: AnyPath, *, backend: str | None = None
) -> tuple[model_manager.InferenceModel, TrainingConfig]:
    """The model in a folder, and the configuration it was trained with; `params.cfg` is filled from it.

    Parameters
    ----------
    bundle_dir : path
        Holds `wts.h5.zip`, or the unpacked content of one; the file itself will do as well.
    backend : str, optional
        Computes the predictions. Default: `PTYCHO_BACKEND`, else the maker of the model.

    Returns
    -------
    model : InferenceModel
        Its `predict([X * params.get('intensity_scale'), local_offsets])` gives the object patches.
    config : TrainingConfig

    Raises
    ------
    ArchiveError
        If there is no model, or it is damaged.
    BackendUnavailableError
        If the framework that `PTYCHO_BACKEND` names is not installed.
    """
    model = model_manager.load_inference_model(bundle_dir, backend)
    return model, model.trained.config


def save_outputs(
    amplitude: NDArray | None, phase: NDArray | None, results: dict[str, Any], output_prefix: AnyPath
) -> None:
    """Write the results of `run_cdi_example`.

    Parameters
    ----------
    amplitude, phase : (H, W) real arrays or None
        Written as `reconstruction.npy`, complex64 `[y, x]`. Not as NPZ, because Ptychodus takes every
        NPZ file in the folder for a scan.
    results : dict
        Its `reconstruction` is drawn as `reconstruction.png`, the history of its `model` written as
        `history.csv` and `history.png`.
    output_prefix : path
        The folder.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    folder = output_directory(output_prefix)
    if amplitude is not None and phase is not None:
        image = (np.asarray(amplitude) * np.exp(1j * np.asarray(phase))).astype(np.complex64)
        with replaced_atomically(folder / "reconstruction.npy") as stream:
            np.save(stream, np.squeeze(image))
    if results.get("reconstruction") is not None:
        save_reconstruction_figure(results["reconstruction"], folder / "reconstruction.png")
    model = results.get("model")
    if model is not None and model.history:
        files.save_history(model.history, folder / "history.csv")
        save_history_figure(model.history, folder / "history.png")


def _backend(name: str | None, config: TrainingConfig) -> Backend:
    return training_backend(config) if name is None else get_backend(name)


def _plan(
    raw: RawData, config: TrainingConfig, backend: Backend, execution: ExecutionConfig | None
) -> tuple[TrainingPlan, ExecutionConfig]:
    execution = ExecutionConfig(enable_progress_bar=False) if execution is None else execution
    settings = filled_in(config, raw)
    scan = raw.labelled_scan if needs_truth(settings) else raw.scan
    return plan_for(backend, scan, settings, execution), execution


def _train(
    plan: TrainingPlan, backend: Backend, execution: ExecutionConfig
) -> tuple[TrainedModel, dict[str, Any]]:
    config = plan.config
    log.info(
        "training on %s with %s: %d groups, %d epochs; nphotons %g",
        plan.scan, backend.name, config.n_groups, config.nepochs, config.nphotons,
    )  # fmt: skip

    def log_epoch(record: EpochRecord) -> None:
        validation = "" if record.val_loss is None else f", val_loss {record.val_loss:.6g}"
        log.info("epoch %d/%d: loss %.6g%s", record.epoch, config.nepochs, record.train_loss, validation)

    model = backend.train(plan, config, execution=execution, on_epoch=log_epoch)
    params.cfg["intensity_scale"] = model.intensity_scale
    params.cfg["probe"] = np.array(model.probe)[..., np.newaxis]
    model_manager.remember(model)
    history = {
        "loss": [record.train_loss for record in model.history],
        "val_loss": [record.val_loss for record in model.history],
    }
    return model, {
        "backend": backend.name,
        "history": history,
        "model": model,
        "model_instance": model_manager.InferenceModel(model, backend),
        "intensity_scale": model.intensity_scale,
    }


def _require_reconstructable(raw: RawData, plan: TrainingPlan) -> None:
    """Raise now the errors that inference would raise after the training."""
    if raw.scan.N != plan.config.model.N:
        raise ScanError(
            f"test data: got patterns of {raw.scan.N} pixels, want {plan.config.model.N} as in training"
        )
    _ = inference_groups(plan.start, raw.scan).normalisation


def _part_of(scan: Scan, kept: NDArray[np.integer]) -> Scan:
    names = ("xcoords", "ycoords", "xcoords_start", "ycoords_start", "patterns", "scan_index")
    return dataclasses.replace(scan, **{name: getattr(scan, name)[kept] for name in names})
