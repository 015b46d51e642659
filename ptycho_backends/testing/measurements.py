"""Measurements of a backend for one generated case: deviations with allowances in `agreement`."""

import itertools
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.protocol import Backend
from ptycho_backends.reference import model as reference
from ptycho_backends.testing import differences
from ptycho_backends.testing.agreement import (
    ALLOWANCES,
    assert_within,
    deviation,
    step_deviation,
    worst_deviation,
)
from ptycho_backends.testing.cases import Case
from ptycho_backends.testing.replay import replayed_steps
from ptycho_backends.testing.symmetries import Reordering
from ptycho_backends.values import Batch, Prediction

OUTPUTS = ("object", "amplitude", "intensity")

# A gradient jumps where rounding decides a ReLU or a maximum at its edge. A given order shows the jump by
# chance only, so more orders are tried if a few do not explain the error.
MOST_REORDERINGS = 24

DOUBLE = ExecutionConfig(accelerator="cpu", precision="64-true", enable_progress_bar=False)
SINGLE = ExecutionConfig(accelerator="cpu", precision="32-true", enable_progress_bar=False)


@dataclass(frozen=True)
class Effort:
    """Extent of the measurements for each case."""

    directions: int
    """Directions along which gradients are compared with difference quotients."""
    reorderings: int
    """Reorderings that measure the rounding of a float32 gradient; 0 for none."""
    steps: int
    """Training steps after the first; 0 for none."""


PROFILES: Mapping[str, Effort] = MappingProxyType(
    {
        "fast": Effort(directions=1, reorderings=0, steps=0),
        "ci": Effort(directions=1, reorderings=2, steps=5),
        "nightly": Effort(directions=4, reorderings=4, steps=5),
    }
)
PROFILE_CASES: Mapping[str, int] = MappingProxyType({"fast": 20, "ci": 60, "nightly": 300})
PROFILE_VERBS: Mapping[str, int] = MappingProxyType({"fast": 8, "ci": 24, "nightly": 300})
"""Cases of whole verbs."""


@dataclass(frozen=True)
class Measurement:
    """One deviation.

    Attributes
    ----------
    quantity : str
        Name of the compared quantity.
    allowance : str
        Its name in `ALLOWANCES`.
    subject : str
        The backend, or both.
    value : float, optional
        None if no judgement is possible; `where` then holds the reason.
    where : str
        The array, term or direction.
    """

    quantity: str
    allowance: str
    subject: str
    value: float | None
    where: str = ""

    @property
    def exceeded(self) -> bool:
        """True for a disagreement; NaN is one."""
        return self.value is not None and not self.value <= ALLOWANCES[self.allowance].bound


@dataclass
class Timings:
    """Seconds that each operation of each backend took, one number a call."""

    seconds: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def timed(self, subject: str, operation: str, function, *args, **kwargs):  # type: ignore[no-untyped-def]
        """`function(*args, **kwargs)`, its time noted."""
        started = time.perf_counter()
        result = function(*args, **kwargs)
        self.seconds[subject, operation].append(time.perf_counter() - started)
        return result


def measure(
    case: Case, backends: Mapping[str, Backend], effort: Effort, timings: Timings | None = None
) -> Iterator[Measurement]:
    """All measurements of `effort`: each backend against the reference, then each against each.

    Parameters
    ----------
    case : Case
    backends : mapping
        Names, for the report, to backends.
    effort : Effort
    timings : Timings, optional
        Receives the seconds.
    """
    timings = Timings() if timings is None else timings
    want = timings.timed("reference", "forward, float64", reference.predict,
                         case.config.model, case.weights, case.batch)  # fmt: skip
    losses = reference.loss(case.config, case.weights, case.batch)
    gradients: dict[str, dict[str, NDArray]] = {}
    steps: dict[str, dict[str, NDArray]] = {}
    walks: dict[str, dict[str, NDArray]] = {}
    slopes: list[tuple[str, dict[str, NDArray], differences.Slope]] = []
    batches = list(itertools.islice(case.batches(), effort.steps))
    for name, backend in backends.items():
        yield from outputs(name, backend, case, want, timings)
        yield from loss_terms(name, backend, case, losses)
        gradients[name] = timings.timed(name, "gradients, float64", backend.gradients,
                                        case.config, case.weights, case.batch, execution=DOUBLE)  # fmt: skip
        if not slopes:
            slopes = list(probed_slopes(case, gradients[name], effort.directions))
        yield from along_slopes(name, gradients[name], slopes)
        steps[name] = timings.timed(name, "step, float64", backend.train_step,
                                    case.config, case.weights, [case.batch], execution=DOUBLE)  # fmt: skip
        yield replayed(name, backend, case, steps[name])
        if batches:
            walks[name] = backend.train_step(case.config, case.weights, batches, execution=DOUBLE)
        if effort.reorderings:
            yield reordering_share(name, backend, case, gradients[name], effort.reorderings, timings)
    for one, other in itertools.combinations(backends, 2):
        yield from between(f"{one}, {other}", case, (gradients[one], gradients[other]),
                           (steps[one], steps[other]))  # fmt: skip
        if batches:
            pair = {name: backends[name] for name in (one, other)}
            yield five_steps(case, pair, (walks[one], walks[other]), batches)
    if len(backends) == 1:
        for name in walks:
            again = replayed_steps(backends[name], case.config, case.weights, batches, DOUBLE)
            error, where = step_deviation(walks[name], again, case.weights)
            yield Measurement("five steps against NumPy's Adam", "five steps, float64", name, error, where)


def outputs(
    name: str, backend: Backend, case: Case, want: Prediction, timings: Timings
) -> Iterator[Measurement]:
    """The three outputs in both precisions against the reference."""
    for execution, precision in ((DOUBLE, "float64"), (SINGLE, "float32")):
        got = timings.timed(name, f"forward, {precision}", backend.forward,
                            case.config.model, case.weights, case.batch, execution=execution)  # fmt: skip
        for output in OUTPUTS:
            error = deviation(getattr(got, output), getattr(want, output))
            yield Measurement(f"{output}, {precision}", f"outputs, {precision}", name, error)


def tf32_outputs(name: str, backend: Backend, case: Case) -> Iterator[Measurement]:
    """The outputs of a backend that may round to ten bits."""
    want = reference.predict(case.config.model, case.weights, case.batch)
    got = backend.forward(case.config.model, case.weights, case.batch, execution=SINGLE)
    for output in OUTPUTS:
        error = deviation(getattr(got, output), getattr(want, output))
        yield Measurement(f"{output}, TF32", "outputs, TF32", name, error)


def loss_terms(name: str, backend: Backend, case: Case, want: Mapping[str, float]) -> Iterator[Measurement]:
    """Every term of the loss against the reference."""
    got = backend.loss(case.config, case.weights, case.batch, execution=DOUBLE)
    error, where = worst_deviation(_arrays(got), _arrays(want))
    yield Measurement("loss, float64", "losses, float64", name, error, where)


def probed_slopes(
    case: Case, gradients: Mapping[str, NDArray], count: int
) -> Iterator[tuple[str, dict[str, NDArray], differences.Slope]]:
    """Slopes of the reference's loss until `count` are certain: name, direction, slope."""
    found = list(differences.directions(gradients, case.weights, case.seed))
    # cases start at different directions, so that all directions occur even with a `count` of 1
    turn = case.seed % len(found)
    certain = 0
    for title, direction in found[turn:] + found[:turn]:
        if certain == count:
            return
        slope = differences.slope(case.config, case.weights, case.batch, direction)
        certain += slope.certain
        yield title, direction, slope


def along_slopes(
    name: str,
    gradients: Mapping[str, NDArray],
    slopes: Sequence[tuple[str, Mapping[str, NDArray], differences.Slope]],
) -> Iterator[Measurement]:
    """Derivatives along each direction according to the gradients, against the slopes found there."""
    for title, direction, slope in slopes:
        promised = differences.along(gradients, direction)
        error: float | None = abs(promised - slope.value) / max(abs(slope.value), np.finfo(float).tiny)
        if promised == slope.value == 0.0:
            error = 0.0
        elif not slope.certain:
            error, title = None, f"{title}: the quotients differ among themselves by {slope.uncertainty:.0e}"
        yield Measurement("gradient along a direction", "gradients against differences", name, error, title)


def replayed(name: str, backend: Backend, case: Case, step: Mapping[str, NDArray]) -> Measurement:
    """One optimiser step against Adam in NumPy, fed with the same backend's gradients."""
    again = replayed_steps(backend, case.config, case.weights, [case.batch], DOUBLE)
    error, where = step_deviation(step, again, case.weights)
    return Measurement("step against NumPy's Adam", "one step, float64", name, error, where)


def reordering_share(
    name: str, backend: Backend, case: Case, exact: Mapping[str, NDArray], count: int, timings: Timings
) -> Measurement:
    """Error of the float32 gradient, over the largest change that reordering its sums makes to it."""
    single = timings.timed(name, "gradients, float32", backend.gradients,
                           case.config, case.weights, case.batch, execution=SINGLE)  # fmt: skip
    error, change = _distance(single, exact, exact), 0.0
    for number in range(MOST_REORDERINGS):
        order = Reordering(
            case.config.model,
            case.groups,
            case.seed + number,
            transposed=number % 2 == 0,
            repeats=1 + number % 3,
        )
        again = backend.gradients(
            case.config, order.weights(case.weights), order.batch(case.batch), execution=SINGLE
        )
        change = max(change, _distance(order.weights_back(again), single, exact))
        if number + 1 >= count and error <= change * ALLOWANCES["gradients, float32"].bound:
            break
    ratio = 0.0 if error == 0.0 else error / change if change > 0 else np.inf
    return Measurement(
        "gradient, float32", "gradients, float32", name, ratio, f"error {error:.1e}, reordering {change:.1e}"
    )


def between(
    subject: str,
    case: Case,
    gradients: tuple[Mapping[str, NDArray], Mapping[str, NDArray]],
    steps: tuple[Mapping[str, NDArray], Mapping[str, NDArray]],
) -> Iterator[Measurement]:
    """Two backends against each other."""
    error, where = worst_deviation(*gradients)
    yield Measurement("gradient, float64", "gradients, float64", subject, error, where)
    settled = [_settled(step, gradients[0], case.weights) for step in steps]
    error, where = step_deviation(settled[0], settled[1], case.weights)
    yield Measurement("one step, float64", "one step, float64", subject, error, where)


def five_steps(
    case: Case,
    backends: Mapping[str, Backend],
    walks: tuple[Mapping[str, NDArray], Mapping[str, NDArray]],
    batches: Sequence[Batch],
) -> Measurement:
    """Two backends against each other after several steps; or relative to the effect of reordering.

    Where batch normalisation cancels the scale of a gate, a weight's gradient may be zero but for rounding, and
    Adam makes a whole step of it. Such a case is judged by the effect that reordering has on each backend.
    """
    subject = ", ".join(backends)
    error, where = step_deviation(walks[0], walks[1], case.weights)
    if not case.batch_norm or error <= ALLOWANCES["five steps, float64"].bound:
        return Measurement("five steps, float64", "five steps, float64", subject, error, where)
    change = 0.0
    for number, (backend, walk) in itertools.product(range(2), zip(backends.values(), walks, strict=True)):
        order = Reordering(
            case.config.model, case.groups, case.seed + number, transposed=number == 0, repeats=1
        )
        again = backend.train_step(
            case.config, order.weights(case.weights), [order.batch(batch) for batch in batches],
            execution=DOUBLE,
        )  # fmt: skip
        change = max(change, step_deviation(order.weights_back(again), walk, case.weights)[0])
    ratio = error / change if change > 0 else np.inf
    where = f"{where}: error {error:.1e}, reordering {change:.1e}"
    return Measurement("five steps over reordering", "five steps, reordered", subject, ratio, where)


def _settled(
    step: Mapping[str, NDArray], gradients: Mapping[str, NDArray], start: Mapping[str, NDArray]
) -> dict[str, NDArray]:
    """`step`, with weights of negligible gradient kept at `start`.

    Adam's first step is g / (|g| + 1e-7). Where |g| is within the allowance of gradients, the step consists of
    their deviation, which is judged already.
    """
    settled = {}
    for name, gradient in gradients.items():
        smallest = ALLOWANCES["gradients, float64"].bound * np.linalg.norm(gradient.ravel())
        after, before = np.array(step[name]), np.asarray(start[name])
        views = (("real", "imag") if np.iscomplexobj(after) else ("real",)) if smallest > 0 else ()
        for view in views:
            unclear = np.abs(getattr(gradient, view)) <= smallest
            getattr(after, view)[unclear] = getattr(before, view)[unclear]
        settled[name] = after
    return settled


def _distance(got: Mapping[str, NDArray], want: Mapping[str, NDArray], scale: Mapping[str, NDArray]) -> float:
    """Root mean square over the weights of `|got - want| / |scale|`, so that every weight counts alike."""
    ratios = []
    for name, size in scale.items():
        norm = float(np.linalg.norm(size.ravel()))
        if norm > 0:
            apart = np.asarray(got[name], np.complex128) - np.asarray(want[name], np.complex128)
            ratios.append(float(np.linalg.norm(apart.ravel())) / norm)
    return float(np.sqrt(np.mean(np.square(ratios)))) if ratios else 0.0


def _arrays(values: Mapping[str, float]) -> dict[str, NDArray]:
    return {name: np.asarray(value, np.float64) for name, value in values.items()}


def require_agreement(measurements: Iterable[Measurement]) -> None:
    """Raise `Disagreement` for the first of `measurements` that is beyond its allowance."""
    for one in measurements:
        if one.value is not None:
            assert_within(f"{one.subject}: {one.quantity}", one.value, one.allowance, one.where)
