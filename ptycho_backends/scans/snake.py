"""Orders of a scan's positions in which successive ones are neighbours, and even parts of a scan."""

import numpy as np
from numpy.typing import NDArray


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
