"""Every stage of `correction` and `unrolled` on each framework against the reference, in both precisions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_backends import constants
from ptycho_backends.reference import correction, unrolled
from ptycho_backends.reference.initial_weights import correction_weights
from ptycho_backends.reference.model import channels_first, in_double, offsets_by_channel
from ptycho_backends.testing.agreement import Allowance, assert_agrees
from ptycho_backends.testing.strategies import cases

PRECISIONS = pytest.mark.parametrize("precision", ["float64", "float32"])
FEW = settings(max_examples=max(4, settings.default.max_examples // 4))
CHAINS = {
    "float64": Allowance(1e-12, "ten convolutions one after the other"),
    "float32": Allowance(1e-5, "ten convolutions one after the other"),
}
UNROLLED = {"architecture": "unrolled", "n_filters_scale": 1}


def compare(adapter, module, stage, precision, *arguments, allowance=None):
    want = getattr(module, stage)(*arguments)
    name = f"{module.__name__.rpartition('.')[2]}.{stage}"
    got = adapter.call(name, *arguments, precision=precision)
    pairs = zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]
    for one, other in pairs:
        assert_agrees(f"{adapter.name}: {name}", one, other, allowance or f"stages, {precision}")


def canvases(case, height, width):
    """Canvases (2, height, width) whose first is dark in places, and their light."""
    draw = np.random.default_rng(case.seed)
    canvas = 1 + 0.3 * (draw.normal(size=(2, height, width)) + 1j * draw.normal(size=(2, height, width)))
    light = draw.random((2, height, width))
    light[0, : height // 2] = 0
    return canvas, light


SIZES = st.tuples(st.sampled_from([16, 17, 22]), st.sampled_from([16, 19, 31]))


@PRECISIONS
@FEW
@given(case=cases(**UNROLLED), size=SIZES)
def test_stages_of_the_correction(adapter, precision, case, size):
    weights = in_double(correction_weights(case.weights))
    canvas, light = canvases(case, *size)
    compare(adapter, correction, "unit_factor", precision, canvas, light)
    compare(adapter, correction, "features", precision, canvas, light)
    compare(adapter, correction, "corrected", precision, canvas, light, weights)
    compare(adapter, correction, "corrected_scan", precision, canvas[0], light[0], weights)
    image = np.stack([canvas.real, canvas.imag, light], axis=-1)[:, :16, :16]
    compare(adapter, correction, "unet", precision, image, weights, allowance=CHAINS[precision])


@PRECISIONS
def test_nothing_is_seen_in_the_dark(adapter, precision):
    nothing = np.zeros((2, 16, 16))
    for canvas, light in ((nothing + 1, nothing), (nothing + 0j, nothing + 1)):
        for stage in ("unit_factor", "features"):
            compare(adapter, correction, stage, precision, canvas.astype(complex), light)


@PRECISIONS
def test_tiles(adapter, precision, monkeypatch):
    monkeypatch.setattr(constants, "TILE_PX", 32)
    from ptycho_backends.testing.cases import Case

    case = Case(architecture="unrolled", N=16, seed=3)
    canvas, light = canvases(case, 70, 53)
    weights = in_double(correction_weights(case.weights))
    compare(adapter, correction, "corrected_scan", precision, canvas[1], light[1], weights)


def measurement(case):
    """Amplitudes (B, C, N, N) and offsets (B, C, 2), in float64."""
    fed = case.intensity_scale * case.batch.diffraction_amplitude.astype(np.float64)
    return channels_first(fed), offsets_by_channel(case.batch.relative_offsets_px.astype(np.float64))


@PRECISIONS
@FEW
@given(case=cases(**UNROLLED))
def test_stages_before_the_steps(adapter, precision, case):
    model, weights = case.config.model, in_double(case.weights)
    measured, offsets = measurement(case)
    valid, index = case.batch.valid_pixels, case.batch.probe_index
    compare(adapter, unrolled, "modes_of_groups", precision, weights, model, index)
    probe = unrolled.modes_of_groups(weights, model, index)
    compare(adapter, unrolled, "mean_energy", precision, measured, probe, valid)
    compare(adapter, unrolled, "slow_gain", precision, probe, model.canvas_size)
    if precision == "float64":
        # in float32 a corner may be the pixel before, its fraction 1
        compare(adapter, unrolled, "tall_views", precision, offsets, model.canvas_size, model.N)
        compare(adapter, unrolled, "normalised_groups", precision, measured, offsets, probe, model, valid)


@PRECISIONS
@FEW
@given(case=cases(**UNROLLED))
def test_object_canvas(adapter, precision, case):
    weights = in_double(case.weights)
    given_ = *measurement(case), weights, case.config.model, case.batch.valid_pixels, case.batch.probe_index
    allowance = f"outputs, {precision}"
    compare(adapter, unrolled, "before_last_correction", precision, *given_, allowance=allowance)
    compare(adapter, unrolled, "object_canvas", precision, *given_, allowance=allowance)
