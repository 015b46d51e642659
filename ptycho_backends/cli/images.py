"""The commands that make images: `infer` and `refine`."""

from pathlib import Path
from typing import Annotated

import typer

from ptycho_backends.cli.options import (
    RUNNING_PANEL,
    Accelerator,
    AgreeOnPhase,
    BackendName,
    ConfigFile,
    Debug,
    ExecutionFile,
    Likelihood,
    Output,
    Overwrite,
    Pace,
    Passes,
    Precision,
    ProbeModes,
    ProductFile,
    Quiet,
    Refine,
    RefinePositions,
    RefineProbe,
    ScanFile,
    StitchingSize,
    Verbose,
    option,
)
from ptycho_backends.cli.reading import READ_AS_IT_IS, Reading, reads_scans
from ptycho_backends.cli.reporting import again, report, session, until_signal


@reads_scans
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
    reading: Reading = READ_AS_IT_IS,
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
    overwrite: Overwrite = False,
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
            model, scan_of(scan, reading), scan, config, backend,
            inference={"n_groups": n_groups, "output_dir": output, "agree_on_phase": agree_on_phase},
        )  # fmt: skip
        how = execution_config(
            execution, quiet, accelerator=accelerator, precision=precision,
            inference_batch_size=given_size(batch_size),
        )  # fmt: skip
        how = settled_execution(job, batch_size, how, say)
        result = until_signal(
            workflows.infer,
            job.model,
            job.scan,
            backend=job.backend,
            config=job.config,
            execution=how,
            stitching_size=stitching_size,
            product=product,
            refine=refinement,
            overwrite=overwrite,
        )
        report(result, say)


@reads_scans
def refine(
    context: typer.Context,
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
    reading: Reading = READ_AS_IT_IS,
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
    overwrite: Overwrite = False,
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
        result = until_signal(
            workflows.refine,
            scan_of(scan, reading),
            output,
            start=start,
            backend=backend,
            config=config,
            execution=how,
            resume_from=resume,
            product=product,
            frc=frc,
            model=model,
            overwrite=overwrite,
        )
        report(result, say, again=again(context, backend=result.backend, resume=output, output=output))


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of runs, or images (reconstruction.npz); the first is compared with.",
            metavar="RUN RUN...",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Page to write.", metavar="FILE.html")
    ] = Path("comparison.html"),
    verbose: Verbose = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show images of two or more runs side by side, with maps of their differences from the first.

    Example: ptycho-backends compare run refined -o comparison.html
    """
    with session(verbose, quiet, debug) as say:
        import json

        from ptycho_backends.images.comparison import save_comparison
        from ptycho_backends.images.results import load_reconstruction
        from ptycho_backends.training.run_folder import FILES

        images, figures = {}, {}
        for run in runs:
            file = run / FILES["reconstruction"] if run.is_dir() else run
            name = run.name if run.name not in images else str(run)
            images[name] = load_reconstruction(file)
            metrics = file.with_name(FILES["metrics"])
            if metrics.is_file():
                figures[name] = json.loads(metrics.read_text())
        say(f"wrote {save_comparison(images, output, figures)}: {len(images)} images")
