"""The verbs that make images: `infer` and `refine`."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ptycho_backends.config import ExecutionConfig, InferenceConfig, RefinementConfig
from ptycho_backends.config_file import save_config
from ptycho_backends.errors import ConfigError, ScanError
from ptycho_backends.files.output import output_directory
from ptycho_backends.images import results
from ptycho_backends.images.agreement import pattern_agreement
from ptycho_backends.images.curves import save_passes_figure, save_ring_correlation_figure
from ptycho_backends.images.figures import save_reconstruction_figure
from ptycho_backends.images.frc import RingCorrelation, half_scans, ring_correlation_of_halves
from ptycho_backends.images.metrics import Alignment, Metrics, align, measure
from ptycho_backends.images.page import Contents
from ptycho_backends.images.report import metrics_report, report_line
from ptycho_backends.protocol import Backend
from ptycho_backends.refinement.start import Start, starting_image
from ptycho_backends.scans.extent import require_sane_canvas
from ptycho_backends.scans.product import save_product
from ptycho_backends.scans.product_scan import product_from_reconstruction
from ptycho_backends.scans.scan import Scan
from ptycho_backends.training.canvas import works_on_scans
from ptycho_backends.training.interrupts import Terminated
from ptycho_backends.training.launch import is_first_process
from ptycho_backends.training.plan import inference_groups
from ptycho_backends.training.rescue import carried, saved_somewhere
from ptycho_backends.training.run_folder import FILES, IMAGE_FILES, one_writer, remove_earlier, require_free
from ptycho_backends.values import PassCallback, Reconstruction, TrainedModel
from ptycho_backends.workflows.arguments import (
    AUTOMATIC,
    AnyPath,
    absolute_path,
    chosen_backend,
    is_within,
    loaded_scan,
    require_light,
    require_product,
)
from ptycho_backends.workflows.result import RunResult, result_or_signal, write_report

log = logging.getLogger(__name__)


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
    scan = loaded_scan(scan)
    chosen = chosen_backend(backend, config)
    trained = model if isinstance(model, TrainedModel) else chosen.load(model)
    config = _inference_config(trained, config)
    config.backend = chosen.name
    if agree_on_phase is not None:
        config.agree_on_phase = agree_on_phase
    if not isinstance(model, TrainedModel):
        config.model_path = Path(model)
    groups = inference_groups(trained, scan, config)
    require_light(groups)
    if stitching_size is not None and (not 0 < stitching_size <= scan.N or stitching_size % 2):
        raise ConfigError(f"stitching_size: got {stitching_size}, want an even number in 2 .. {scan.N}")
    require_product(product, scan)
    product = absolute_path(product)
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
        return result_or_signal(
            RunResult(chosen.name, folder, files, trained, reconstruction, metrics, report), ended
        )


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
    scan = loaded_scan(scan)
    chosen = chosen_backend(backend, None)
    config = AUTOMATIC if config is None else config
    require_sane_canvas(scan.scan_positions_px, scan.N, scan.name)
    require_product(product, scan)
    image = starting_image(start)
    trained = model if model is None or isinstance(model, TrainedModel) else chosen.load(model)
    product = absolute_path(product)
    resumes_here = resume_from is not None and is_within(resume_from, output_dir)
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
        return result_or_signal(
            RunResult(chosen.name, folder, files, trained, reconstruction, metrics, report), ended
        )


def _refined(refine: Callable[[], Reconstruction]) -> tuple[Reconstruction, Terminated | None]:
    """The image so far, and the signal that ended its refinement."""
    try:
        return refine(), None
    except Terminated as ended:
        if not isinstance(carried(ended), Reconstruction):
            raise
        return carried(ended), ended


def _with_model(model: TrainedModel | None) -> dict[str, TrainedModel]:
    """The argument `model` of `Backend.refine`, where there is one: a backend may be older than it."""
    return {} if model is None else {"model": model}


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
    write_report(folder, files, contents)
    return metrics, report_line(metrics, agreement, resolution)


def _resolution(
    backend: Backend, scan: Scan, config: RefinementConfig, execution: ExecutionConfig
) -> RingCorrelation:
    """Fourier ring correlation of two images, each refined from half of the scan's positions."""
    execution = dataclasses.replace(execution, enable_progress_bar=False)
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
