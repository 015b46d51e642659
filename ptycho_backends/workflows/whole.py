"""The verbs of a whole day: `run`, `demo` and `simulate`."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig, RefinementConfig, TrainingConfig
from ptycho_backends.errors import ScanError
from ptycho_backends.files.output import output_directory
from ptycho_backends.protocol import Backend
from ptycho_backends.recipes import training_recipe
from ptycho_backends.scans.extent import require_sane_canvas
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_files import export_training_data, save_scan
from ptycho_backends.scans.simulate import focused_probe, siemens_star, simulate_star, simulate_target
from ptycho_backends.scans.synthetic_object import STRUCTURES, synthetic_object
from ptycho_backends.training.interrupts import Terminated
from ptycho_backends.training.plan import TrainingPlan
from ptycho_backends.training.run_folder import FILES, IMAGE_FILES, TRAINING_FILES, require_free
from ptycho_backends.values import EpochCallback, PassCallback, TrainedModel
from ptycho_backends.workflows.arguments import (
    AUTOMATIC,
    AnyPath,
    absolute_path,
    chosen_backend,
    loaded_scan,
    require_product,
)
from ptycho_backends.workflows.images import infer
from ptycho_backends.workflows.result import RunResult
from ptycho_backends.workflows.training import train

# Objects of simulated scans.
OBJECT_KINDS = ("star", *STRUCTURES)


# The demonstration: long enough to see every spoke, short enough to wait for.
DEMO_N = 64


DEMO_POSITIONS = 200


DEMO_EPOCHS = 12


# small batches: with so few patterns, it is the number of steps that counts
DEMO_BATCH = 4


DEMO_PHOTONS = 1e5


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
    data = scan if isinstance(scan, TrainingPlan) else loaded_scan(scan)
    if isinstance(data, TrainingPlan):
        trained_on, settings = data.scan, data.config
    else:
        config = training_recipe() if config is None else config
        trained_on, settings = data, config
    test = test_scan if test_scan is not None else settings.test_data_file
    # loaded before training, so that a mistake in its name costs no hours
    shown = trained_on if test is None else loaded_scan(test)
    if shown.N != trained_on.N:
        raise ScanError(
            f"{shown.name}: got patterns of {shown.N} pixels, want {trained_on.N} as in {trained_on.name}"
        )
    require_sane_canvas(shown.scan_positions_px, shown.N, shown.name)
    require_product(product, shown)
    product = absolute_path(product)
    chosen = chosen_backend(backend, settings)
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
    return dataclasses.replace(inferred, files={**trained.files, **inferred.files}, trained=True)


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
    chosen = chosen_backend(backend, None)
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
