"""The commands that make images: `infer` and `refine`."""

from pathlib import Path
from typing import Annotated

import typer

from ptycho_backends.cli.groups import Computing, ImageOptions, Messages, print_settings, takes_groups
from ptycho_backends.cli.options import (
    RUNNING_PANEL,
    Likelihood,
    Output,
    Overwrite,
    Pace,
    Passes,
    ProbeModes,
    ProductFile,
    RefinePositions,
    RefineProbe,
    ScanFile,
    option,
)
from ptycho_backends.cli.reading import Reading
from ptycho_backends.cli.reporting import again, report, until_signal


@takes_groups
def infer(
    model: Annotated[
        Path,
        typer.Argument(
            help="Archive (wts.h5.zip), checkpoint (.ckpt), or the folder of a run.", metavar="MODEL"
        ),
    ],
    scan: ScanFile,
    output: Output = None,
    *,
    computing: Computing,
    reading: Reading,
    image: ImageOptions,
    product: ProductFile = None,
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
    messages: Messages,
) -> None:
    """Reconstruct a scan with a trained model, whichever backend trained it.

    Example: ptycho-backends infer run/wts.h5.zip other.npz -o out --backend torch
    """
    with messages.session() as say:
        from ptycho_backends import workflows
        from ptycho_backends.cli.settings import (
            execution_config,
            given_size,
            inference_job,
            refinement_config,
            scan_of,
            settled_execution,
            with_progress,
        )

        settings = computing.settings("inference", "refinement", "execution")
        refinement = refinement_config(settings, image.refine, "0", **image.refinement)
        read = None if computing.print_config else scan_of(scan, reading)
        job = inference_job(
            model, scan, settings, computing.backend,
            inference={
                "n_groups": n_groups, "output_dir": output, "agree_on_phase": image.agree_on_phase,
            },
        )  # fmt: skip
        how = execution_config(
            settings, computing.execution, accelerator=computing.accelerator, precision=computing.precision,
            inference_batch_size=given_size(batch_size),
        )  # fmt: skip
        if read is None:
            print_settings(
                {
                    "model": job.model.config.model,
                    "inference": job.config,
                    "refinement": refinement,
                    "execution": how,
                }
            )
            return
        how = settled_execution(job, read, batch_size, with_progress(how, messages.quiet), say)
        result = until_signal(
            workflows.infer,
            job.model,
            read,
            backend=job.backend,
            config=job.config,
            execution=how,
            stitching_size=image.stitching_size,
            product=product,
            refine=refinement,
            overwrite=overwrite,
        )
        report(result, say)


@takes_groups
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
    *,
    computing: Computing,
    reading: Reading,
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
    messages: Messages,
) -> None:
    """Reconstruct a scan through the diffraction model alone, in seconds; no network, no training.

    Example: ptycho-backends refine scan.npz -o refined --probe-modes 3
    """
    with messages.session() as say:
        from ptycho_backends import workflows
        from ptycho_backends.cli.settings import (
            execution_config,
            flat_refinement,
            refinement_config,
            scan_of,
            with_progress,
        )

        settings = flat_refinement(computing.settings("refinement", "execution"))
        config = refinement_config(
            settings, None if passes is None else str(passes), "auto", pace=pace, refine_probe=refine_probe,
            refine_positions=refine_positions, n_probe_modes=probe_modes, likelihood=likelihood,
        )  # fmt: skip
        how = execution_config(
            settings, computing.execution, accelerator=computing.accelerator, precision=computing.precision
        )
        if computing.print_config:
            print_settings({"refinement": config, "execution": how})
            return
        result = until_signal(
            workflows.refine,
            scan_of(scan, reading),
            output,
            start=start,
            backend=computing.backend,
            config=config,
            execution=with_progress(how, messages.quiet),
            resume_from=resume,
            product=product,
            frc=frc,
            model=model,
            overwrite=overwrite,
        )
        going_on = again(context, backend=result.backend, resume=output, output=output, with_config=True)
        report(result, say, again=going_on)


@takes_groups
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
    *,
    messages: Messages,
) -> None:
    """Show images of two or more runs side by side, with maps of their differences from the first.

    Example: ptycho-backends compare run refined -o comparison.html
    """
    with messages.session() as say:
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
