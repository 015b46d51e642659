"""Hypothesis strategies: configurations, scans, groups, weights, batches, and small arrays for single stages.

Bounded on purpose: draws stay within the range of a beamline, and failures shrink to a readable example.
Whole models are drawn as `Case`s, whose `repr` makes them again.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.scans.grouping import GroupedData, group_scan
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.testing.cases import FIELD_VALUES, OWN_VALUES, Case, within_reason
from ptycho_backends.testing.verb_cases import VERB_VALUES, VerbCase, coherent
from ptycho_backends.values import Batch

# Multiples of 1/16 up to 4: short when printed, and exact in float32.
SIXTEENTHS = st.integers(-64, 64).map(lambda k: k / 16)


def _field(name: str, values: Sequence[Any], fixed: dict[str, Any]) -> st.SearchStrategy[Any]:
    return st.just(fixed[name]) if name in fixed else st.sampled_from(values)


@st.composite
def cases(draw: st.DrawFn, **fixed: Any) -> Case:
    """Whole cases; `fixed` fields are taken as given."""
    fields = {name: draw(_field(name, values, fixed), label=name) for name, values in FIELD_VALUES.items()}
    own = OWN_VALUES[fields["architecture"]]
    fields |= {name: draw(_field(name, values, fixed), label=name) for name, values in own.items()}
    fields = {**within_reason(fields), **fixed}
    seed = fixed["seed"] if "seed" in fixed else draw(st.integers(0, 9999), label="seed")
    return Case(**{**fields, "seed": seed})


@st.composite
def verb_cases(draw: st.DrawFn, **fixed: Any) -> VerbCase:
    """Whole trainings with everything about their run, and reconstructions; `fixed` fields are taken as given."""
    fields = {name: draw(_field(name, values, fixed), label=name) for name, values in VERB_VALUES.items()}
    fields = {**coherent(fields), **fixed}
    seed = fixed["seed"] if "seed" in fixed else draw(st.integers(0, 9999), label="seed")
    return VerbCase(**{**fields, "seed": seed})


def training_configs(**fixed: Any) -> st.SearchStrategy[TrainingConfig]:
    """Valid training configurations, every mixture of losses among them."""
    return cases(**fixed).map(lambda case: case.config)


def model_configs(**fixed: Any) -> st.SearchStrategy[ModelConfig]:
    """Valid models: every N, gridsize 1 to 3, every activation, every switch."""
    return training_configs(**fixed).map(lambda config: config.model)


def weights(**fixed: Any) -> st.SearchStrategy[dict[str, NDArray]]:
    """Weights of a model, perturbed off their special first values."""
    return cases(**fixed).map(lambda case: case.weights)


def batches(**fixed: Any) -> st.SearchStrategy[Batch]:
    """Batches of one to three groups with ground truth."""
    return cases(**fixed).map(lambda case: case.batch)


@st.composite
def scans(draw: st.DrawFn, N: int = 64) -> Scan:
    """Small simulated scans of 10 to 30 positions, counted or expected photons."""
    return simulate_star(
        N,
        draw(st.integers(10, 30), label="positions"),
        pattern=draw(st.sampled_from(["spiral", "raster"]), label="pattern"),
        n_photons=draw(st.sampled_from([1e4, 1e6]), label="n_photons"),
        measurement=draw(st.sampled_from(["intensity", "amplitude"]), label="measurement"),
        seed=draw(st.integers(0, 99), label="seed"),
    )


@st.composite
def groups(draw: st.DrawFn, N: int = 64) -> GroupedData:
    """A small scan in groups of 1, 4 or 9, some of them oversampled."""
    scan = draw(scans(N))
    gridsize = draw(st.integers(1, 3), label="gridsize")
    count = draw(st.integers(1, 2 * len(scan)), label="n_groups")
    return group_scan(
        scan,
        gridsize=gridsize,
        n_groups=count,
        neighbor_count=max(4, gridsize**2) + draw(st.integers(0, 3), label="more neighbours"),
        enable_oversampling=True,
        neighbor_pool_size=12,
        sequential_sampling=draw(st.booleans(), label="sequential_sampling"),
        seed=draw(st.integers(0, 99), label="seed"),
    )


def real_arrays(shape: tuple[int, ...]) -> st.SearchStrategy[NDArray]:
    """Float64 arrays of sixteenths."""
    return arrays.arrays(np.float64, shape, elements=SIXTEENTHS)


@st.composite
def complex_arrays(draw: st.DrawFn, shape: tuple[int, ...]) -> NDArray:
    """Complex128 arrays whose parts are sixteenths."""
    return draw(real_arrays(shape)) + 1j * draw(real_arrays(shape))


def images(leading: tuple[int, ...] = (), sides: tuple[int, ...] = (4, 6, 10)) -> st.SearchStrategy[NDArray]:
    """Square complex images `[y, x]` with these leading axes."""
    return st.sampled_from(sides).flatmap(lambda side: complex_arrays((*leading, side, side)))


def offsets(leading: tuple[int, ...] = (), largest_px: int = 8) -> st.SearchStrategy[NDArray]:
    """Offsets `[x, y]` in pixels, whole ones and fractions, some of them beyond a small image."""
    bound = 16 * largest_px
    return arrays.arrays(np.float64, (*leading, 2), elements=st.integers(-bound, bound).map(lambda k: k / 16))
