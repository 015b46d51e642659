"""Schedule of a refinement: phases of passes, and the batches of each pass."""

from dataclasses import dataclass

import numpy as np

from ptycho_backends.scans.snake import along_a_snake, even_batches

__all__ = ["AUTOMATIC", "Phase", "along_a_snake", "batches_of_passes", "even_batches", "phases"]


@dataclass(frozen=True)
class Phase:
    """`passes` over the scan with `batches` steps each."""

    passes: int
    batches: int


AUTOMATIC = (Phase(6, 6), Phase(4, 3), Phase(3, 1))
"""Many small steps that find the object, then fewer, and whole passes that average the noise out at last."""


def phases(passes: int | None) -> tuple[Phase, ...]:
    """The automatic schedule, or one of as many `passes` in the same proportions; the last ones are whole."""
    if passes is None:
        return AUTOMATIC
    total = sum(phase.passes for phase in AUTOMATIC)
    ends = np.rint(np.cumsum([phase.passes for phase in AUTOMATIC]) * passes / total).astype(int)
    counts = np.diff(ends, prepend=0)
    if counts[-1] == 0:
        counts[np.argmax(counts)] -= 1
        counts[-1] = 1
    return tuple(
        Phase(int(count), phase.batches) for count, phase in zip(counts, AUTOMATIC, strict=True) if count
    )


def batches_of_passes(schedule: tuple[Phase, ...]) -> list[int]:
    """Number of batches of each pass."""
    return [phase.batches for phase in schedule for _ in range(phase.passes)]
