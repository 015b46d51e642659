"""The command line, `ptycho-backends`: one command for each verb of `workflows`.

Slow imports happen inside the commands, so that `--help` answers at once.
"""

from pathlib import Path
from typing import Annotated

import typer

from ptycho_backends import __version__
from ptycho_backends.builtin_backends import BUILT_IN
from ptycho_backends.cli.options import (
    RUNNING_PANEL,
    Accelerator,
    AgreeOnPhase,
    Architecture,
    BackendName,
    BatchSize,
    ConfigFile,
    Debug,
    Epochs,
    ExecutionFile,
    Filters,
    Gridsize,
    Groups,
    LearningRate,
    Likelihood,
    Mapped,
    Mask,
    Measurement,
    OptionalScanFiles,
    Output,
    Pace,
    Passes,
    Photons,
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
    ScanFile,
    ScanFiles,
    Seed,
    StitchingSize,
    Synthetic,
    Verbose,
    option,
)
from ptycho_backends.cli.reporting import EXIT_ERROR, described, epoch_lines, pass_lines, report, session
from ptycho_backends.errors import ConfigError

app = typer.Typer(
    name="ptycho-backends",
    help="Train physics-informed networks on ptychographic scans and reconstruct with them, on "
    f"{' or '.join(entry.label for entry in BUILT_IN.values())}.\n\nStart with: ptycho-backends demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ptycho-backends {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
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
        result = workflows.demo(
            output,
            backend=chosen,
            positions=positions,
            epochs=epochs,
            seed=seed,
            execution=execution,
            on_epoch=epoch_lines(execution, epochs, say),
            refine=refinement,
            on_pass=pass_lines(say),
        )
        report(result, say, again=f"ptycho-backends run {result.files['scan']} --resume {output}")


@app.command()
def simulate(
    path: Annotated[Path, typer.Argument(help="The scan to write, an NPZ file.", metavar="SCAN.npz")],
    object_kind: Annotated[
        str, typer.Option("--object", help="star (Siemens star); or, drawn: leaves, texture, lines, mixed.")
    ] = "star",
    side: Annotated[
        int | None,
        option("--side", "-n", help="Pixels on the side of a pattern. Default: 64, or the probe's."),
    ] = None,
    probe_from: Annotated[
        Path | None,
        option("--probe-from", help="Light the object with the probe of this scan.", metavar="SCAN"),
    ] = None,
    positions: Annotated[int, typer.Option("--positions", help="Number of positions.")] = 400,
    step: Annotated[
        float | None, option("--step", help="Mean distance of neighbours, pixels. Default: side / 9.")
    ] = None,
    pattern: Annotated[str, typer.Option("--pattern", help="spiral, or raster with jitter.")] = "spiral",
    nphotons: Annotated[float, typer.Option("--nphotons", help="Mean photons of a pattern.")] = 1e5,
    noise: Annotated[bool, typer.Option("--noise/--no-noise", help="Draw Poisson counts.")] = True,
    measurement: Annotated[
        str, typer.Option("--measurement", help="Write counts (intensity) or their root (amplitude).")
    ] = "intensity",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the object, the noise and the jitter.")] = 0,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Simulate a scan of a Siemens star or of another sample, its object and probe known.

    Example: ptycho-backends simulate star.npz --positions 900 --nphotons 1e6

    With the probe of an experiment: ptycho-backends simulate leaves.npz --object leaves --probe-from scan.npz
    """
    with session(verbose, quiet, debug) as say:
        from ptycho_backends import workflows
        from ptycho_backends.cli.settings import probe_of

        written = workflows.simulate(
            path,
            object_kind,
            N=64 if side is None else side,
            probe=None if probe_from is None else probe_of(probe_from, side),
            positions=positions,
            step_px=step,
            pattern=pattern,
            n_photons=nphotons,
            seed=seed,
            measurement=measurement,
            poisson=noise,
        )
        say(f"wrote {written}; look at it with: ptycho-backends inspect {written}")


@app.command()
def train(
    scans: OptionalScanFiles = None,
    output: Output = None,
    backend: BackendName = None,
    config: ConfigFile = None,
    execution: ExecutionFile = None,
    measurement: Measurement = "auto",
    mapped: Mapped = False,
    mask: Mask = None,
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
    accelerator: Accelerator = None,
    precision: Precision = None,
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
            given_size,
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
                    "nepochs": epochs, "batch_size": given_size(batch_size), "seed": seed, "output_dir": output,
                },
            )  # fmt: skip
            how = execution_config(
                execution, quiet, settings.model.architecture, accelerator=accelerator, precision=precision,
                learning_rate=learning_rate,
            )  # fmt: skip
            result = workflows.train_synthetic(
                scan_of(source, measurement, mapped, mask),
                synthetic or 0,
                settings,
                output,
                backend=backend,
                execution=how,
                photons=nphotons,
                resume_from=resume,
                on_epoch=epoch_lines(how, settings.nepochs + how.finetune_epochs, say),
            )
            again = f"ptycho-backends train --synthetic {synthetic} --probe-from {source} --resume {result.output_dir}"
            report(result, say, again=again)
            return
        if not scans:
            raise ConfigError("SCAN: got none, want a scan to train on, or --synthetic and --probe-from")
        loaded = scans_of(scans, measurement, mapped, mask)
        job = training_job(
            loaded, scans[0], config, backend, resume, say,
            model={"architecture": architecture, "gridsize": gridsize, "n_filters_scale": filters},
            training={
                "nepochs": epochs, "batch_size": given_size(batch_size), "nphotons": nphotons, "n_groups": n_groups,
                "seed": seed, "probe_trainable": probe_trainable, "output_dir": output,
            },
        )  # fmt: skip
        how = execution_config(
            execution,
            quiet,
            job.config.model.architecture,
            accelerator=accelerator,
            precision=precision,
            learning_rate=learning_rate,
        )
        result = workflows.train(
            training_plan(job, batch_size, how, say),
            backend=job.backend,
            execution=how,
            on_epoch=epoch_lines(how, job.config.nepochs + how.finetune_epochs, say),
        )
        named = " ".join(map(str, scans))
        report(result, say, again=f"ptycho-backends train {named} --resume {result.output_dir}")


@app.command()
def run(
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
    measurement: Measurement = "auto",
    mapped: Mapped = False,
    mask: Mask = None,
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
    accelerator: Accelerator = None,
    precision: Precision = None,
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
        loaded = scans_of(scans, measurement, mapped, mask)
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
            execution,
            quiet,
            job.config.model.architecture,
            accelerator=accelerator,
            precision=precision,
            learning_rate=learning_rate,
        )
        test = job.config.test_data_file
        shown = loaded[0] if test is None else scan_of(test, measurement, mapped, mask)
        result = workflows.run(
            training_plan(job, batch_size, how, say),
            test_scan=shown,
            backend=job.backend,
            execution=how,
            on_epoch=epoch_lines(how, job.config.nepochs + how.finetune_epochs, say),
            stitching_size=stitching_size,
            agree_on_phase=agree_on_phase,
            product=product,
            refine=refinement,
            on_pass=pass_lines(say),
        )
        named = " ".join(map(str, scans))
        report(result, say, again=f"ptycho-backends run {named} --resume {result.output_dir}")


@app.command()
def infer(
    model: Annotated[
        Path,
        typer.Argument(
            help="Archive (wts.h5.zip), checkpoint (.ckpt), or the folder of a run.", metavar="MODEL"
        ),
    ],
    scan: ScanFile,
    output: Output = None,
    backend: BackendName = None,
    config: ConfigFile = None,
    execution: ExecutionFile = None,
    measurement: Measurement = "auto",
    mapped: Mapped = False,
    mask: Mask = None,
    stitching_size: StitchingSize = None,
    agree_on_phase: AgreeOnPhase = None,
    product: ProductFile = None,
    refine: Refine = None,
    refine_probe: RefineProbe = None,
    refine_positions: RefinePositions = False,
    probe_modes: ProbeModes = None,
    n_groups: Annotated[
        int | None, option("--n-groups", help="Groups to reconstruct from. Default: one per position.")
    ] = None,
    batch_size: Annotated[
        str | None,
        option(
            "--batch-size",
            panel=RUNNING_PANEL,
            help="Groups predicted at once; auto tries which size is quickest. (32)",
        ),
    ] = None,
    accelerator: Accelerator = None,
    precision: Precision = None,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Reconstruct a scan with a trained model, whichever backend trained it.

    Example: ptycho-backends infer run/wts.h5.zip other.npz -o out --backend torch
    """
    with session(verbose, quiet, debug) as say:
        from ptycho_backends import workflows
        from ptycho_backends.cli.settings import (
            execution_config,
            given_size,
            inference_job,
            refinement_config,
            scan_of,
            settled_execution,
        )

        refinement = refinement_config(
            refine,
            "0",
            refine_probe=refine_probe,
            refine_positions=refine_positions,
            n_probe_modes=probe_modes,
        )
        job = inference_job(
            model, scan_of(scan, measurement, mapped, mask), scan, config, backend,
            inference={"n_groups": n_groups, "output_dir": output, "agree_on_phase": agree_on_phase},
        )  # fmt: skip
        how = execution_config(
            execution, quiet, accelerator=accelerator, precision=precision,
            inference_batch_size=given_size(batch_size),
        )  # fmt: skip
        how = settled_execution(job, batch_size, how, say)
        result = workflows.infer(
            job.model,
            job.scan,
            backend=job.backend,
            config=job.config,
            execution=how,
            stitching_size=stitching_size,
            product=product,
            refine=refinement,
            on_pass=pass_lines(say),
        )
        report(result, say)


@app.command()
def refine(
    scan: ScanFile,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results.", metavar="DIR")
    ] = Path("refined"),
    start: Annotated[
        Path | None,
        option(
            "--start",
            help="Image to start from: a reconstruction.npz, or the folder of a run. Default: flat.",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        option(
            "--model",
            help="Model of the architecture unrolled, whose learned correction follows the passes: for few photons.",
        ),
    ] = None,
    backend: BackendName = None,
    execution: ExecutionFile = None,
    measurement: Measurement = "auto",
    mapped: Mapped = False,
    mask: Mask = None,
    product: ProductFile = None,
    passes: Passes = None,
    pace: Pace = None,
    refine_probe: RefineProbe = None,
    refine_positions: RefinePositions = False,
    probe_modes: ProbeModes = None,
    likelihood: Likelihood = None,
    frc: Annotated[
        bool, option("--frc", help="Refine two half scans too, and estimate the resolution from them.")
    ] = False,
    resume: Annotated[
        Path | None, option("--resume", help="Go on from the checkpoint in this folder.", metavar="DIR")
    ] = None,
    accelerator: Accelerator = None,
    precision: Precision = None,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Reconstruct a scan through the diffraction model alone, in seconds; no network, no training.

    Example: ptycho-backends refine scan.npz -o refined --probe-modes 3
    """
    with session(verbose, quiet, debug) as say:
        from ptycho_backends import workflows
        from ptycho_backends.cli.settings import execution_config, refinement_config, scan_of

        config = refinement_config(
            "auto" if passes is None else str(passes), "auto", pace=pace, refine_probe=refine_probe,
            refine_positions=refine_positions, n_probe_modes=probe_modes, likelihood=likelihood,
        )  # fmt: skip
        how = execution_config(execution, quiet, accelerator=accelerator, precision=precision)
        result = workflows.refine(
            scan_of(scan, measurement, mapped, mask),
            output,
            start=start,
            backend=backend,
            config=config,
            execution=how,
            resume_from=resume,
            on_pass=pass_lines(say),
            product=product,
            frc=frc,
            model=model,
        )
        report(result, say, again=f"ptycho-backends refine {scan} -o {output} --resume {output}")


@app.command()
def inspect(
    path: Annotated[
        Path, typer.Argument(help="An archive, a checkpoint, the folder of a run, or a scan.", metavar="PATH")
    ],
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Describe an archive (content, origin, integrity), or a scan.

    Example: ptycho-backends inspect run/wts.h5.zip
    """
    with session(verbose, False, debug):
        if path.suffix.lower() in (".npz", ".h5", ".hdf5"):
            from ptycho_backends.scans.scan_files import load_scan

            typer.echo(described(load_scan(path)))
            return
        from ptycho_backends.archive.model_file import inspect_archive

        summary = inspect_archive(path)
        typer.echo(str(summary))
        if not summary.whole:
            raise typer.Exit(EXIT_ERROR)


@app.command()
def parity(
    backends: Annotated[
        list[str],
        typer.Argument(
            help=f"Backends to compare: {', '.join(BUILT_IN)}, or a third party's.", metavar="NAME..."
        ),
    ],
    cases: Annotated[
        int | None, option("--cases", "-n", help="Generated cases. Default: the profile's: 20, 60 or 300.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same cases.")] = 0,
    profile: Annotated[str, typer.Option("--profile", help="fast, ci or nightly: how much of each case.")] = (
        "fast"
    ),
    part: Annotated[
        str, typer.Option("--part", help="arrays (single batches), verbs (train, infer, ...) or all.")
    ] = "all",
    device: Annotated[
        str, typer.Option("--device", help="Where backends compute: cpu, gpu, cuda, mps or auto.")
    ] = "cpu",
    case: Annotated[
        str | None, typer.Option("--case", help="Measure this case alone, as a report prints it.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the report.", metavar="DIR")
    ] = Path("parity_report"),
    verbose: Verbose = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Hold backends against the float64 reference and against each other; write a report.

    Exit code 1 if any deviation is beyond its allowance.

    Example: ptycho-backends parity torch tensorflow
    """
    with session(verbose, quiet, debug) as say:
        from ptycho_backends.testing.command import parity_command

        code = parity_command(
            backends,
            cases=cases,
            seed=seed,
            profile=profile,
            part=part,
            device=device,
            case=case,
            output_dir=output,
            say=say,
        )
    if code:
        raise typer.Exit(code)
