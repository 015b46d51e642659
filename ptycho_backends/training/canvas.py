"""Room on the canvas of a group for the architecture `unrolled`, whose weights know no size."""

import dataclasses
import math

import numpy as np

from ptycho_backends.config import ModelConfig
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.values import TrainedModel

# Pixels around the views: interpolation needs one, and an even side another.
RIM_PX = 4


def room_for(model: ModelConfig, groups: GroupedData, spread_px: float = 0.0) -> int:
    """The `max_position_jitter` with which every view of the `groups` lies on the canvas; the present one or more.

    Parameters
    ----------
    model : ModelConfig
    groups : GroupedData
    spread_px : float
        Farthest that a position of other groups may lie from the middle of its group, pixels.
    """
    reach = max(float(np.abs(groups.relative_offsets_px).max(initial=0.0)), spread_px)
    room = 2 * math.ceil(reach) + RIM_PX
    return max(model.max_position_jitter, room - (model.gridsize - 1) * model.offset)


def works_on_scans(model: TrainedModel) -> bool:
    """True for the architecture `unrolled`, which reconstructs a whole scan on one canvas."""
    return model.config.model.architecture == "unrolled"


def with_room_for(model: TrainedModel, groups: GroupedData) -> TrainedModel:
    """`model`, of the architecture `unrolled` with room for all views of `groups`; others as they are."""
    config = model.config
    if config.model.architecture != "unrolled":
        return model
    room = room_for(config.model, groups)
    if room == config.model.max_position_jitter:
        return model
    inner = dataclasses.replace(config.model, max_position_jitter=room)
    return dataclasses.replace(model, config=dataclasses.replace(config, model=inner))
