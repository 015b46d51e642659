"""Every stage of `correction` and `unrolled` on each framework against the reference, in both precisions."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_backends import constants
from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.reference import correction, unrolled
from ptycho_backends.reference import model as reference
from ptycho_backends.reference.initial_weights import correction_weights
from ptycho_backends.reference.model import channels_first, in_double, offsets_by_channel
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.testing.agreement import Allowance, assert_agrees
from ptycho_backends.testing.cases import Case
from ptycho_backends.testing.measurements import DOUBLE, SINGLE
from ptycho_backends.testing.strategies import cases
from ptycho_backends.training.plan import inference_groups, plan_training

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
    compare(adapter, correction, "relative_light", precision, light)
    compare(adapter, correction, "features", precision, canvas, correction.relative_light(light))
    compare(adapter, correction, "corrected", precision, canvas, light, weights)
    compare(adapter, correction, "corrected_scan", precision, canvas[0], light[0], weights)
    image = np.stack([canvas.real, canvas.imag, light], axis=-1)[:, :16, :16]
    compare(adapter, correction, "unet", precision, image, weights, allowance=CHAINS[precision])


@PRECISIONS
def test_nothing_is_seen_in_the_dark(adapter, precision):
    nothing = np.zeros((2, 16, 16))
    for canvas, light in ((nothing + 1, nothing), (nothing + 0j, nothing + 1)):
        compare(adapter, correction, "unit_factor", precision, canvas.astype(complex), light)
        compare(adapter, correction, "relative_light", precision, light)


@PRECISIONS
def test_tiles(adapter, precision, monkeypatch):
    monkeypatch.setattr(constants, "TILE_PX", 32)
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


# --- whole models


CASE = Case(
    architecture="unrolled", N=16, gridsize=2, n_steps=2, n_rounds=2, n_probe_modes=2, masked=True, seed=4
)


def test_no_gradient_goes_through_the_steps(backend):
    """That of the probe is the slope where the steps are held; the scale has none."""
    gradients = backend.gradients(CASE.config, CASE.weights, CASE.batch, execution=DOUBLE)
    assert gradients["log_scale"] == 0
    draw = np.random.default_rng(0)
    for name in ("probe", "encoder/block1/conv0/kernel", "decoder/head/bias"):
        weight = in_double(CASE.weights)[name]
        direction = draw.normal(size=weight.shape)
        if np.iscomplexobj(weight):
            direction = direction + 1j * draw.normal(size=weight.shape)
        direction *= np.linalg.norm(weight) / np.linalg.norm(direction)
        step, losses, through = 1e-6, [], []
        for sign in (1, -1):
            moved = {**CASE.weights, name: weight + sign * step * direction}
            held = {"steps_with": CASE.weights}
            losses.append(reference.loss(CASE.config, moved, CASE.batch, **held)["total"])
            through.append(reference.loss(CASE.config, moved, CASE.batch)["total"])
        slope, other = ((one[0] - one[1]) / (2 * step) for one in (losses, through))
        got = np.real(np.vdot(gradients[name], direction))
        assert got == pytest.approx(slope, rel=1e-5), name
        assert abs(other - slope) > 1e-3 * abs(slope), name


SCAN = simulate_star(16, 24, n_photons=1e5, seed=3)
CONFIG = TrainingConfig(
    model=ModelConfig(N=16, gridsize=2, architecture="unrolled", n_filters_scale=1, n_steps=4),
    neighbor_count=4, batch_size=4, nepochs=3, nphotons=1e5, probe_trainable=True, seed=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(backends, tmp_path_factory):
    """Models by name, and the folders of their trainings."""
    folders = {name: tmp_path_factory.mktemp(name) for name in backends}
    return {
        name: (backend.train(SCAN, CONFIG, execution=SINGLE, output_dir=folders[name]), folders[name])
        for name, backend in backends.items()
    }


def test_steps_of_the_optimiser_lower_the_loss(backend):
    execution = dataclasses.replace(SINGLE, learning_rate=1e-4)
    after = backend.train_step(CASE.config, CASE.weights, [CASE.batch] * 6, execution=execution)
    losses = [reference.loss(CASE.config, weights, CASE.batch)["total"] for weights in (CASE.weights, after)]
    assert losses[1] < losses[0]
    np.testing.assert_array_equal(after["log_scale"], CASE.weights["log_scale"])


def test_a_training_moves_correction_and_probe(backend, trained):
    model, _ = trained[backend.name]
    start = plan_training(SCAN, CONFIG, backend.name).start
    assert not start.weights["decoder/head/kernel"].any()
    assert np.abs(model.weights["decoder/head/kernel"]).max() > 1e-4
    assert not np.array_equal(model.weights["probe"], start.weights["probe"])
    np.testing.assert_array_equal(model.weights["log_scale"], start.weights["log_scale"])


def test_an_archive_is_read_by_every_backend(backends, trained, tmp_path):
    for name, (model, _) in trained.items():
        path = backends[name].save(model, tmp_path / name)
        images = []
        for other in backends.values():
            again = other.load(path)
            assert again.config == model.config
            for weight, value in model.weights.items():
                np.testing.assert_array_equal(again.weights[weight], value)
            images.append(other.infer(again, inference_groups(again, SCAN), execution=SINGLE).object)
        for image in images[1:]:
            assert_agrees(f"{name}: image", image, images[0], "stitched image")


def test_resuming_is_as_if_nothing_had_happened(backend, trained, tmp_path):
    model, _ = trained[backend.name]
    short = dataclasses.replace(CONFIG, nepochs=1)
    backend.train(SCAN, short, execution=SINGLE, output_dir=tmp_path)
    (checkpoint,) = (tmp_path / "checkpoints").glob("last*")
    resumed = backend.train(SCAN, CONFIG, execution=SINGLE, resume_from=checkpoint)
    for name, value in model.weights.items():
        np.testing.assert_array_equal(resumed.weights[name], value, err_msg=name)


def normalised(image):
    """An image whose mean square over the covered pixels is 1, and whose mean is real."""
    values = np.where(image.coverage > 0, image.object, 0).astype(complex)
    return values * np.exp(-1j * np.angle(values.sum())) / np.linalg.norm(values)


def test_the_same_image_of_other_counts_probes_and_dtypes(backend, trained):
    model, _ = trained[backend.name]
    counts = np.round(SCAN.diffraction_amplitude(np.arange(len(SCAN))) ** 2)
    without = {"object_guess": None, "object_mask": None}
    scan = dataclasses.replace(SCAN, patterns=counts, measurement="intensity", **without)

    def image_of(scan, weights=model.weights):
        changed = dataclasses.replace(model, weights=weights)
        groups = inference_groups(changed, scan)
        return normalised(backend.infer(changed, groups, execution=SINGLE))

    want = image_of(scan)
    others = {
        "a hundred times the photons": image_of(dataclasses.replace(scan, patterns=100 * counts)),
        "uint16": image_of(dataclasses.replace(scan, patterns=counts.astype(np.uint16))),
        "amplitudes": image_of(dataclasses.replace(scan, patterns=np.sqrt(counts), measurement="amplitude")),
        "another phase of the probe": image_of(
            scan, {**model.weights, "probe": (1j * model.weights["probe"]).astype(np.complex64)}
        ),
    }
    for name, image in others.items():
        assert np.linalg.norm(image - want) < 1e-4, name
