"""The commands that train: `demo`, `train` and `run`."""

from pathlib import Path
from typing import Annotated

import typer

from ptycho_backends.cli.options import (
    Accelerator,
    AgreeOnPhase,
    Architecture,
    BackendName,
    BatchSize,
    Check,
    ConfigFile,
    Debug,
    Epochs,
    ExecutionFile,
    Filters,
    Gridsize,
    Groups,
    LearningRate,
    OptionalScanFiles,
    Output,
    Overwrite,
    Photons,
    PictureEvery,
    Precision,
    ProbeFrom,
    ProbeModes,
    ProbeTrainable,
    ProductFile,
    Quiet,
    Refine,
    RefinePositions,
    RefineProbe,
    Resume,
    ScanFiles,
    Seed,
    StitchingSize,
    Synthetic,
    Verbose,
    option,
)
from ptycho_backends.cli.reading import READ_AS_IT_IS, Reading, reads_scans
from ptycho_backends.cli.reporting import again, report, session, until_signal
from ptycho_backends.errors import ConfigError


def demo(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.", metavar="DIR")] = (
        Path("ptycho_demo")
    ),
    backend: BackendName = None,
    positions: Annotated[
        int | None, option("--positions", min=20, help="Positions of the simulated scan.")
    ] = None,
    epochs: Annotated[int | None, option("--epochs", "-e", min=1, help="Passes over the scan.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the noise and of the weights.")] = 0,
    refine: Refine = None,
    accelerator: Accelerator = None,
    overwrite: Overwrite = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Simulate a scan of a Siemens star, train on it, reconstruct and refine its image. Needs no data; a minute.

    Example: ptycho-backends demo -o ptycho_demo
    """
    with session(verbose, quiet, debug) as say:
        from ptycho_backends import workflows
        from ptycho_backends.cli.settings import execution_config, refinement_config
        from ptycho_backends.recipes import DEFAULT_ARCHITECTURE
        from ptycho_backends.registry import get_backend

        refinement = refinement_config(refine, "auto")
        chosen = get_backend(backend)
        positions = workflows.DEMO_POSITIONS if positions is None else positions
        epochs = workflows.DEMO_EPOCHS if epochs is None else epochs
        execution = execution_config(None, quiet, DEFAULT_ARCHITECTURE, accelerator=accelerator)
        say(
            f"simulating {positions} positions on a Siemens star, {workflows.DEMO_PHOTONS:g} photons each;"
            f" training {epochs} epochs on {chosen.name}",
        )
        result = until_signal(
            workflows.demo,
            output,
            backend=chosen,
            positions=positions,
            epochs=epochs,
            seed=seed,
            execution=execution,
            refine=refinement,
            overwrite=overwrite,
        )
        report(
            result, say, again=again(context, "run", result.files["scan"], backend=chosen.name, resume=output)
        )


@reads_scans
def train(
    context: typer.Context,
    scans: OptionalScanFiles = None,
    output: Output = None,
    backend: BackendName = None,
    config: ConfigFile = None,
    execution: ExecutionFile = None,
    reading: Reading = READ_AS_IT_IS,
    architecture: Architecture = None,
    gridsize: Gridsize = None,
    filters: Filters = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    nphotons: Photons = None,
    n_groups: Groups = None,
    seed: Seed = None,
    probe_trainable: ProbeTrainable = None,
    learning_rate: LearningRate = None,
    synthetic: Synthetic = None,
    probe_from: ProbeFrom = None,
    resume: Resume = None,
    overwrite: Overwrite = False,
    check: Check = True,
    accelerator: Accelerator = None,
    precision: Precision = None,
    picture_every: PictureEvery = None,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a model on one scan, or on several together; Ctrl-C ends training and keeps the model so far.

    Example: ptycho-backends train scan.npz -o run --gridsize 2 --epochs 60

    Afterwards: ptycho-backends infer run other.npz -o out
    """
    with session(verbose, quiet, debug) as say:
        from ptycho_backends import workflows
        from ptycho_backends.cli.settings import (
            execution_config,
            execution_file,
            given_size,
            output_or_resumed,
            scan_of,
            scans_of,
            synthetic_settings,
            synthetic_source,
            training_job,
            training_plan,
        )

        if synthetic is not None or probe_from is not None:
            source = synthetic_source(
                scans, synthetic, probe_from,
                config=config, n_groups=n_groups, probe_trainable=probe_trainable,
                batch_size=batch_size if batch_size == "auto" else None,
            )  # fmt: skip
            settings = synthetic_settings(
                backend,
                model={"architecture": architecture, "gridsize": gridsize, "n_filters_scale": filters},
                training={
                    "nepochs": epochs, "batch_size": given_size(batch_size), "seed": seed,
                    "output_dir": output_or_resumed(output, resume),
                },
            )  # fmt: skip
            how = execution_config(
                execution_file(execution, resume), quiet, settings.model.architecture, accelerator=accelerator,
                precision=precision, learning_rate=learning_rate, picture_every=picture_every,
            )  # fmt: skip
            result = until_signal(
                workflows.train_synthetic,
                scan_of(source, reading),
                synthetic or 0,
                settings,
                output_or_resumed(output, resume),
                backend=backend,
                execution=how,
                photons=nphotons,
                resume_from=resume,
                overwrite=overwrite,
            )
            report(result, say, again=again(context, backend=result.backend, resume=result.output_dir))
            return
        if not scans:
            raise ConfigError("SCAN: got none, want a scan to train on, or --synthetic and --probe-from")
        loaded = scans_of(scans, reading)
        job = training_job(
            loaded, scans[0], config, backend, resume, say,
            model={"architecture": architecture, "gridsize": gridsize, "n_filters_scale": filters},
            training={
                "nepochs": epochs, "batch_size": given_size(batch_size), "nphotons": nphotons, "n_groups": n_groups,
                "seed": seed, "probe_trainable": probe_trainable, "output_dir": output,
            },
        )  # fmt: skip
        how = execution_config(
            execution_file(execution, resume),
            quiet,
            job.config.model.architecture,
            accelerator=accelerator,
            precision=precision,
            learning_rate=learning_rate,
            picture_every=picture_every,
        )
        result = until_signal(
            workflows.train,
            training_plan(job, batch_size, how, say),
            backend=job.backend,
            execution=how,
            overwrite=overwrite,
            check=check,
        )
        report(result, say, again=again(context, backend=result.backend, resume=result.output_dir))


@reads_scans
def run(
    context: typer.Context,
    scans: ScanFiles,
    output: Output = None,
    test_scan: Annotated[
        Path | None,
        option(
            "--test", help="Reconstruct this scan instead of the (first) one trained on.", metavar="SCAN.npz"
        ),
    ] = None,
    backend: BackendName = None,
    config: ConfigFile = None,
    execution: ExecutionFile = None,
    reading: Reading = READ_AS_IT_IS,
    stitching_size: StitchingSize = None,
    agree_on_phase: AgreeOnPhase = None,
    product: ProductFile = None,
    refine: Refine = None,
    refine_probe: RefineProbe = None,
    refine_positions: RefinePositions = False,
    probe_modes: ProbeModes = None,
    architecture: Architecture = None,
    gridsize: Gridsize = None,
    filters: Filters = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    nphotons: Photons = None,
    n_groups: Groups = None,
    seed: Seed = None,
    probe_trainable: ProbeTrainable = None,
    learning_rate: LearningRate = None,
    resume: Resume = None,
    overwrite: Overwrite = False,
    check: Check = True,
    accelerator: Accelerator = None,
    precision: Precision = None,
    picture_every: PictureEvery = None,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train on a scan, reconstruct it (or another) with the model, and refine the image.

    Of several scans, which are trained on together, the first is reconstructed.

    Example: ptycho-backends run scan.npz -o run --filters 1 --epochs 40
    """
    with session(verbose, quiet, debug) as say:
        from ptycho_backends import workflows
        from ptycho_backends.cli.settings import (
            execution_config,
            execution_file,
            given_size,
            refinement_config,
            scan_of,
            scans_of,
            training_job,
            training_plan,
        )

        refinement = refinement_config(
            refine,
            "auto",
            refine_probe=refine_probe,
            refine_positions=refine_positions,
            n_probe_modes=probe_modes,
        )
        loaded = scans_of(scans, reading)
        job = training_job(
            loaded, scans[0], config, backend, resume, say,
            model={"architecture": architecture, "gridsize": gridsize, "n_filters_scale": filters},
            training={
                "nepochs": epochs, "batch_size": given_size(batch_size), "nphotons": nphotons, "n_groups": n_groups,
                "seed": seed, "probe_trainable": probe_trainable, "output_dir": output,
                "test_data_file": test_scan,
            },
        )  # fmt: skip
        how = execution_config(
            execution_file(execution, resume),
            quiet,
            job.config.model.architecture,
            accelerator=accelerator,
            precision=precision,
            learning_rate=learning_rate,
            picture_every=picture_every,
        )
        test = job.config.test_data_file
        shown = loaded[0] if test is None else scan_of(test, reading)
        result = until_signal(
            workflows.run,
            training_plan(job, batch_size, how, say),
            test_scan=shown,
            backend=job.backend,
            execution=how,
            stitching_size=stitching_size,
            agree_on_phase=agree_on_phase,
            product=product,
            refine=refinement,
            overwrite=overwrite,
            check=check,
        )
        report(result, say, again=again(context, backend=result.backend, resume=result.output_dir))
