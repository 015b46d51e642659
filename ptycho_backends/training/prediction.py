"""Batches of a prediction, and the results of several as one, on any backend."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.images.phase_agreement import WaitingPatches
from ptycho_backends.images.stitching import Stitcher
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.training.prefetch import DEFAULT_PREFETCH, ahead
from ptycho_backends.values import Batch, Prediction, TrainedModel

DEFAULT_BATCH = 32
"""Groups that are predicted at once by default; on a processor more of them only cost memory."""


def prediction_batches(
    model: TrainedModel,
    groups: GroupedData,
    execution: ExecutionConfig,
    shard: range,
    devices: int = 1,
    *,
    default: int = DEFAULT_BATCH,
) -> Iterator[tuple[slice, Batch]]:
    """The groups of `shard` in batches, gathered ahead of their use.

    Parameters
    ----------
    model : TrainedModel
    groups : GroupedData
    execution : ExecutionConfig
        `inference_batch_size` is the number of groups for each device.
    shard : range
    devices : int
        Number of devices that predict a batch together.
    default : int
        Groups for each device, where `inference_batch_size` is None.
    """
    size = devices * (execution.inference_batch_size or default)
    slices = [slice(start, min(start + size, shard.stop)) for start in range(shard.start, shard.stop, size)]
    gathered = ((part, groups.batch(part, intensity_scale=model.intensity_scale)) for part in slices)
    return ahead(gathered, execution.prefetch_factor or DEFAULT_PREFETCH)


def concatenated(parts: Sequence[Prediction]) -> Prediction:
    """The predictions of several batches as one."""
    return Prediction(
        object=np.concatenate([part.object for part in parts]),
        amplitude=np.concatenate([part.amplitude for part in parts]),
        intensity=np.concatenate([part.intensity for part in parts]),
    )


def stitch_predicted(
    stitcher: Stitcher,
    predicted: Iterable[tuple[slice, NDArray[np.complex64]]],
    groups: GroupedData,
    add_up: Callable[[NDArray[np.float64]], None],
    *,
    agree_on_phase: bool = False,
) -> None:
    """Stitch the shard of this process, then sum the canvases over all processes.

    Parameters
    ----------
    stitcher : Stitcher
        Has the sums of all processes afterwards.
    predicted : iterable of (slice, (b, N, N, 1) complex64)
        Object patches, and the groups that they belong to.
    groups : GroupedData
    add_up : callable
        Replaces an array by its sum over the processes.
    agree_on_phase : bool
        Bring all patches to one constant phase before they are averaged (`phase_agreement`).
    """
    if agree_on_phase:
        waiting = WaitingPatches(groups.group_centres_px[:, 0, :, 0], stitcher.size, stitcher.patch_weights)
        for part, patches in predicted:
            waiting.add(part, patches)
        predicted = waiting.turned(add_up)
    for part, patches in predicted:
        stitcher.add(patches, groups.group_centres_px[part])
    for sums in stitcher.sums:
        add_up(sums)
