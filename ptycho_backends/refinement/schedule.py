"""Schedule of a refinement: phases of passes, and the batches of each pass."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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


def along_a_snake(positions_px: NDArray[np.float64]) -> NDArray[np.int64]:
    """Numbers of the positions (M, 2) along strips two mean steps wide: successive ones are neighbours in space."""
    x, y = positions_px.T
    area = max(float(np.ptp(x)), 1.0) * max(float(np.ptp(y)), 1.0)
    strip = 2.0 * np.sqrt(area / len(x))
    row = np.floor((y - y.min()) / strip).astype(np.int64)
    return np.lexsort((np.where(row % 2 == 1, -x, x), row))


def even_batches(snake: NDArray[np.int64], count: int, seed: int, number: int) -> list[NDArray[np.int64]]:
    """`count` batches for pass `number` that cover the scan evenly.

    Of every `count` successive positions of `snake`, one goes to each batch, at random by `(seed, number)`.
    """
    count = max(1, min(count, len(snake) // 2))
    rows = np.concatenate([snake, np.full(-len(snake) % count, -1)]).reshape(-1, count)
    columns = np.random.default_rng([seed, number]).permuted(rows, axis=1).T
    return [column[column >= 0] for column in columns]
