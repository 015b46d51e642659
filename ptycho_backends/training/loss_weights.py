"""Weights of the terms of a loss, and their weighted sum, on any framework's scalars."""

from collections.abc import Iterable
from typing import Any

from ptycho_backends.config import TrainingConfig


def loss_weights(config: TrainingConfig) -> dict[str, float]:
    """`{term: weight}` of the terms that take part in the loss, auxiliary losses aside, in order.

    References
    ----------
    docs/model.md, section 6.
    """
    if config.model.model_type == "supervised":
        return {"supervised": 1.0}
    weights = {
        "nll": config.nll_weight,
        "mae": config.mae_weight,
        "tv": config.realspace_weight * config.tv_weight,
        "realspace_mae": config.realspace_weight * config.realspace_mae_weight,
    }
    return {term: weight for term, weight in weights.items() if weight}


def weighted_sum(terms: Iterable[tuple[float, Any]], zero: Any) -> Any:
    """`zero` plus each term times its weight, in their order."""
    total = zero
    for weight, value in terms:
        total = total + weight * value
    return total
