"""Weights of a model that an optimiser moves, on any backend."""

from collections.abc import Iterable

from ptycho_backends.config import TrainingConfig
from ptycho_backends.reference.initial_weights import LOG_SCALE, PROBE, is_running_value


def trained_weights(names: Iterable[str], config: TrainingConfig) -> list[str]:
    """Names of the weights that training moves: no running statistics, probe and scale on request."""
    frozen = set()
    if not config.probe_trainable:
        frozen.add(PROBE)
    if not config.intensity_scale_trainable:
        frozen.add(LOG_SCALE)
    return [name for name in names if name not in frozen and not is_running_value(name)]
