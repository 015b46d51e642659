"""Schedule of a refinement: phases of passes, and the batches of each pass."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from ptycho_backends import constants
from ptycho_backends.scans.snake import along_a_snake, even_batches

__all__ = [
    "PACES",
    "Pace",
    "Phase",
    "along_a_snake",
    "batches_of_passes",
    "even_batches",
    "pace_of",
    "phases",
]


@dataclass(frozen=True)
class Phase:
    """`passes` over the scan with `batches` steps each."""

    passes: int
    batches: int


@dataclass(frozen=True)
class Pace:
    """Phases of a refinement and the metric of its steps.

    Attributes
    ----------
    phases : tuple of Phase
        Many small steps that find the object, then fewer, and whole passes that average the noise out at last.
    damping : float
        Of the illumination's metric, over its maximum.
    slow_strength, slow_gain_limit : float
        Of the metric of slow phases.
    """

    phases: tuple[Phase, ...]
    damping: float
    slow_strength: float
    slow_gain_limit: float


PACES = {
    "thorough": Pace(
        (Phase(6, 6), Phase(4, 3), Phase(3, 1)),
        constants.OBJECT_DAMPING,
        constants.SLOW_STRENGTH,
        constants.SLOW_GAIN_LIMIT,
    ),
    "fast": Pace(
        (Phase(3, 8), Phase(2, 3), Phase(1, 1)),
        constants.FAST_OBJECT_DAMPING,
        constants.FAST_SLOW_STRENGTH,
        constants.FAST_SLOW_GAIN_LIMIT,
    ),
}
"""By `RefinementConfig.pace`."""


def pace_of(name: str, positions: int) -> Pace:
    """The pace `name` for so many positions: few of them keep the usual metric, because a learned one overshoots."""
    pace = PACES[name]
    if name != "fast" or positions >= constants.FAST_FROM_POSITIONS:
        return pace
    return dataclasses.replace(PACES["thorough"], phases=pace.phases)


def phases(passes: int | None, pace: str = "thorough") -> tuple[Phase, ...]:
    """The phases of `pace`, or as many `passes` in the same proportions; the last ones are whole."""
    automatic = PACES[pace].phases
    if passes is None:
        return automatic
    total = sum(phase.passes for phase in automatic)
    ends = np.rint(np.cumsum([phase.passes for phase in automatic]) * passes / total).astype(int)
    counts = np.diff(ends, prepend=0)
    if counts[-1] == 0:
        counts[np.argmax(counts)] -= 1
        counts[-1] = 1
    return tuple(
        Phase(int(count), phase.batches) for count, phase in zip(counts, automatic, strict=True) if count
    )


def batches_of_passes(schedule: tuple[Phase, ...]) -> list[int]:
    """Number of batches of each pass."""
    return [phase.batches for phase in schedule for _ in range(phase.passes)]
