"""Directional derivatives of the reference loss by central differences, with an estimate of their error.

The reference states the loss, not its gradient; this is how a gradient is held against it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import TrainingConfig
from ptycho_backends.initial_weights import LOG_SCALE, PROBE
from ptycho_backends.protocol import Batch, Weights
from ptycho_backends.reference import model as reference

# Steps along a direction of which every array is as long as the weight it moves: from where the next
# term of the Taylor series is the error to where rounding is.
STEPS = tuple(2.0**-k for k in range(12, 25, 2))

# A derivative this certain needs no further steps.
CERTAIN = 2e-8


@dataclass(frozen=True)
class Slope:
    """A directional derivative and the relative error that the difference quotient owns up to."""

    value: float
    uncertainty: float


def slope(config: TrainingConfig, weights: Weights, batch: Batch, direction: Mapping[str, NDArray]) -> Slope:
    """Derivative of the reference's total loss along `direction`, in float64.

    Central differences at falling steps, each pair improved by Richardson's extrapolation. Of neighbouring
    estimates the closest two are believed, and their distance is the uncertainty: large steps suffer from
    the next term of the series and from ReLUs that switch, small ones from rounding.
    """
    origin = reference.in_double(weights)

    def loss_at(step: float) -> float:
        moved = {name: origin[name] + step * direction[name] for name in direction}
        return reference.loss(config, {**origin, **moved}, batch)["total"]

    best = Slope(0.0, np.inf)
    quotients: list[float] = []
    estimates: list[float] = []
    for step in STEPS:
        quotients.append((loss_at(step) - loss_at(-step)) / (2 * step))
        if len(quotients) > 1:
            # steps fall by 4, so the quadratic term by 16
            estimates.append((16 * quotients[-1] - quotients[-2]) / 15)
        if len(estimates) > 1:
            apart = abs(estimates[-1] - estimates[-2])
            uncertainty = apart / max(abs(estimates[-1]), np.finfo(float).tiny)
            if uncertainty < best.uncertainty:
                best = Slope(estimates[-1], uncertainty)
        if best.uncertainty < CERTAIN:
            break
    return best


def along(gradients: Mapping[str, NDArray], direction: Mapping[str, NDArray]) -> float:
    """The derivative along `direction` that `gradients` promise; complex ones are `dL/dRe + i dL/dIm`."""
    return float(sum(np.real(np.vdot(gradients[name], move)) for name, move in direction.items()))


def directions(
    gradients: Mapping[str, NDArray], weights: Weights, seed: int
) -> Iterator[tuple[str, dict[str, NDArray]]]:
    """Directions to probe a gradient along, by name: the whole network, the probe, the scale, one layer.

    Half of each is drawn at random and half follows the gradient, so that the derivative is not a small
    difference of large contributions. Each array moves in proportion to the size of the weight.
    """
    generator = np.random.default_rng([seed, 3])
    network = [name for name in weights if name not in (PROBE, LOG_SCALE)]
    moves = {}
    for name, value in weights.items():
        noise = generator.normal(size=value.shape)
        if np.iscomplexobj(value):
            noise = noise + 1j * generator.normal(size=value.shape)
        size = float(np.linalg.norm(np.asarray(value).ravel()))
        moves[name] = size * (_unit(noise) + _unit(gradients[name]))
    # a direction of one number has nothing to draw, and opposite signs would cancel
    moves[LOG_SCALE] = np.ones(())
    layer = network[int(generator.integers(len(network)))]
    for title, names in (
        ("network", network), (PROBE, [PROBE]), (LOG_SCALE, [LOG_SCALE]), (layer, [layer]),
    ):  # fmt: skip
        yield title, {name: moves[name] for name in names}


def _unit(array: NDArray) -> NDArray:
    norm = float(np.linalg.norm(np.asarray(array).ravel()))
    return np.asarray(array) / norm if norm > 0 else np.zeros_like(array)
