"""The command `simulate`: scans with known truth."""

from pathlib import Path
from typing import Annotated

import typer

from ptycho_backends.cli.groups import Messages, takes_groups
from ptycho_backends.cli.options import option


@takes_groups
def simulate(
    path: Annotated[
        Path,
        typer.Argument(help="The scan to write: .npz, .h5, .cxi, .nxs or .ptyd.", metavar="SCAN.npz"),
    ],
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
    energy: Annotated[
        str | None, option("--energy", help="Of the photons, as 8.8keV.", metavar="ENERGY")
    ] = None,
    distance: Annotated[
        str | None, option("--distance", help="From sample to detector, as 2m.", metavar="LENGTH")
    ] = None,
    pixel_size: Annotated[
        str | None, option("--pixel-size", help="Side of an object pixel, as 10nm.", metavar="LENGTH")
    ] = None,
    mapped: Annotated[
        bool, option("--mapped", help="Write the patterns uncompressed, so that they can be mapped.")
    ] = False,
    *,
    messages: Messages,
) -> None:
    """Simulate a scan of a Siemens star or of another sample, its object and probe known.

    Example: ptycho-backends simulate star.npz --positions 900 --nphotons 1e6

    With the probe of an experiment: ptycho-backends simulate leaves.npz --object leaves --probe-from scan.npz
    """
    with messages.session() as say:
        from ptycho_backends import workflows
        from ptycho_backends.cli.reading import experiment_of
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
            compressed=not mapped,
            experiment=experiment_of(energy, distance, pixel_size),
        )
        say(f"wrote {written}; look at it with: ptycho-backends inspect {written}")
