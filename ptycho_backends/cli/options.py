"""The options that commands share: their names, and their texts in `--help`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ptycho_backends.builtin_backends import BUILT_IN

MODEL_PANEL, TRAINING_PANEL, RUNNING_PANEL, MESSAGES_PANEL = "Model", "Training", "Running", "Messages"
READING_PANEL = "Reading of scans"


def option(*names: str, panel: str | None = None, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, show_default=False, **settings)


ScanFile = Annotated[
    Path,
    typer.Argument(
        help="Scan: a file or folder of any format of docs/readers.md (NPZ, HDF5, CXI, MATLAB, TIFF, ...).",
        metavar="SCAN",
    ),
]
ScanFiles = Annotated[
    list[Path],
    typer.Argument(
        help="One scan or several, each with a probe of its own; files or folders of any format of docs/readers.md.",
        metavar="SCAN...",
    ),
]
OptionalScanFiles = Annotated[
    list[Path] | None,
    typer.Argument(
        help="One scan or several, each with a probe of its own; files or folders of any format of docs/readers.md. "
        "None with --synthetic.",
        metavar="SCAN...",
        show_default=False,
    ),
]
Output = Annotated[Path | None, option("--output", "-o", help="Folder for the results.", metavar="DIR")]
BackendName = Annotated[
    str | None,
    option(
        "--backend",
        "-b",
        help=f"{' or '.join(BUILT_IN)}. Default: $PTYCHO_BACKEND, else the first installed.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    option("--config", "-c", help="YAML file of settings; options given here win over it.", metavar="YAML"),
]
ExecutionFile = Annotated[
    Path | None,
    option("--execution", help="YAML file of how to run (execution.yaml of a run).", metavar="YAML"),
]
Gridsize = Annotated[
    int | None,
    option(
        "--gridsize", "-g", panel=MODEL_PANEL, help="A group holds gridsize x gridsize positions. (2; cnn 1)"
    ),
]
Architecture = Annotated[
    str | None,
    option(
        "--architecture",
        "-a",
        panel=MODEL_PANEL,
        help="unrolled starts from the physics; cnn and attention learn from patterns alone. (unrolled)",
    ),
]
Filters = Annotated[
    int | None,
    option(
        "--filters", panel=MODEL_PANEL, help="Multiplies the network's filters (n_filters_scale). (1; cnn 2)"
    ),
]
Epochs = Annotated[
    int | None, option("--epochs", "-e", panel=TRAINING_PANEL, help="Passes over the scan. (12; cnn 50)")
]
BatchSize = Annotated[
    str | None,
    option(
        "--batch-size",
        panel=TRAINING_PANEL,
        help="Groups in a step, a power of two; auto tries which size trains most groups a second. (16)",
    ),
]
Photons = Annotated[
    float | None,
    option(
        "--nphotons", panel=TRAINING_PANEL, help="Mean photons of a pattern. Default: measured on the scan."
    ),
]
Groups = Annotated[
    int | None,
    option("--n-groups", panel=TRAINING_PANEL, help="Groups to train on. Default: one per position."),
]
Seed = Annotated[
    int | None,
    option("--seed", panel=TRAINING_PANEL, help="Of the weights, the batches and the groups. (42)"),
]
ProbeTrainable = Annotated[
    bool | None,
    option("--probe-trainable/--probe-fixed", panel=TRAINING_PANEL, help="Refine the probe. (fixed)"),
]
LearningRate = Annotated[
    float | None,
    option("--learning-rate", panel=TRAINING_PANEL, help="Of the first epoch. (0.002; cnn 0.001)"),
]
Resume = Annotated[
    Path | None,
    option(
        "--resume",
        panel=TRAINING_PANEL,
        help="Go on training: the folder of an earlier run, a checkpoint, or an archive.",
        metavar="PATH",
    ),
]
Overwrite = Annotated[
    bool,
    option("--overwrite", help="Replace an earlier run in the folder, which is refused otherwise."),
]
Check = Annotated[
    bool,
    option("--check/--no-check", help="Look at the scan first, and refuse what is certainly wrong. (check)"),
]
StitchingSize = Annotated[
    int | None,
    option(
        "--stitching-size",
        help="Side of the centre of each patch that is used, pixels. Default: 20, or as the architecture wants.",
    ),
]
AgreeOnPhase = Annotated[
    bool | None,
    option(
        "--agree-on-phase/--no-agree-on-phase",
        help="Bring all patches to one constant phase before they are averaged. Default: as the architecture wants.",
    ),
]
ProductFile = Annotated[
    Path | None,
    option(
        "--product",
        help="Write the image as a Ptychodus product (HDF5), too; the scan must have pixel_size_m, "
        "photon_energy_eV and detector_distance_m.",
        metavar="FILE.h5",
    ),
]
Accelerator = Annotated[
    str | None,
    option(
        "--accelerator",
        panel=RUNNING_PANEL,
        help="auto, cpu, gpu, cuda or mps; cuda:1 is the second GPU. (auto)",
    ),
]
Precision = Annotated[
    str | None,
    option("--precision", panel=RUNNING_PANEL, help="32-true, 64-true, 16-mixed or bf16-mixed. (32-true)"),
]
PictureEvery = Annotated[
    int | None,
    option(
        "--picture-every", min=0, panel=RUNNING_PANEL, metavar="EPOCHS",
        help="Epochs between two pictures of the image so far, live.png; 0: none. (0)",
    ),
]  # fmt: skip
Verbose = Annotated[
    int, option("--verbose", "-v", count=True, panel=MESSAGES_PANEL, help="Print more; twice: everything.")
]
Quiet = Annotated[bool, option("--quiet", "-q", panel=MESSAGES_PANEL, help="Print nothing but errors.")]
Debug = Annotated[bool, option("--debug", panel=MESSAGES_PANEL, help="Show where an error arose.")]

Synthetic = Annotated[
    int | None,
    option(
        "--synthetic",
        panel=TRAINING_PANEL,
        min=1,
        help="Train on so many parts of refined images of synthetic scans, with the probe of --probe-from and no SCAN: "
        "before the beam time, for few photons.",
        metavar="PARTS",
    ),
]
ProbeFrom = Annotated[
    Path | None,
    option(
        "--probe-from",
        panel=TRAINING_PANEL,
        help="Scan that gives synthetic scans their probe, photons and step.",
        metavar="SCAN",
    ),
]

Refine = Annotated[
    str | None,
    option(
        "--refine",
        panel=TRAINING_PANEL,
        help="Passes that refine the network's image through the diffraction model: auto, a number, or 0 for none.",
        metavar="auto|PASSES",
    ),
]
Passes = Annotated[
    int | None,
    option("--passes", "-e", panel=TRAINING_PANEL, min=1, help="Passes over the scan. Default: automatic."),
]
Pace = Annotated[
    str | None,
    option(
        "--pace",
        panel=TRAINING_PANEL,
        help="thorough (13 passes), or fast (6 passes, about half the time) for scans of good overlap.",
    ),
]
RefineProbe = Annotated[
    bool | None,
    option(
        "--refine-probe/--fix-probe",
        panel=TRAINING_PANEL,
        help="Move the probe too. Default: where it is made up.",
    ),
]
RefinePositions = Annotated[
    bool, option("--refine-positions", panel=TRAINING_PANEL, help="Move the positions too.")
]
ProbeModes = Annotated[
    int | None,
    option(
        "--probe-modes", panel=TRAINING_PANEL, min=1,
        help="Incoherent modes of the probe; missing ones are made from the main one. Default: the scan's own.",
    ),
]  # fmt: skip
Likelihood = Annotated[
    str | None,
    option(
        "--likelihood",
        panel=TRAINING_PANEL,
        help="amplitude or poisson; amplitude is better at every dose tried.",
    ),
]
