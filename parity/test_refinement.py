"""Every function of `refinement` on each framework against the reference; its laws; and whole refinements."""

import dataclasses
import functools
import zlib
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_backends import constants
from ptycho_backends.reference import refinement as reference
from ptycho_backends.refinement.plan import plan_refinement
from ptycho_backends.refinement.refine import Refinement
from ptycho_backends.testing.agreement import assert_agrees
from ptycho_backends.testing.measurements import DOUBLE, SINGLE, require_agreement
from ptycho_backends.testing.refinement_measurements import (
    REFINEMENTS,
    RefinementCase,
    StageArrays,
    measure_refinement,
)
from ptycho_backends.values import ChunkSums, PassSettings

PRECISIONS = pytest.mark.parametrize("precision", ["float64", "float32"])
LIKELIHOODS = st.sampled_from(["amplitude", "poisson"])


@st.composite
def chunks(draw: st.DrawFn) -> StageArrays:
    """Arrays of a chunk: any even side, one to three modes, some pixels not valid, some held out."""
    return StageArrays(
        draw(st.integers(0, 9999), label="seed"),
        draw(st.sampled_from([16, 18, 22, 32]), label="side"),
        draw(st.integers(1, 3), label="modes"),
        draw(st.integers(1, 4), label="count"),
        held_out=draw(st.booleans(), label="held_out"),
    )


def compare(adapter, stage, precision, *arguments, **options):
    # the reference adds to the canvas that it is given
    copies = [one.copy() if isinstance(one, np.ndarray) else one for one in arguments]
    want = getattr(reference, stage)(*copies, **options)
    got = adapter.call(f"refinement.{stage}", *arguments, precision=precision, **options)
    if isinstance(want, ChunkSums):
        fields = {name: value for name, value in vars(want).items() if value is not None}
        assert set(got) == set(fields)
        pairs = [(name, got[name], fields[name]) for name in fields]
    elif isinstance(want, tuple):
        pairs = [(f"result {number}", *pair) for number, pair in enumerate(zip(got, want, strict=True))]
    else:
        pairs = [("result", got, want)]
    for name, one, other in pairs:
        assert_agrees(f"{adapter.name}: {stage}, {name}", one, other, f"refinement, {precision}")


# --- single stages


@PRECISIONS
@given(chunk=chunks())
def test_views(adapter, precision, chunk):
    given_ = chunk.canvas, chunk.corners, chunk.fractions, chunk.side
    compare(adapter, "views", precision, *given_)
    compare(adapter, "view_slopes", precision, *given_)
    compare(adapter, "spread", precision, chunk.waves[:, 0], chunk.corners, chunk.fractions, chunk.canvas)
    compare(
        adapter, "illumination", precision, chunk.corners, chunk.fractions, chunk.probe, chunk.canvas.shape
    )


@PRECISIONS
@given(chunk=chunks())
def test_pixel_weights(adapter, precision, chunk):
    compare(adapter, "pixel_weights", precision, chunk.valid, chunk.classes, chunk.numbers, chunk.class_count)


@PRECISIONS
@given(chunk=chunks(), likelihood=LIKELIHOODS)
def test_modulus_change(adapter, precision, chunk, likelihood):
    weights, held_out = chunk.weights
    compare(adapter, "modulus_change", precision, chunk.waves, chunk.measured, weights, likelihood)
    compare(
        adapter, "residual_sums", precision, chunk.measured, np.abs(chunk.waves[:, 0]) * 2, weights, held_out
    )


@PRECISIONS
@given(chunk=chunks(), likelihood=LIKELIHOODS, with_probe=st.booleans(), with_positions=st.booleans())
def test_chunk_sums(adapter, precision, chunk, likelihood, with_probe, with_positions):
    compare(
        adapter, "chunk_sums", precision, chunk.canvas, chunk.probe, chunk.measured, *chunk.weights,
        chunk.corners, chunk.fractions, np.flip(chunk.canvas).copy(), likelihood,
        with_probe=with_probe, with_positions=with_positions,
    )  # fmt: skip


@PRECISIONS
@given(chunk=chunks(), edge=st.sampled_from([0.01, 0.07, 1.0]))
def test_roughness(adapter, precision, chunk, edge):
    compare(adapter, "differences", precision, chunk.canvas)
    compare(adapter, "differences_adjoint", precision, chunk.canvas, np.flip(chunk.canvas).copy())
    compare(adapter, "roughness", precision, chunk.canvas, edge)


@given(chunk=chunks(), width=st.floats(1, 20), strength=st.floats(0.01, 40), floor=st.floats(0.01, 0.5))
def test_slow_gain(adapter, chunk, width, strength, floor):
    compare(adapter, "slow_gain", "float64", chunk.canvas.shape, width, strength, floor)


@PRECISIONS
@given(chunk=chunks(), smoothness=st.sampled_from([0.0, 3.0]), slow=st.booleans())
def test_steps(adapter, precision, chunk, smoothness, slow):
    light = reference.illumination(chunk.corners, chunk.fractions, chunk.probe, chunk.canvas.shape)
    gain = reference.slow_gain(chunk.canvas.shape, 5.0, 2.5, 0.1) if slow else None
    settings = PassSettings(damping=0.1, smoothness=smoothness, step=0.5)
    numerator = np.flip(chunk.canvas).copy()
    compare(adapter, "object_step", precision, chunk.canvas, numerator, light, gain, 0.25, settings)
    denominator = chunk.measured[0] ** 2
    compare(adapter, "probe_step", precision, chunk.probe, chunk.probe[::-1].copy(), denominator)


# --- laws: true whoever computes it


def inner(one, other):
    return float(np.real(np.vdot(one, other)))


@given(chunk=chunks())
def test_spreading_is_the_adjoint_of_viewing(adapter, chunk):
    place = chunk.corners, chunk.fractions
    images = chunk.waves[:, 0]
    seen = adapter.call("refinement.views", chunk.canvas, *place, chunk.side)
    back = adapter.call("refinement.spread", images, *place, np.zeros_like(chunk.canvas))
    size = np.linalg.norm(seen) * np.linalg.norm(images)
    assert abs(inner(seen, images) - inner(chunk.canvas, back)) <= 1e-13 * size


@given(chunk=chunks())
def test_differences_and_their_adjoint(adapter, chunk):
    others = np.flip(chunk.canvas).copy(), chunk.canvas.conj()
    # differences are zero there, and so is everything that the adjoint is used on
    others[0][:, -1] = others[1][-1] = 0
    by = adapter.call("refinement.differences", chunk.canvas)
    back = adapter.call("refinement.differences_adjoint", *others)
    size = np.linalg.norm(chunk.canvas) ** 2
    assert abs(inner(by[0], others[0]) + inner(by[1], others[1]) - inner(chunk.canvas, back)) <= 1e-13 * size


@given(chunk=chunks())
def test_slopes_are_differences_of_views(adapter, chunk):
    """A bilinear view is linear in each fraction, so that its difference quotient is exact."""
    fractions = 0.2 + 0.5 * chunk.fractions
    _, by_x, by_y = adapter.call("refinement.view_slopes", chunk.canvas, chunk.corners, fractions, chunk.side)
    for axis, slope in ((0, by_x), (1, by_y)):
        step = np.zeros(2)
        step[axis] = 0.125
        ahead, behind = (
            adapter.call("refinement.views", chunk.canvas, chunk.corners, fractions + sign * step, chunk.side)
            for sign in (1, -1)
        )
        assert_agrees(f"slope by axis {axis}", slope, (ahead - behind) / 0.25, "laws, float64")


@given(chunk=chunks())
def test_light_is_the_spread_intensity(adapter, chunk):
    """The convolution of `illumination` equals the adjoint of `views`, applied to the probe's intensity."""
    shape = chunk.canvas.shape
    light = adapter.call("refinement.illumination", chunk.corners, chunk.fractions, chunk.probe, shape)
    intensity = np.sum(np.abs(chunk.probe) ** 2, axis=0)
    images = np.repeat(intensity[None], chunk.count, axis=0).astype(np.complex128)
    spread = adapter.call(
        "refinement.spread", images, chunk.corners, chunk.fractions, np.zeros(shape, complex)
    )
    assert_agrees("light", light, spread.real, "laws, float64")


def misfit(adapter, chunk, likelihood, canvas, probe, fractions):
    """The function whose gradient the sums of a chunk are: half the squared residuals, or a quarter of Poisson's.

    The floors belong to it: they are added to denominators of the gradient.
    """
    seen = adapter.call("refinement.views", canvas, chunk.corners, fractions, chunk.side)
    power = np.sum(np.abs(np.fft.fft2(probe * seen[:, None], norm="ortho")) ** 2, axis=1)
    weights, modulus = chunk.weights[0], np.sqrt(power)
    if likelihood == "amplitude":
        floor = constants.MODULUS_FLOOR
        return np.sum(weights * (0.5 * power - chunk.measured * (modulus - floor * np.log(modulus + floor))))
    return 0.25 * np.sum(weights * (power - chunk.measured**2 * np.log(power + constants.POISSON_FLOOR)))


@given(chunk=chunks(), likelihood=LIKELIHOODS)
def test_sums_are_slopes_of_the_misfit(adapter, chunk, likelihood):
    """Along random directions: of the object, of the probe, and of the positions."""
    draw = np.random.default_rng(zlib.crc32(chunk.canvas.tobytes()))
    fractions = 0.2 + 0.6 * chunk.fractions
    sums = adapter.call(
        "refinement.chunk_sums", chunk.canvas, chunk.probe, chunk.measured, *chunk.weights, chunk.corners, fractions,
        np.zeros_like(chunk.canvas), likelihood, with_probe=True, with_positions=True,
    )  # fmt: skip
    places = [chunk.canvas, chunk.probe, fractions]
    slopes = [sums["numerator"], sums["probe_numerator"], sums["position_sums"][:, :2]]
    for number, (name, slope) in enumerate(zip(("object", "probe", "positions"), slopes, strict=True)):
        direction = draw.normal(size=slope.shape)
        if np.iscomplexobj(slope):
            direction = direction + 1j * draw.normal(size=slope.shape)
        direction *= 1e-5 / np.abs(direction).max()
        ends = []
        for sign in (1, -1):
            moved = [*places]
            moved[number] = places[number] + sign * direction
            ends.append(misfit(adapter, chunk, likelihood, *moved))
        want = (ends[0] - ends[1]) / 2
        # sums point downhill
        got = -inner(slope, direction)
        size = np.linalg.norm(slope) * np.linalg.norm(direction)
        assert abs(got - want) <= 1e-5 * size, f"{adapter.name}: slope by the {name}"


# --- whole refinements


@pytest.mark.parametrize("case", REFINEMENTS, ids=repr)
@pytest.mark.parametrize("execution", [DOUBLE, SINGLE], ids=["float64", "float32"])
def test_a_refinement_is_the_reference_s(backend, case, execution):
    require_agreement(measure_refinement(case, {backend.name: backend}, execution))


LONG = (
    RefinementCase(passes=20, seed=4),
    RefinementCase(passes=20, modes=2, masked=True, moved=True, seed=5),
)
REFINERS = {"torch": "ptycho_torch.backend.refinement", "tensorflow": "ptycho_backends.tensorflow.refinement"}


def final_state(case, refiner, *execution):
    """Object, probe and positions after the passes, before anything is rounded."""
    plan = plan_refinement(None, case.scan(), dataclasses.replace(case.config, held_out_fraction=0.0))
    steps = refiner(plan.problem, plan.state.canvas, plan.state.probe, *execution)
    refinement = Refinement(plan, steps, "test")
    assert len(list(refinement.passes())) == case.passes
    return refinement.state()


@functools.cache
def reference_state(case):
    return final_state(case, reference.Refiner)


@PRECISIONS
@pytest.mark.parametrize("case", LONG, ids=repr)
def test_twenty_passes(adapter, precision, case):
    """Both frameworks come to the reference's object, and so to each other's."""
    execution = DOUBLE if precision == "float64" else SINGLE
    want = reference_state(case)
    got = final_state(case, import_module(REFINERS[adapter.name]).Refiner, execution)
    for name in ("canvas", "probe", "positions_px"):
        assert_agrees(
            f"{adapter.name}: {name}", getattr(got, name), getattr(want, name), f"twenty passes, {precision}"
        )
