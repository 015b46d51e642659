"""The command `watch`: an image while the scan runs."""

from pathlib import Path
from typing import Annotated

import typer

from ptycho_backends.cli.groups import Computing, ImageOptions, Messages, print_settings, takes_groups
from ptycho_backends.cli.options import Overwrite, option
from ptycho_backends.cli.reading import Reading
from ptycho_backends.cli.reporting import report
from ptycho_backends.errors import ConfigError


@takes_groups
def watch(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder in which TIFF or NPY files appear, or an HDF5 file that grows (SWMR); need not exist yet.",
            metavar="FOLDER|FILE",
        ),
    ],
    model: Annotated[
        Path,
        typer.Option(
            "--model",
            "-m",
            help="Archive (wts.h5.zip), checkpoint (.ckpt), or the folder of a run.",
            metavar="MODEL",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results.", metavar="DIR")
    ] = Path("live"),
    until: Annotated[
        int | None, option("--until", min=1, help="End with so many frames. Default: with Ctrl-C.")
    ] = None,
    idle: Annotated[
        float | None,
        option("--idle", help="End after so many seconds without a new frame.", metavar="SECONDS"),
    ] = None,
    every: Annotated[
        float, typer.Option("--every", help="Seconds between two images on the disk.", metavar="SECONDS")
    ] = 2.0,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Of the page on this machine; 0 takes a free one.")
    ] = 8643,
    page: Annotated[
        bool, option("--page/--no-page", help="Show the picture on a page at 127.0.0.1. (page)")
    ] = True,
    final: Annotated[
        bool,
        option(
            "--final/--live-only", help="At the end, make the image of the whole scan as infer does. (final)"
        ),
    ] = True,
    *,
    computing: Computing,
    reading: Reading,
    image: ImageOptions,
    overwrite: Overwrite = False,
    messages: Messages,
) -> None:
    """Reconstruct a scan while it is measured: the image grows on the disk and on a page of this machine.

    Ctrl-C ends the scan, and the image of all frames is made as infer makes it; a second Ctrl-C keeps the live one.

    Example: ptycho-backends watch /data/scan_12.h5 --model run -o live --idle 30
    """
    with messages.session() as say:
        from ptycho_backends.cli.settings import execution_config, refinement_config, with_progress
        from ptycho_backends.live.watch import watch as watch_scan
        from ptycho_backends.scans.scan_files import load_mask

        if changes := reading.changes:
            raise ConfigError(
                f"{', '.join(changes)}: given, but they change a scan that is finished; leave them out"
            )
        settings = computing.settings("refinement", "execution")
        if settings.flat_file is not None:
            raise ConfigError(
                f"config: got {settings.flat_file}, want a file of sections (refinement, execution); "
                "--execution takes one of how to run"
            )
        refinement = refinement_config(settings, image.refine, "0", **image.refinement)
        how = execution_config(
            settings, computing.execution, accelerator=computing.accelerator, precision=computing.precision
        )
        if computing.print_config:
            print_settings({"refinement": refinement, "execution": how})
            return
        result = watch_scan(
            model,
            source,
            output,
            backend=computing.backend,
            execution=with_progress(how, messages.quiet),
            options=reading.options,
            measurement=reading.measurement,
            valid_pixels=None if reading.mask is None else load_mask(reading.mask),
            stitching_size=image.stitching_size,
            agree_on_phase=image.agree_on_phase,
            refine=refinement,
            until=until,
            idle_s=idle,
            every_s=every,
            port=port if page else None,
            final=final,
            overwrite=overwrite,
            say=say,
        )
        live = result.figures
        say(
            f"{result.frames} frames, {live['mean_rate'] or 0:.0f} a second; from written to in the image "
            f"{live['latency_p50_s']:.3f} s (p50), {live['latency_p95_s']:.3f} s (p95); most behind: "
            f"{live['most_behind']} frames"
        )
        if result.run is None:
            say(f"\nwritten to {result.output_dir}:\n  reconstruction.npz\n  reconstruction.png\n  live.json")
            return
        report(result.run, say)
        say("  live.json\n  live.npz")
