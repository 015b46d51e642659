"""The verbs of a working day: simulate, train, infer, run, demo; on top of the `Backend` protocol.

Each checks its input first, then that its folder can be written to, then works; a file appears whole or
not at all. `FILES` lists the files of a run. A training is planned once, and the backend trains that plan.
"""

import contextlib
import copy
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.backend_base import plan_for
from ptycho_backends.checking import require_sound
from ptycho_backends.config import (
    ExecutionConfig,
    InferenceConfig,
    RefinementConfig,
    TrainingConfig,
)
from ptycho_backends.config_file import save_config
from ptycho_backends.errors import ConfigError, ScanError
from ptycho_backends.files.output import output_directory
from ptycho_backends.images import results
from ptycho_backends.images.agreement import pattern_agreement
from ptycho_backends.images.curves import (
    save_history_figure,
    save_passes_figure,
    save_ring_correlation_figure,
)
from ptycho_backends.images.figures import save_reconstruction_figure
from ptycho_backends.images.frc import RingCorrelation, half_scans, ring_correlation_of_halves
from ptycho_backends.images.metrics import Alignment, Metrics, align, measure
from ptycho_backends.images.page import Contents, save_report
from ptycho_backends.images.report import metrics_report, report_line
from ptycho_backends.protocol import Backend
from ptycho_backends.recipes import execution_recipe, synthetic_recipe, training_recipe
from ptycho_backends.refinement.start import Start, starting_image
from ptycho_backends.registry import get_backend
from ptycho_backends.scans.extent import require_sane_canvas
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.scans.product import save_product
from ptycho_backends.scans.product_scan import product_from_reconstruction, product_from_scan
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_files import export_training_data, load_scan, save_scan
from ptycho_backends.scans.simulate import focused_probe, siemens_star, simulate_star, simulate_target
from ptycho_backends.scans.statistics import holds_counts as holds_counts
from ptycho_backends.scans.statistics import mean_photons as mean_photons
from ptycho_backends.scans.synthetic import Range, SyntheticScans
from ptycho_backends.scans.synthetic_object import STRUCTURES, synthetic_object
from ptycho_backends.training.canvas import works_on_scans
from ptycho_backends.training.checkpoints import model_to_resume
from ptycho_backends.training.interrupts import Terminated
from ptycho_backends.training.launch import is_first_process
from ptycho_backends.training.plan import TrainingPlan, inference_groups
from ptycho_backends.training.rescue import carried, carry, saved_somewhere, without_failure
from ptycho_backends.training.run_folder import (
    FILES,
    IMAGE_FILES,
    TRAINING_FILES,
    continues_run,
    one_writer,
    remove_earlier,
    require_free,
)
from ptycho_backends.training.run_folder import resumable_file as resumable_file
from ptycho_backends.training.synthetic_canvases import CanvasGroups, SyntheticCanvases
from ptycho_backends.values import EpochCallback, EpochRecord, PassCallback, Reconstruction, TrainedModel

log = logging.getLogger(__name__)

AnyPath = str | os.PathLike[str]

AUTOMATIC = RefinementConfig()
"""Refinement that settles everything by itself."""

# Objects of simulated scans.
OBJECT_KINDS = ("star", *STRUCTURES)

# The demonstration: long enough to see every spoke, short enough to wait for.
DEMO_N = 64
DEMO_POSITIONS = 200
DEMO_EPOCHS = 12
# small batches: with so few patterns, it is the number of steps that counts
DEMO_BATCH = 4
DEMO_PHOTONS = 1e5


# Of each synthetic scan: enough for a canvas of several times the side of a pattern.
SYNTHETIC_PATTERNS = 220


@dataclass(frozen=True, eq=False)
class RunResult:
    """Result of a verb: values, and the files that hold them.

    Attributes
    ----------
    backend : str
        Name of the backend that computed.
    output_dir : Path
    files : mapping of str to Path
        Files written, under the names of `FILES`; none by a process that is not the first of several.
    model : TrainedModel, optional
        None where an image was refined without one.
    reconstruction : Reconstruction, optional
    metrics : Metrics, optional
        None where nothing was reconstructed or written, or the object is not known.
    report : str
        The figures that matter, a line for each kind; empty where there are none.
    signal : int, optional
        That ended the work, other than Ctrl-C; the program is to end with 128 + signal.
    """

    backend: str
    output_dir: Path
    files: Mapping[str, Path]
    model: TrainedModel | None
    reconstruction: Reconstruction | None = None
    metrics: Metrics | None = None
    report: str = ""
    signal: int | None = None

    @property
    def interrupted(self) -> bool:
        """True where Ctrl-C ended training early; `train(resume_from=output_dir)` goes on."""
        stopped = (self.model, self.reconstruction)
        return any(result is not None and result.interrupted for result in stopped)

    def as_dict(self) -> dict[str, Any]:
        """Plain values: backend, interrupted, files, metrics."""
        return {
            "backend": self.backend,
            "interrupted": self.interrupted,
            "files": {name: str(path) for name, path in self.files.items()},
            "metrics": None if self.metrics is None else self.metrics.as_dict(),
        }


def simulate(
    path: AnyPath,
    object_kind: str = "star",
    *,
    N: int = 64,
    probe: NDArray | None = None,
    seed: int = 0,
    compressed: bool = True,
    experiment: Mapping[str, float | None] | None = None,
    **options: Any,
) -> Path:
    """Simulate a scan, its object and probe known, and write it.

    Parameters
    ----------
    path : path
        Its suffix names the format, one of `scan_files.EXPORTERS`.
    object_kind : {'star', 'leaves', 'texture', 'lines', 'mixed'}
        A Siemens star, or a kind of `synthetic_object`.
    N : int
        Side of a pattern, pixels; that of `probe` counts if it is given.
    probe : (N, N) or (modes, N, N) complex array, [y, x], optional
        Default: `simulate.focused_probe(N)`.
    seed : int
        Of a synthetic object, of the noise and the positions.
    compressed : bool
        False makes a larger file, whose patterns can be mapped.
    experiment : mapping, optional
        `pixel_size_m`, `photon_energy_eV` and `detector_distance_m` of the scan, which formats with lengths need.
    **options
        Of `simulate.simulate_target`.

    Returns
    -------
    Path

    Raises
    ------
    ScanError, ShapeError, OutputError
    """
    if object_kind not in OBJECT_KINDS:
        raise ScanError(f"object_kind: got {object_kind!r}, want one of {', '.join(OBJECT_KINDS)}")

    def synthetic(size: int) -> NDArray[np.complex64]:
        # a stream of its own, apart from that of the noise
        generator = np.random.default_rng([seed, 1])
        return synthetic_object((size, size), generator, object_kind)  # type: ignore[arg-type]

    probe = focused_probe(N) if probe is None else probe
    scan = simulate_target(
        siemens_star if object_kind == "star" else synthetic,
        probe,
        seed=seed,
        name=f"simulated_{object_kind}_{np.shape(probe)[-1]}",
        **options,
    )
    known: dict[str, Any] = dict(experiment or {})
    scan = dataclasses.replace(scan, **known)
    return export_training_data(scan, path, compressed=compressed)


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
    data = scan if isinstance(scan, TrainingPlan) else _loaded_scan(scan)
    if config is None and not isinstance(data, TrainingPlan):
        config = training_recipe()
    chosen = _chosen_backend(backend, data.config if isinstance(data, TrainingPlan) else config)
    if execution is None:
        settings = data.config if isinstance(data, TrainingPlan) else config
        assert settings is not None
        execution = execution_recipe(settings.model.architecture)
    if config is not None and not isinstance(data, TrainingPlan):
        config = _with_folder(config, output_dir)
    if check:
        _require_sound(data)
    plan = plan_for(chosen, data, config, execution, _resumed_model(resume_from, chosen))
    _require_light(plan.groups)
    named = Path(plan.config.output_dir if output_dir is None else output_dir)
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
            return RunResult(chosen.name, folder, files, model)
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
        _write_report(folder, files, Contents(title, backend.name, model))
    except Exception as error:
        carry(error, model)
        if ended_by is None:
            raise
        log.error("%s", error)
        ended_by.add_note(str(error))
    return RunResult(backend.name, folder, files, model)


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
    scan = _loaded_scan(probe_from)
    config = synthetic_recipe() if config is None else config
    chosen = _chosen_backend(backend, config)
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
    return backend.refine(None, scan, RefinementConfig(refine_probe=False), execution=execution)


def infer(
    model: TrainedModel | AnyPath,
    scan: Scan | AnyPath,
    output_dir: AnyPath | None = None,
    *,
    backend: str | Backend | None = None,
    config: InferenceConfig | None = None,
    execution: ExecutionConfig | None = None,
    stitching_size: int | None = None,
    product: AnyPath | None = None,
    refine: RefinementConfig | None = None,
    on_pass: PassCallback | None = None,
    agree_on_phase: bool | None = None,
    overwrite: bool = True,
) -> RunResult:
    """Reconstruct a scan with a trained model and write the image, a picture, and how good it is.

    Parameters
    ----------
    model : TrainedModel or path
        Of any backend; a folder means the archive in it.
    scan : Scan or path
    output_dir : path, optional
        Default: `config.output_dir`.
    backend : str or Backend, optional
        Default: the environment's choice, or the first one installed, whichever made the model.
    config : InferenceConfig, optional
        Number and kind of the groups; its `model` is replaced by the trained one. Default: all positions.
    execution : ExecutionConfig, optional
    stitching_size : int, optional
        Side of the central square of each patch that is used, pixels. Default: as the architecture wants, 20 for 'cnn'
        and 'attention'.
    product : path, optional
        Write the image as a Ptychodus product (HDF5), too. The scan must have `pixel_size_m`,
        `photon_energy_eV` and `detector_distance_m`.
    refine : RefinementConfig, optional
        Refine the network's image, which is kept as `network.npz`. Default: not.
    on_pass : callable, optional
        Called with each `RefinementRecord`.
    agree_on_phase : bool, optional
        Bring all patches to one constant phase before they are averaged. Default: as `config` says.
    overwrite : bool
        Replace an earlier image in the folder; False refuses the folder.

    Returns
    -------
    RunResult
        With metrics if the scan knows its object.

    Raises
    ------
    PtychoBackendsError
        For bad input and for a folder that cannot be written to: before anything is written.
    """
    scan = _loaded_scan(scan)
    chosen = _chosen_backend(backend, config)
    trained = model if isinstance(model, TrainedModel) else chosen.load(model)
    config = _inference_config(trained, config)
    config.backend = chosen.name
    if agree_on_phase is not None:
        config.agree_on_phase = agree_on_phase
    if not isinstance(model, TrainedModel):
        config.model_path = Path(model)
    groups = inference_groups(trained, scan, config)
    _require_light(groups)
    if stitching_size is not None and (not 0 < stitching_size <= scan.N or stitching_size % 2):
        raise ConfigError(f"stitching_size: got {stitching_size}, want an even number in 2 .. {scan.N}")
    _require_product(product, scan)
    product = _absolute(product)
    named = Path(config.output_dir if output_dir is None else output_dir)
    if not overwrite:
        require_free(named, IMAGE_FILES, "an earlier image")
    folder = output_directory(named)
    config = dataclasses.replace(config, output_dir=named)

    files: dict[str, Path] = {}
    execution = ExecutionConfig() if execution is None else execution
    writes = is_first_process(execution, chosen.name)
    with one_writer(folder if writes else None):
        if writes:
            remove_earlier(folder, IMAGE_FILES)
            files["inference_config"] = save_config(config, folder / FILES["inference_config"])
        # a backend may be older than the arguments
        asked = {"stitching_size": stitching_size, "agree_on_phase": config.agree_on_phase}
        added: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        # of a whole scan the backend makes the best image that the model can; what is refined afterwards is that of
        # groups
        of_groups = (config.n_groups, config.n_subsample, execution.inference_batch_size, refine)
        whole = works_on_scans(trained) and all(value is None for value in of_groups)
        reconstruction = chosen.infer(trained, scan if whole else groups, execution=execution, **added)
        ended = None
        if refine is not None:
            if writes:
                saved = results.save_reconstruction(reconstruction, folder / FILES["network_image"])
                files["network_image"] = saved
            reconstruction, ended = _refined(
                lambda: chosen.refine(
                    reconstruction,
                    scan,
                    refine,
                    execution=execution,
                    output_dir=folder,
                    on_pass=on_pass,
                    **_with_model(trained if works_on_scans(trained) else None),
                )
            )
        if not writes:
            return RunResult(chosen.name, folder, files, trained, reconstruction)
        if refine is not None:
            files["refinement_config"] = save_config(refine, folder / FILES["refinement_config"])
        metrics, report = _write_reconstruction(reconstruction, scan, folder, files, model=trained)
        if product is not None:
            result = product_from_reconstruction(reconstruction, scan, history=trained.history)
            files["product"] = save_product(result, product)
        return _ended(RunResult(chosen.name, folder, files, trained, reconstruction, metrics, report), ended)


def run(
    scan: Scan | AnyPath | TrainingPlan,
    config: TrainingConfig | None = None,
    output_dir: AnyPath | None = None,
    *,
    test_scan: Scan | AnyPath | None = None,
    backend: str | Backend | None = None,
    execution: ExecutionConfig | None = None,
    resume_from: AnyPath | TrainedModel | None = None,
    on_epoch: EpochCallback | None = None,
    stitching_size: int | None = None,
    product: AnyPath | None = None,
    refine: RefinementConfig | None = AUTOMATIC,
    on_pass: PassCallback | None = None,
    agree_on_phase: bool | None = None,
    overwrite: bool = True,
    check: bool = True,
) -> RunResult:
    """`train`, then `infer` the same scan (or `test_scan`) into the same folder.

    After Ctrl-C the image is reconstructed with the model so far.

    Parameters
    ----------
    test_scan : Scan or path, optional
        Default: `config.test_data_file`, or the scan that was trained on.
    refine : RefinementConfig, optional
        Refine the network's image. Default: with automatic settings; None leaves it as it is.
    scan, config, backend, execution and all others
        As in `train` and `infer`.
    """
    data = scan if isinstance(scan, TrainingPlan) else _loaded_scan(scan)
    if isinstance(data, TrainingPlan):
        trained_on, settings = data.scan, data.config
    else:
        config = training_recipe() if config is None else config
        trained_on, settings = data, config
    test = test_scan if test_scan is not None else settings.test_data_file
    # loaded before training, so that a mistake in its name costs no hours
    shown = trained_on if test is None else _loaded_scan(test)
    if shown.N != trained_on.N:
        raise ScanError(
            f"{shown.name}: got patterns of {shown.N} pixels, want {trained_on.N} as in {trained_on.name}"
        )
    require_sane_canvas(shown.scan_positions_px, shown.N, shown.name)
    _require_product(product, shown)
    product = _absolute(product)
    chosen = _chosen_backend(backend, settings)
    trained = train(
        data,
        config,
        output_dir,
        backend=chosen,
        execution=execution,
        resume_from=resume_from,
        on_epoch=on_epoch,
        overwrite=overwrite,
        check=check,
    )
    assert trained.model is not None
    inferred = infer(
        trained.model,
        shown,
        trained.output_dir,
        backend=chosen,
        execution=execution,
        stitching_size=stitching_size,
        product=product,
        refine=None if trained.interrupted and refine is AUTOMATIC else refine,
        on_pass=on_pass,
        agree_on_phase=agree_on_phase,
    )
    return dataclasses.replace(inferred, files={**trained.files, **inferred.files})


def refine(
    scan: Scan | AnyPath,
    output_dir: AnyPath,
    *,
    start: Start | None = None,
    backend: str | Backend | None = None,
    config: RefinementConfig | None = None,
    execution: ExecutionConfig | None = None,
    resume_from: AnyPath | None = None,
    on_pass: PassCallback | None = None,
    product: AnyPath | None = None,
    frc: bool = False,
    model: TrainedModel | AnyPath | None = None,
    overwrite: bool = True,
) -> RunResult:
    """Refine the image of a scan through the diffraction model and write it; needs no model and no training.

    Parameters
    ----------
    scan : Scan or path
    output_dir : path
    start : Reconstruction, (H, W) array or path, optional
        Image to start from; a folder means the `reconstruction.npz` in it. Default: a flat object.
    backend : str or Backend, optional
    config : RefinementConfig, optional
        Default: automatic settings.
    execution : ExecutionConfig, optional
    resume_from : path, optional
        A checkpoint, or the folder of an interrupted refinement.
    on_pass : callable, optional
        Called with each `RefinementRecord`.
    product : path, optional
        As in `infer`.
    frc : bool
        Refine two halves of the scan as well, and estimate the resolution by their Fourier ring correlation.
    model : TrainedModel or path, optional
        Of the architecture `unrolled`: its learned correction follows the last pass.
    overwrite : bool
        Replace an earlier image in the folder; False refuses the folder, unless it is the one that is resumed.

    Returns
    -------
    RunResult
        With that model; `interrupted` if Ctrl-C ended the refinement.

    Raises
    ------
    PtychoBackendsError
        For bad input and for a folder that cannot be written to: before anything is computed.
    """
    scan = _loaded_scan(scan)
    chosen = _chosen_backend(backend, None)
    config = AUTOMATIC if config is None else config
    require_sane_canvas(scan.scan_positions_px, scan.N, scan.name)
    _require_product(product, scan)
    image = starting_image(start)
    trained = model if model is None or isinstance(model, TrainedModel) else chosen.load(model)
    product = _absolute(product)
    resumes_here = resume_from is not None and _is_within(resume_from, output_dir)
    if not overwrite and not resumes_here:
        require_free(output_dir, IMAGE_FILES, "an earlier image")
    folder = output_directory(output_dir)
    execution = ExecutionConfig() if execution is None else execution
    writes = is_first_process(execution, chosen.name)
    with one_writer(folder if writes else None):
        if writes and not resumes_here:
            remove_earlier(folder, IMAGE_FILES)
        reconstruction, ended = _refined(
            lambda: chosen.refine(
                image,
                scan,
                config,
                execution=execution,
                output_dir=folder,
                resume_from=resume_from,
                on_pass=on_pass,
                **_with_model(trained),
            )
        )
        files: dict[str, Path] = {}
        if not writes:
            return RunResult(chosen.name, folder, files, trained, reconstruction)
        files["refinement_config"] = save_config(config, folder / FILES["refinement_config"])
        resolution = _resolution(chosen, scan, config, execution) if frc and ended is None else None
        metrics, report = _write_reconstruction(reconstruction, scan, folder, files, resolution, trained)
        if product is not None:
            files["product"] = save_product(product_from_reconstruction(reconstruction, scan), product)
        return _ended(RunResult(chosen.name, folder, files, trained, reconstruction, metrics, report), ended)


def _refined(refine: Callable[[], Reconstruction]) -> tuple[Reconstruction, Terminated | None]:
    """The image so far, and the signal that ended its refinement."""
    try:
        return refine(), None
    except Terminated as ended:
        if not isinstance(carried(ended), Reconstruction):
            raise
        return carried(ended), ended


def _ended(result: RunResult, ended: Terminated | None) -> RunResult:
    """`result`, written; or the signal that ended the work, with it."""
    if ended is None:
        return result
    ended.result = dataclasses.replace(result, signal=ended.signal)
    raise ended


def _with_model(model: TrainedModel | None) -> dict[str, TrainedModel]:
    """The argument `model` of `Backend.refine`, where there is one: a backend may be older than it."""
    return {} if model is None else {"model": model}


def demo(
    output_dir: AnyPath = "ptycho_demo",
    *,
    backend: str | Backend | None = None,
    positions: int = DEMO_POSITIONS,
    epochs: int = DEMO_EPOCHS,
    seed: int = 0,
    execution: ExecutionConfig | None = None,
    on_epoch: EpochCallback | None = None,
    refine: RefinementConfig | None = AUTOMATIC,
    on_pass: PassCallback | None = None,
    overwrite: bool = True,
) -> RunResult:
    """Simulate a scan of a Siemens star, train on it without labels, reconstruct it, refine the image, compare.

    Parameters
    ----------
    output_dir : path
    backend : str or Backend, optional
    positions, epochs : int
        More of either gives a better image and takes longer.
    seed : int
        Of the noise and of the weights.
    execution : ExecutionConfig, optional
    on_epoch, on_pass : callable, optional
    refine : RefinementConfig, optional
    overwrite : bool
        As in `run`.

    Returns
    -------
    RunResult
        `files['scan']` is the simulated scan.
    """
    chosen = _chosen_backend(backend, None)
    scan = simulate_star(DEMO_N, positions, n_photons=DEMO_PHOTONS, seed=seed)
    config = training_recipe()
    config.nepochs, config.batch_size, config.seed, config.backend = epochs, DEMO_BATCH, seed, chosen.name
    if not overwrite:
        require_free(output_dir, (*TRAINING_FILES, *IMAGE_FILES), "an earlier run")
    folder = output_directory(output_dir)
    path = save_scan(scan, folder / FILES["scan"])
    config.train_data_file = path
    try:
        result = run(
            scan,
            config,
            folder,
            backend=chosen,
            execution=execution,
            on_epoch=on_epoch,
            refine=refine,
            on_pass=on_pass,
        )
    except Terminated as ended:
        if ended.result is not None:
            ended.result = dataclasses.replace(ended.result, files={"scan": path, **ended.result.files})
        raise
    return dataclasses.replace(result, files={"scan": path, **result.files})


def _loaded_scan(scan: Scan | AnyPath) -> Scan:
    return scan if isinstance(scan, Scan) else load_scan(scan)


def _with_folder(config: TrainingConfig, output_dir: AnyPath | None) -> TrainingConfig:
    """`config` with the folder that results really go to; unchecked, as planning checks it."""
    if output_dir is None:
        return config
    copied = copy.copy(config)
    copied.output_dir = Path(output_dir)
    return copied


def _chosen_backend(
    backend: str | Backend | None, config: TrainingConfig | InferenceConfig | None
) -> Backend:
    return get_backend(backend, config=config) if backend is None or isinstance(backend, str) else backend


def _require_sound(data: Scan | TrainingPlan) -> None:
    """The quick checks of every scan that is trained on."""
    if isinstance(data, Scan):
        require_sound(data)
    elif not isinstance(data.groups, CanvasGroups):
        for scan in data.groups.parts or (data.scan,):
            require_sound(scan)


def _require_light(groups: GroupedData) -> None:
    """Raise `ScanError` if every pattern is empty: now, not when the first batch is asked for."""
    if isinstance(groups, CanvasGroups):
        return
    _ = groups.normalisation


def _absolute(path: AnyPath | None) -> Path | None:
    """`path` as it is to be understood whatever the working directory is later."""
    return None if path is None else Path(path).absolute()


def _is_within(path: AnyPath, folder: AnyPath) -> bool:
    """True for a folder itself and for the files in it."""
    here = Path(folder).resolve()
    return here in (Path(path).resolve(), Path(path).resolve().parent)


def _require_product(path: AnyPath | None, scan: Scan) -> None:
    """Raise the errors of writing a product: now, not after hours."""
    if path is not None:
        product_from_scan(scan)
        output_directory(Path(path).parent)


def _resumed_model(resume_from: AnyPath | TrainedModel | None, backend: Backend) -> TrainedModel | None:
    if resume_from is None or isinstance(resume_from, TrainedModel):
        return resume_from
    return model_to_resume(resumable_file(resume_from), backend.load)


def _inference_config(model: TrainedModel, config: InferenceConfig | None) -> InferenceConfig:
    """A copy of `config`, or one that forms a group around every position, with the trained model in it."""
    trained = model.config
    if config is None:
        config = InferenceConfig(neighbor_count=max(trained.neighbor_count, trained.model.group_size))
    return dataclasses.replace(config, model=dataclasses.replace(trained.model))


def _write_reconstruction(
    reconstruction: Reconstruction,
    scan: Scan,
    folder: Path,
    files: dict[str, Path],
    resolution: RingCorrelation | None = None,
    model: TrainedModel | None = None,
) -> tuple[Metrics | None, str]:
    """Image, metrics and pictures; the image first, because it cannot be made again quickly. The report's lines."""
    files["reconstruction"] = saved_somewhere(
        lambda path: results.save_reconstruction(reconstruction, path), folder / FILES["reconstruction"]
    )
    alignment = _alignment(reconstruction, scan)
    metrics = None if alignment is None else measure(alignment)
    agreement = pattern_agreement(reconstruction, scan) if reconstruction.passes else None
    target = folder / FILES["metrics"]
    if metrics is not None or agreement is not None:
        values = metrics_report(
            reconstruction, scan, metrics=metrics, agreement=agreement, resolution=resolution
        )
        files["metrics"] = results.save_json(values, target)
    else:
        # figures of an earlier run in this folder would be taken for this one's
        with contextlib.suppress(OSError):
            target.unlink()
    files["reconstruction_figure"] = save_reconstruction_figure(
        reconstruction, folder / FILES["reconstruction_figure"], scan, metrics, alignment, agreement
    )
    if reconstruction.passes:
        files["passes_figure"] = save_passes_figure(reconstruction.passes, folder / FILES["passes_figure"])
    if resolution is not None:
        files["resolution_figure"] = save_ring_correlation_figure(
            resolution, folder / FILES["resolution_figure"]
        )
    contents = Contents(
        scan.name,
        reconstruction.backend,
        model,
        reconstruction,
        scan,
        metrics,
        alignment,
        agreement,
        resolution,
    )
    _write_report(folder, files, contents)
    return metrics, report_line(metrics, agreement, resolution)


def _write_report(folder: Path, files: dict[str, Path], contents: Contents) -> None:
    """The page, with the settings that lie in the folder."""
    names = ("config", "inference_config", "refinement_config", "execution")
    settings = {FILES[name]: files[name].read_text() for name in names if name in files}
    files["report"] = save_report(dataclasses.replace(contents, settings=settings), folder / FILES["report"])


def _resolution(
    backend: Backend, scan: Scan, config: RefinementConfig, execution: ExecutionConfig
) -> RingCorrelation:
    """Fourier ring correlation of two images, each refined from half of the scan's positions."""
    halves = (
        backend.refine(None, half, config, execution=execution) for half in half_scans(scan, config.seed)
    )
    return ring_correlation_of_halves(*halves)


def _alignment(reconstruction: Reconstruction, scan: Scan) -> Alignment | None:
    """The reconstruction beside the object that the scan knows, if it knows enough of it."""
    if scan.object_guess is None:
        return None
    try:
        return align(reconstruction, scan)
    except ScanError as error:
        log.warning("no metrics: %s", error)
        return None
