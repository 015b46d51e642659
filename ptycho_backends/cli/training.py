"""The commands that train: `demo`, `train` and `run`; and `find_rate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptycho_backends.cli.groups import (
    Computing,
    ImageOptions,
    Messages,
    TrainedOptions,
    TrainingOptions,
    print_settings,
    takes_groups,
)
from ptycho_backends.cli.options import (
    Accelerator,
    BackendName,
    OptionalScanFiles,
    Output,
    Overwrite,
    ProbeFrom,
    ProductFile,
    Refine,
    ScanFiles,
    Synthetic,
    option,
)
from ptycho_backends.cli.reading import Reading
from ptycho_backends.cli.reporting import Say, again, report, until_signal
from ptycho_backends.errors import ConfigError

if TYPE_CHECKING:
    from ptycho_backends.config_sections import Settings


@takes_groups
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
    *,
    messages: Messages,
) -> None:
    """Simulate a scan of a Siemens star, train on it, reconstruct and refine its image. Needs no data; a minute.

    Example: ptycho-backends demo -o ptycho_demo
    """
    with messages.session() as say:
        from ptycho_backends import workflows
        from ptycho_backends.cli.settings import execution_config, refinement_config, with_progress
        from ptycho_backends.config_sections import Settings
        from ptycho_backends.recipes import DEFAULT_ARCHITECTURE
        from ptycho_backends.registry import get_backend

        refinement = refinement_config(Settings(), refine, "auto")
        chosen = get_backend(backend)
        positions = workflows.DEMO_POSITIONS if positions is None else positions
        epochs = workflows.DEMO_EPOCHS if epochs is None else epochs
        execution = execution_config(Settings(), None, DEFAULT_ARCHITECTURE, accelerator=accelerator)
        execution = with_progress(execution, messages.quiet)
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


@takes_groups
def train(
    context: typer.Context,
    scans: OptionalScanFiles = None,
    output: Output = None,
    *,
    computing: Computing,
    reading: Reading,
    options: TrainingOptions,
    synthetic: Synthetic = None,
    probe_from: ProbeFrom = None,
    messages: Messages,
) -> None:
    """Train a model on one scan, or on several together; Ctrl-C ends training and keeps the model so far.

    Example: ptycho-backends train scan.npz -o run --gridsize 2 --epochs 60

    Afterwards: ptycho-backends infer run other.npz -o out
    """
    with messages.session() as say:
        from ptycho_backends import workflows
        from ptycho_backends.cli.settings import (
            execution_of,
            scans_of,
            training_job,
            training_plan,
            with_progress,
        )

        settings = computing.settings("model", "training", "execution")
        if synthetic is not None or probe_from is not None:
            _train_synthetic(
                context,
                scans,
                synthetic,
                probe_from,
                output,
                settings,
                computing,
                reading,
                options,
                messages,
                say,
            )
            return
        if not scans and not computing.print_config:
            raise ConfigError("SCAN: got none, want a scan to train on, or --synthetic and --probe-from")
        loaded = [] if computing.print_config else scans_of(scans or (), reading)
        job = training_job(
            loaded, scans[0] if scans else None, settings, computing.backend, options.resume,
            model=options.model, training=options.training | {"output_dir": output},
        )  # fmt: skip
        how = execution_of(settings, computing, options, job.config)
        if computing.print_config:
            print_settings({"training": job.config, "execution": how})
            return
        how = with_progress(how, messages.quiet)
        result = until_signal(
            workflows.train,
            training_plan(job, options.batch_size, how, say),
            backend=job.backend,
            execution=how,
            overwrite=options.overwrite,
            check=options.check,
        )
        report(result, say, again=again(context, backend=result.backend, resume=result.output_dir))


def _train_synthetic(
    context: typer.Context,
    scans: list[Path] | None,
    synthetic: int | None,
    probe_from: Path | None,
    output: Path | None,
    settings: "Settings",
    computing: Computing,
    reading: Reading,
    options: TrainingOptions,
    messages: Messages,
    say: Say,
) -> None:
    """The command `train` with --synthetic."""
    from ptycho_backends import workflows
    from ptycho_backends.cli.settings import (
        execution_of,
        output_or_resumed,
        scan_of,
        synthetic_settings,
        synthetic_source,
        with_progress,
    )

    source = synthetic_source(
        scans, synthetic, probe_from,
        config=settings.flat_file, n_groups=options.n_groups, probe_trainable=options.probe_trainable,
        batch_size=options.batch_size if options.batch_size == "auto" else None,
    )  # fmt: skip
    folder = output_or_resumed(output, options.resume)
    # the dose of the synthetic scans, not of a configuration
    training = {**options.training, "nphotons": None, "output_dir": folder}
    config = synthetic_settings(settings, computing.backend, model=options.model, training=training)
    how = execution_of(settings, computing, options, config)
    if computing.print_config:
        print_settings({"training": config, "execution": how})
        return
    how = with_progress(how, messages.quiet)
    result = until_signal(
        workflows.train_synthetic,
        scan_of(source, reading),
        synthetic or 0,
        config,
        folder,
        backend=config.backend,
        execution=how,
        photons=options.nphotons,
        resume_from=options.resume,
        overwrite=options.overwrite,
    )
    report(result, say, again=again(context, backend=result.backend, resume=result.output_dir))


@takes_groups
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
    *,
    computing: Computing,
    reading: Reading,
    image: ImageOptions,
    product: ProductFile = None,
    options: TrainingOptions,
    messages: Messages,
) -> None:
    """Train on a scan, reconstruct it (or another) with the model, and refine the image.

    Of several scans, which are trained on together, the first is reconstructed.

    Example: ptycho-backends run scan.npz -o run --filters 1 --epochs 40
    """
    with messages.session() as say:
        from ptycho_backends import workflows
        from ptycho_backends.cli.settings import (
            execution_of,
            refinement_config,
            scan_of,
            scans_of,
            training_job,
            training_plan,
            with_progress,
        )

        settings = computing.settings("model", "training", "refinement", "execution")
        refinement = refinement_config(settings, image.refine, "auto", **image.refinement)
        loaded = [] if computing.print_config else scans_of(scans, reading)
        job = training_job(
            loaded, scans[0], settings, computing.backend, options.resume,
            model=options.model, training=options.training | {"output_dir": output, "test_data_file": test_scan},
        )  # fmt: skip
        how = execution_of(settings, computing, options, job.config)
        if computing.print_config:
            print_settings({"training": job.config, "refinement": refinement, "execution": how})
            return
        how = with_progress(how, messages.quiet)
        test = job.config.test_data_file
        shown = loaded[0] if test is None else scan_of(test, reading)
        result = until_signal(
            workflows.run,
            training_plan(job, options.batch_size, how, say),
            test_scan=shown,
            backend=job.backend,
            execution=how,
            stitching_size=image.stitching_size,
            agree_on_phase=image.agree_on_phase,
            product=product,
            refine=refinement,
            overwrite=options.overwrite,
            check=options.check,
        )
        going_on = again(
            context, backend=result.backend, resume=result.output_dir, with_config=bool(settings.file)
        )
        report(result, say, again=going_on)


@takes_groups
def find_rate(
    scans: ScanFiles,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for rates.csv and rates.png.", metavar="DIR")
    ] = Path("rates"),
    lowest: Annotated[
        float | None, option("--lowest", help="Learning rate of the first step. (1e-6)")
    ] = None,
    highest: Annotated[float | None, option("--highest", help="Learning rate of the last step. (1)")] = None,
    steps: Annotated[int | None, option("--steps", help="Steps of the sweep. (60)")] = None,
    *,
    computing: Computing,
    reading: Reading,
    options: TrainedOptions,
    resume: Annotated[
        Path | None,
        option(
            "--start", help="Model to start from: the folder of a run, or an archive. Default: a new one."
        ),
    ] = None,
    messages: Messages,
) -> None:
    """Find a learning rate: it grows from step to step, and where the loss falls most steeply is a good one.

    Example: ptycho-backends find-rate scan.npz -o rates

    Afterwards: ptycho-backends train scan.npz -o run --learning-rate 0.002
    """
    with messages.session() as say:
        from ptycho_backends import workflows
        from ptycho_backends.cli.settings import (
            execution_config,
            scans_of,
            training_job,
            training_plan,
            with_progress,
        )
        from ptycho_backends.training.rate_finder import HIGHEST, LOWEST, STEPS

        settings = computing.settings("model", "training", "execution")
        loaded = [] if computing.print_config else scans_of(scans, reading)
        job = training_job(
            loaded, scans[0], settings, computing.backend, resume,
            model=options.model, training=options.training,
        )  # fmt: skip
        how = execution_config(
            settings,
            computing.execution,
            job.config.model.architecture,
            accelerator=computing.accelerator,
            precision=computing.precision,
        )
        if computing.print_config:
            print_settings({"training": job.config, "execution": how})
            return
        sweep = workflows.find_rate(
            training_plan(job, options.batch_size, with_progress(how, messages.quiet), say),
            output_dir=output,
            backend=job.backend,
            execution=how,
            lowest=LOWEST if lowest is None else lowest,
            highest=HIGHEST if highest is None else highest,
            steps=STEPS if steps is None else steps,
        )
        if sweep.suggestion is None:
            say(
                "the loss did not fall at any rate: look at rates.png, and at the scan with ptycho-backends check"
            )
        else:
            say(f"learning rate: {sweep.suggestion:.2g}, as in --learning-rate {sweep.suggestion:.2g}")
        say(f"\nwritten to {output}:\n  rates.csv\n  rates.png")
