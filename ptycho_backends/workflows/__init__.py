"""The verbs of a working day: simulate, find_rate, train, infer, run, demo; on top of the `Backend` protocol.

Each checks its input first, then that its folder can be written to, then works; a file appears whole or
not at all. `FILES` lists the files of a run. A training is planned once, and the backend trains that plan.
"""

from ptycho_backends.scans.statistics import holds_counts, mean_photons
from ptycho_backends.training.run_folder import resumable_file
from ptycho_backends.workflows.arguments import AUTOMATIC
from ptycho_backends.workflows.images import infer, refine
from ptycho_backends.workflows.rates import find_rate
from ptycho_backends.workflows.result import RunResult
from ptycho_backends.workflows.training import SYNTHETIC_PATTERNS, train, train_synthetic
from ptycho_backends.workflows.whole import (
    DEMO_BATCH,
    DEMO_EPOCHS,
    DEMO_N,
    DEMO_PHOTONS,
    DEMO_POSITIONS,
    OBJECT_KINDS,
    demo,
    run,
    simulate,
)

__all__ = [
    "AUTOMATIC",
    "DEMO_BATCH",
    "DEMO_EPOCHS",
    "DEMO_N",
    "DEMO_PHOTONS",
    "DEMO_POSITIONS",
    "OBJECT_KINDS",
    "SYNTHETIC_PATTERNS",
    "RunResult",
    "demo",
    "find_rate",
    "holds_counts",
    "infer",
    "mean_photons",
    "refine",
    "resumable_file",
    "run",
    "simulate",
    "train",
    "train_synthetic",
]
