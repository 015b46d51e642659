"""Agreement of two results: one measure, one table of allowances, one assertion.

The measure is the relative 2-norm, `|got - want| / |want|`: the measure of error propagation, and robust to
single pixels near zero.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Allowance:
    """Largest allowed deviation of a quantity, with its reason."""

    bound: float
    reason: str
    unit: str = "relative 2-norm"


# Roundings below are units of the last place: 1.1e-16 in float64, 6e-8 in float32.
ALLOWANCES: Mapping[str, Allowance] = MappingProxyType(
    {
        "outputs, float64": Allowance(
            1e-11, "two dozen layers, each a sum of up to 4608 products, amplify one rounding 1e5 times at most"
        ),
        "losses, float64": Allowance(
            1e-11, "a mean of as many terms as the outputs have; every term as exact as they are"
        ),
        "gradients, float64": Allowance(
            1e-8, "measured intensity over predicted: where the prediction is nearly zero the quotient "
            "magnifies the outputs' rounding a thousandfold"
        ),
        "gradients against differences": Allowance(
            1e-6, "the difference quotient itself: a ReLU may switch within a step, and a shorter step rounds more"
        ),
        "one step, float64": Allowance(
            1e-7, "Adam's first step is g / (|g| + 1e-7): as exact as the gradient; weights whose gradient is "
            "within its own allowance of zero are set aside",
            "difference over the length of the step",
        ),
        "five steps, float64": Allowance(
            1e-4, "training is chaotic: each step passes a deviation on, magnified",
            "difference over the length of the steps",
        ),
        "five steps, reordered": Allowance(
            3.0, "only where batch normalisation cancels the scale of a gate and five steps are beyond theirs: a "
            "gradient that is zero but for rounding makes a whole step of Adam's, in either framework alone too",
            "difference over the one that reordering alone causes",
        ),
        "outputs, float32": Allowance(
            2e-5, "the float64 figure in roundings of float32: what users get"
        ),
        "outputs, inputs rounded": Allowance(
            10.0, "only where outputs in float32 are beyond theirs, as a badly conditioned network's: float32 rounds "
            "after each of some hundred operations, and independent roundings add up as the root of their number",
            "difference over the one that a single rounding of patterns and weights causes",
        ),
        "outputs, TF32": Allowance(
            0.16, "the float32 figure in roundings of ten bits instead of 23, which the convolutions may do on request"
        ),
        "gradients, float32": Allowance(
            3.0, "the Poisson gradient is ill-conditioned, so the yardstick is the framework's own deviation "
            "when it sums in another order; three is the spread of such a deviation between draws",
            "error over the deviation that reordering alone causes",
        ),
        "stages, float64": Allowance(1e-12, "one stage is one sum or one transform, not a chain of them"),
        "stages, float32": Allowance(2e-6, "the same in roundings of float32"),
        "refinement, float64": Allowance(
            1e-11, "one step is a handful of transforms and sums; the quotient of measured and predicted amplitude "
            "magnifies their rounding where the prediction is small"
        ),
        "refinement, float32": Allowance(
            2e-5, "the same in roundings of float32, of which positions on the canvas have a few dozen"
        ),
        "twenty passes, float64": Allowance(
            1e-8, "each pass hands the rounding of a step on, and slow components forget it over many passes"
        ),
        "twenty passes, float32": Allowance(
            1e-3, "the same in roundings of float32; components with a thousandth of the light move by them"
        ),
        "refined image, float64": Allowance(1e-6, "a refined image comes back as complex64"),
        "refined image, float32": Allowance(1e-3, "as twenty passes in float32"),
        "laws, float64": Allowance(
            1e-11, "laws hold exactly in real numbers; what is left is the outputs' rounding"
        ),
        "training, float64": Allowance(
            1e-4, "a handful of steps, as five steps; and the weights come back as float32"
        ),
        "training, float32": Allowance(
            3.0, "as gradients, float32, over the steps of a whole training; float32 is not judged more finely than "
            "2 % of the way that the weights go, and 0.1 % of a loss",
            "error over the deviation that reordering alone causes",
        ),
        "losses, float32": Allowance(
            2e-4, "the Poisson likelihood is a difference of terms that are ten times as large, each as exact as the "
            "outputs"
        ),
        "verbs, exactly": Allowance(
            0.0, "counts, rates, scales and all that a verb may not touch are copied, not computed",
            "any difference",
        ),
        "image, float64": Allowance(1e-6, "patches and image come back as complex64"),
        "image, float32": Allowance(2e-5, "a weighted mean of float32 outputs is as exact as they are"),
        "stitched image": Allowance(2e-5, "a weighted mean of float32 outputs is as exact as they are"),
        "grouped data": Allowance(0.0, "grouping is NumPy code that every backend shares", "any difference"),
        "round trip": Allowance(0.0, "an archive stores the bits", "any difference"),
    }
)  # fmt: skip


class Disagreement(AssertionError):
    """Two results that should agree do not; the text names quantity, error, place and allowance."""


def deviation(got: ArrayLike, want: ArrayLike) -> float:
    """`|got - want| / |want|` in the 2-norm; infinite for NaN, another shape or another kind of number.

    If `want` is zero everywhere: 0 if `got` is too, else infinite.
    """
    got, want = np.asarray(got), np.asarray(want)
    if _misfit(got, want):
        return math.inf
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    difference, size = np.linalg.norm((got.astype(wide) - want.astype(wide)).ravel()), _norm(want)
    if not math.isfinite(difference):
        return math.inf
    if size == 0.0:
        return 0.0 if difference == 0.0 else math.inf
    return float(difference / size)


def worst_deviation(got: Mapping[str, NDArray], want: Mapping[str, NDArray]) -> tuple[float, str]:
    """The largest `deviation` over named arrays, and its name; infinite where names differ."""
    if set(got) != set(want):
        return math.inf, "names: " + ", ".join(sorted(set(got) ^ set(want)))
    return max((deviation(got[name], want[name]), name) for name in want)


def step_deviation(
    got: Mapping[str, NDArray], want: Mapping[str, NDArray], start: Mapping[str, NDArray]
) -> tuple[float, str]:
    """Difference of two trained sets of weights over the length of the way from `start`, worst array.

    A weight that stays unchanged must do so in both.
    """
    if set(got) != set(want):
        return math.inf, "names: " + ", ".join(sorted(set(got) ^ set(want)))
    origin: dict[str, NDArray] = {name: np.asarray(start[name], _wide(start[name])) for name in want}
    return worst_deviation(
        {name: np.asarray(got[name]) - origin[name] for name in want},
        {name: np.asarray(want[name]) - origin[name] for name in want},
    )


def assert_agrees(quantity: str, got: ArrayLike, want: ArrayLike, allowance: str | Allowance) -> None:
    """Raise `Disagreement` unless `got` is within `allowance` of `want`.

    Parameters
    ----------
    quantity : str
        Name of the compared quantity, for the message.
    got, want : arrays
        Of one shape and one kind of number (real, complex, integer).
    allowance : str or Allowance
        A name in `ALLOWANCES`, or one made for the occasion.
    """
    allowed = ALLOWANCES[allowance] if isinstance(allowance, str) else allowance
    got, want = np.asarray(got), np.asarray(want)
    problem = _misfit(got, want)
    if problem:
        raise Disagreement(f"{quantity}: {problem}")
    error = deviation(got, want)
    if not error <= allowed.bound:
        raise Disagreement(
            f"{quantity}: deviates by {error:.3g} ({allowed.unit}), allowed are {allowed.bound:.3g} "
            f"({allowed.reason}); farthest {_place(got, want)}"
        )


def assert_within(quantity: str, error: float, allowance: str | Allowance, where: str = "") -> None:
    """Raise `Disagreement` unless the measured `error` is within `allowance`."""
    allowed = ALLOWANCES[allowance] if isinstance(allowance, str) else allowance
    if not error <= allowed.bound:
        place = f"; at {where}" if where else ""
        raise Disagreement(
            f"{quantity}: deviates by {error:.3g} ({allowed.unit}), allowed are {allowed.bound:.3g} "
            f"({allowed.reason}){place}"
        )


def assert_all_agree(
    quantity: str, got: Mapping[str, NDArray], want: Mapping[str, NDArray], allowance: str | Allowance
) -> None:
    """`assert_agrees` for every one of several named arrays; the names must be the same."""
    if set(got) != set(want):
        raise Disagreement(f"{quantity}: got {sorted(got)}, want {sorted(want)}")
    for name in want:
        assert_agrees(f"{quantity}: {name}", got[name], want[name], allowance)


def _wide(array: ArrayLike) -> type:
    return np.complex128 if np.iscomplexobj(array) else np.float64


def _norm(array: NDArray) -> float:
    return float(np.linalg.norm(array.astype(_wide(array)).ravel()))


def _misfit(got: NDArray, want: NDArray) -> str:
    """Reason why the two cannot be compared, or an empty text."""
    if got.shape != want.shape:
        return f"got shape {got.shape}, want {want.shape}"
    kinds = "iu" if want.dtype.kind in "iu" else want.dtype.kind
    if got.dtype.kind not in kinds:
        return f"got dtype {got.dtype}, want the kind of {want.dtype}"
    bad = got.size - int(np.count_nonzero(np.isfinite(got)))
    if bad:
        first = np.unravel_index(int(np.argmin(np.isfinite(got))), got.shape)
        return f"{bad} of {got.size} values are NaN or infinite, the first at {_index(first)}"
    return ""


def _place(got: NDArray, want: NDArray) -> str:
    if got.ndim == 0:
        return f"got {got:.9g}, want {want:.9g}"
    distance = np.abs(got.astype(_wide(got)) - want.astype(_wide(want)))
    worst = np.unravel_index(int(np.argmax(distance)), got.shape)
    return f"at {_index(worst)} of {got.shape}: got {got[worst]:.9g}, want {want[worst]:.9g}"


def _index(place: tuple[np.intp, ...]) -> str:
    return "[" + ", ".join(str(int(i)) for i in place) + "]"
