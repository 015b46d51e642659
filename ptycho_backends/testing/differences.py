"""Directional derivatives of the reference loss by central differences, with an estimate of their error.

The reference states the loss, not its gradient; these derivatives are the standard for gradients.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import TrainingConfig
from ptycho_backends.reference import model as reference
from ptycho_backends.reference.initial_weights import LOG_SCALE, PROBE
from ptycho_backends.values import Batch, Weights

# Steps along a direction whose arrays have the norms of the weights that they change.
ROUGH_STEP = 2.0**-16
SMALLEST_STEP, LARGEST_STEP = 2.0**-37, 2.0**-12

# Roundings of the loss, relative to it: it is a mean of numbers that are exact to a few units.
LOSS_ROUNDING = 3e-16

# Fraction of rounding in the difference quotient, for the choice of the step. A shorter step would round more;
# a longer one meets more ReLUs that switch, each of which bends the loss.
ROUNDING_FRACTION = 1e-7

# The difference of two quotients' halves has so many roundings of a quotient.
BEND_ROUNDINGS = 4.0

# Three quotients at neighbouring steps that agree so well are believed.
CERTAIN = 2e-7


@dataclass(frozen=True)
class Slope:
    """A directional derivative and the estimated relative error of its difference quotient."""

    value: float
    uncertainty: float

    @property
    def certain(self) -> bool:
        """True if the uncertainty is small enough to judge a gradient."""
        return self.uncertainty <= CERTAIN


def slope(config: TrainingConfig, weights: Weights, batch: Batch, direction: Mapping[str, NDArray]) -> Slope:
    """Derivative of the reference's total loss along `direction`, in float64.

    Central differences. The first step is the shortest at which rounding is `ROUNDING_FRACTION` of the quotient:
    the loss has a bend wherever a ReLU switches, so steps must be short. Other steps are tried until the
    quotients of three neighbouring steps agree, without the sign of a close bend between their two halves. What no
    gradient goes through is held.
    """
    origin = reference.in_double(weights)

    def loss_at(step: float) -> float:
        moved = {name: origin[name] + step * direction[name] for name in direction}
        return reference.loss(config, {**origin, **moved}, batch, steps_with=origin)["total"]

    here = loss_at(0.0)

    def quotients(step: float) -> tuple[float, float]:
        """The central quotient, and the forward quotient minus the backward one."""
        ahead, behind = loss_at(step), loss_at(-step)
        return (ahead - behind) / (2 * step), ((ahead - here) - (here - behind)) / step

    size, rough = abs(here), abs(quotients(ROUGH_STEP)[0])
    if rough <= LOSS_ROUNDING * size / ROUGH_STEP:
        # rounding alone: the loss hardly depends on these weights, if at all
        return Slope(0.0, np.inf if rough else 0.0)
    step = float(np.clip(LOSS_ROUNDING * size / rough / ROUNDING_FRACTION, SMALLEST_STEP, LARGEST_STEP))
    # quotients that are mostly rounding may agree by chance
    rounding = LOSS_ROUNDING * size / rough / step
    best, found = Slope(0.0, np.inf), {factor: quotients(factor * step) for factor in (1.0, 2.0)}
    for factor in (0.5, 4.0, 8.0, 0.25):
        found[factor] = quotients(factor * step)
        first = min(factor, max(found) / 4)
        three = [found[first * double][0] for double in (1, 2, 4)]
        scale = max(abs(three[0]), np.finfo(float).tiny)
        # the halves of a smooth curve differ in proportion to the step; at a bend closer than the step they differ
        # by a constant
        bend = abs(2 * found[first][1] - found[2 * first][1]) / 2
        bend = max(bend / scale - BEND_ROUNDINGS * rounding / first, 0.0)
        apart = max((max(three) - min(three)) / scale, bend, rounding)
        if apart < best.uncertainty:
            best = Slope(float(np.mean(three)), apart)
        if best.certain:
            break
    return best


def along(gradients: Mapping[str, NDArray], direction: Mapping[str, NDArray]) -> float:
    """Derivative along `direction` according to `gradients`; complex ones are `dL/dRe + i dL/dIm`."""
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
    # one number has one direction only; a drawn sign could cancel the gradient's
    moves[LOG_SCALE] = np.ones(())
    layer = network[int(generator.integers(len(network)))]
    for title, names in (
        ("network", network), (PROBE, [PROBE]), (LOG_SCALE, [LOG_SCALE]), (layer, [layer]),
    ):  # fmt: skip
        yield title, {name: moves[name] for name in names}


def _unit(array: NDArray) -> NDArray:
    norm = float(np.linalg.norm(np.asarray(array).ravel()))
    return np.asarray(array) / norm if norm > 0 else np.zeros_like(array)
