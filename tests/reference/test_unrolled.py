"""The network `unrolled` in the reference: what cancels, what takes no part, and where its steps lead."""

import dataclasses

import numpy as np
import pytest

from ptycho_backends import constants
from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.reference import model as reference
from ptycho_backends.reference import unrolled
from ptycho_backends.reference.initial_weights import initial_weights
from ptycho_backends.reference.physics import canvas_views, diffraction_amplitude
from ptycho_backends.reference.refinement import views as views_of_canvas
from ptycho_backends.scans.simulate import focused_probe
from ptycho_backends.testing.cases import Case
from ptycho_backends.values import Batch

CASES = {
    "one": Case(architecture="unrolled", N=16, groups=3, n_steps=3, seed=1),
    "group": Case(architecture="unrolled", N=22, gridsize=2, n_steps=3, n_rounds=2, masked=True, seed=2),
    "modes": Case(
        architecture="unrolled",
        N=16,
        gridsize=2,
        n_steps=2,
        n_probe_modes=2,
        n_probes=2,
        probe_mask=True,
        seed=3,
    ),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def image_of(case, weights=None, batch=None, config=None):
    config = case.config.model if config is None else config
    return reference.predict(config, case.weights if weights is None else weights, batch or case.batch)


def close(got, want, tolerance=1e-10):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


@every_case
def test_shapes(case):
    got, N = image_of(case), case.N
    assert got.object.shape == (case.groups, N, N, 1)
    assert got.amplitude.shape == got.intensity.shape == case.batch.diffraction_amplitude.shape
    assert np.isfinite(got.object).all()


@every_case
def test_photons_cancel(case):
    """The object and the prediction of a hundred times the photons, counted in their own unit."""
    want = image_of(case)
    bright = dataclasses.replace(case.batch, diffraction_amplitude=case.batch.diffraction_amplitude * 8)
    got = image_of(case, batch=dataclasses.replace(bright, intensity_scale=case.intensity_scale / 8))
    close(got.object, want.object)
    got = image_of(case, batch=bright)
    close(got.object, 8 * want.object)
    close(got.amplitude, 8 * want.amplitude)


@every_case
def test_scales_of_the_probe_cancel(case):
    """The predicted patterns are the same; the object is divided by what the probe is multiplied with."""
    want = image_of(case)
    for factor in (64.0, 1j, -1.0, 0.25 * np.exp(0.7j)):
        probe = case.weights["probe"].astype(complex) * factor
        got = image_of(case, {**case.weights, "probe": probe})
        # a constant phase of the object is free: it is that of the start, whatever the probe's
        close(got.object, want.object / np.abs(factor))
        close(got.amplitude, want.amplitude)


@every_case
def test_log_scale_cancels_in_the_prediction(case):
    want = image_of(case)
    more = {**case.weights, "log_scale": np.asarray(case.weights["log_scale"], float) + 1.5}
    got = image_of(case, more)
    close(got.object, want.object * np.exp(-1.5))
    close(got.amplitude, want.amplitude)


def test_a_phase_of_the_start_goes_through():
    case = CASES["group"]
    model, weights = case.config.model, reference.in_double(case.weights)
    groups, _ = groups_of(case)
    draw = np.random.default_rng(0)
    shape = groups.light.shape
    start = 1 + 0.1 * (draw.normal(size=shape) + 1j * draw.normal(size=shape))
    want = unrolled.corrected_within(unrolled.estimate(start, groups, 3), groups.light, weights, model.N)
    turned = unrolled.estimate(start * np.exp(1.1j), groups, 3)
    got = unrolled.corrected_within(turned, groups.light, weights, model.N)
    close(got, want * np.exp(1.1j))


def groups_of(case):
    """`Groups` of the case, and what they are made from."""
    model, weights = case.config.model, reference.in_double(case.weights)
    fed = case.intensity_scale * case.batch.diffraction_amplitude.astype(float)
    offsets = reference.offsets_by_channel(case.batch.relative_offsets_px.astype(float))
    probe = unrolled.modes_of_groups(weights, model, case.batch.probe_index)
    measured = reference.channels_first(fed)
    groups = unrolled.normalised_groups(measured, offsets, probe, model, case.batch.valid_pixels)
    return groups, (measured, offsets, probe)


def test_masked_pixels_take_no_part():
    case = CASES["group"]
    groups, _ = groups_of(case)
    want = unrolled.estimate(np.ones_like(groups.light, complex), groups, 4)
    noise = np.random.default_rng(1).random(groups.measured.shape) * (groups.pixel_weights == 0)
    other = groups._replace(measured=groups.measured + 5 * noise)
    np.testing.assert_array_equal(unrolled.estimate(np.ones_like(groups.light, complex), other, 4), want)
    nothing_masked = groups._replace(pixel_weights=np.ones_like(groups.pixel_weights))
    got = unrolled.estimate(np.ones_like(groups.light, complex), nothing_masked, 4)
    assert np.abs(got - want).max() > 1e-3


def test_a_mask_of_valid_pixels_is_no_mask():
    case = CASES["modes"]
    everywhere = np.ones(case.batch.diffraction_amplitude.shape[:3], bool)
    got = image_of(case, batch=dataclasses.replace(case.batch, valid_pixels=everywhere))
    close(got.object, image_of(case).object, 1e-12)


def test_energy_of_masked_patterns():
    """With the far field of the probe itself, the energy of the valid pixels stands for the whole."""
    N, draw = 16, np.random.default_rng(0)
    probe = focused_probe(N).astype(complex)[None, None]
    far = diffraction_amplitude(probe[0])[None]
    valid = draw.random((1, N, N)) > 0.3
    whole = unrolled.mean_energy(far, probe, None)
    assert whole == pytest.approx(np.sum(np.abs(probe) ** 2))
    assert unrolled.mean_energy(far * valid, probe, valid) == pytest.approx(whole)


def test_a_second_mode_of_zero_is_no_mode():
    one = CASES["group"]
    two = dataclasses.replace(one, n_probe_modes=2)
    probe = one.weights["probe"]
    weights = {**one.weights, "probe": np.stack([probe, np.zeros_like(probe)])}
    got = reference.predict(two.config.model, weights, one.batch)
    close(got.object, image_of(one).object, 1e-12)
    close(got.amplitude, image_of(one).amplitude, 1e-12)


def test_each_group_has_its_own_probe():
    case = CASES["modes"]
    single = dataclasses.replace(case.config.model, n_probes=1)
    want = image_of(case).object
    for number, chosen in enumerate(case.batch.probe_index):
        part = slice(number, number + 1)
        alone = Batch(
            case.batch.diffraction_amplitude[part],
            case.batch.relative_offsets_px[part],
            case.intensity_scale,
        )
        weights = {**case.weights, "probe": case.weights["probe"][chosen]}
        close(reference.predict(single, weights, alone).object, want[part], 1e-12)


@every_case
def test_dark_patterns_give_finite_numbers(case):
    dark = case.batch.diffraction_amplitude.copy()
    dark[0] = 0
    got = image_of(case, batch=dataclasses.replace(case.batch, diffraction_amplitude=dark))
    assert np.isfinite(got.object).all()
    np.testing.assert_array_equal(got.amplitude[0], 0)
    close(got.object[1:], image_of(case).object[1:], 1e-12)


@pytest.mark.parametrize("jitter", [5, 6, 9, 12])
def test_odd_and_even_canvases(jitter):
    """Room around the views changes nothing: not in the first step, which has no slow phases."""
    case = dataclasses.replace(CASES["group"], max_position_jitter=jitter, n_steps=1, n_rounds=1)
    wide = dataclasses.replace(case, max_position_jitter=20 + jitter % 2)
    got, want = image_of(case).object, image_of(wide).object
    assert case.config.model.canvas_size == 26 + jitter
    # with the correction of zero and no slow phases, all that is left is the place of the views
    close(got, want, 1e-12)


def test_a_head_of_zero_leaves_the_estimate():
    case = CASES["group"]
    config = dataclasses.replace(case.config.model, n_rounds=1)
    weights = reference.in_double(case.weights)
    for kind in ("kernel", "bias"):
        weights[f"decoder/head/{kind}"] *= 0
    groups, (measured, offsets, probe) = groups_of(case)
    canvas = unrolled.estimate(np.ones_like(groups.light, complex), groups, config.n_steps)
    energy = unrolled.mean_energy(measured, probe, case.batch.valid_pixels) / np.exp(2 * weights["log_scale"])
    want = canvas * np.sqrt(energy / np.sum(np.abs(probe) ** 2))[:, None, None]
    got = unrolled.object_canvas(measured, offsets, weights, config, case.batch.valid_pixels)
    close(got, want, 1e-13)


def test_light_is_the_spread_intensity_of_the_probe():
    case = CASES["modes"]
    groups, (_, offsets, probe) = groups_of(case)
    S, N, N2 = case.config.model.canvas_size, case.N, case.N**2
    intensity = np.sum(np.abs(probe) ** 2, axis=1)
    intensity *= (N2 / intensity.sum(axis=(1, 2)))[:, None, None]
    want = np.zeros((case.groups, S, S))
    for group in range(case.groups):
        for x, y in offsets[group]:
            left, top = (S - N) // 2 - x, (S - N) // 2 - y
            column, row = int(np.floor(left)), int(np.floor(top))
            for dy, of_y in ((0, 1 - (top - row)), (1, top - row)):
                for dx, of_x in ((0, 1 - (left - column)), (1, left - column)):
                    box = slice(row + dy, row + dy + N), slice(column + dx, column + dx + N)
                    want[group][box] += of_x * of_y * intensity[group]
    close(groups.light, want, 1e-12)


def test_views_are_those_of_the_diffraction_model():
    case = CASES["group"]
    groups, (_, offsets, _) = groups_of(case)
    draw = np.random.default_rng(5)
    canvas = draw.normal(size=groups.light.shape) + 1j * draw.normal(size=groups.light.shape)
    S, N = canvas.shape[-1], case.N
    seen = views_of_canvas(canvas.reshape(-1, S), groups.corners, groups.fractions, N)
    close(seen.reshape(case.groups, -1, N, N), canvas_views(canvas, offsets, N), 1e-12)


def test_views_beyond_the_canvas_are_moved_to_its_edge():
    offsets = np.array([[[-100.0, 3.0], [100.0, 0.25]]])
    corners, fractions = unrolled.tall_views(offsets, 30, 16)
    assert (corners >= 0).all()
    assert (corners + fractions <= 30 - 16 - 1).all()
    np.testing.assert_allclose(corners[:, 1] + fractions[:, 1], [4.0, 6.75])


def test_slow_gain():
    axis = np.arange(16) - 8
    spot = np.exp(-(axis[:, None] ** 2 + 2 * axis**2) / 8).astype(complex)
    probe = np.stack([spot, np.roll(spot, 2, axis=0)])[:, None]
    gain = unrolled.slow_gain(probe, 24)
    assert gain.shape == (2, 24, 13)
    np.testing.assert_array_equal(gain[:, 0, 0], 0)
    assert gain.max() <= constants.GROUP_SLOW_GAIN_LIMIT
    assert (np.diff(gain[:, 0, 1:]) < 0).all()
    # a place in the pattern is no width
    close(gain[1], gain[0], 1e-3)
    # the mean of x**2 and y**2 in the intensity
    frequency = (2 * np.pi / 24) ** 2 * np.mean([2.0, 1.0])
    strength, limit = constants.GROUP_SLOW_STRENGTH, constants.GROUP_SLOW_GAIN_LIMIT
    assert gain[0, 1, 0] == pytest.approx(strength / (frequency + strength / limit), rel=1e-3)


def noise_free(gridsize, steps):
    """A group of a smooth object's patterns without noise; its configuration, weights, batch, and canvas."""
    N = 32
    config = ModelConfig(
        N=N,
        gridsize=gridsize,
        architecture="unrolled",
        n_filters_scale=1,
        n_steps=steps,
        max_position_jitter=16,
    )
    S, draw = config.canvas_size, np.random.default_rng(2)
    spectrum = np.fft.fft2(draw.normal(size=(2, S, S)))
    radius = np.hypot(np.fft.fftfreq(S)[:, None], np.fft.fftfreq(S))
    amplitude, phase = np.fft.ifft2(spectrum * np.exp(-((radius * 16) ** 2))).real
    canvas = (1 - 0.2 * amplitude / np.abs(amplitude).max()) * np.exp(0.4j * phase / np.abs(phase).max())
    probe = focused_probe(N).astype(complex)
    offsets = draw.uniform(-5, 5, (1, gridsize**2, 2))
    views = canvas_views(canvas[None], offsets, N)
    amplitude = np.moveaxis(diffraction_amplitude(probe * views), 1, -1)
    batch = Batch(amplitude, np.moveaxis(offsets, 1, -1)[:, None], 1.0)
    weights = reference.in_double(initial_weights(config, 0, probe=probe, intensity_scale=1.0))
    weights["log_scale"] = np.zeros(())
    weights["probe"] = probe
    return config, weights, batch, canvas


def errors(gridsize, steps):
    """Of the object in the middle of its canvas, and of the predicted amplitudes; relative."""
    config, weights, batch, canvas = noise_free(gridsize, steps)
    got = reference.predict(config, weights, batch)
    margin = (config.canvas_size - config.N) // 2
    truth = canvas[margin : margin + config.N, margin : margin + config.N][10:22, 10:22]
    image = got.object[0, 10:22, 10:22, 0]
    turn = np.vdot(image, truth)
    of_object = np.linalg.norm(image * turn / abs(turn) - truth) / np.linalg.norm(truth)
    misfit = np.linalg.norm(got.amplitude - batch.diffraction_amplitude)
    return of_object, misfit / np.linalg.norm(batch.diffraction_amplitude)


def test_first_steps_lead_towards_the_truth():
    first, fourth = errors(3, 1), errors(3, 4)
    assert fourth[0] < 0.4 * first[0]
    assert fourth[1] < 0.7 * first[1]


def test_many_steps_lead_to_the_truth(monkeypatch):
    """With slow phases as for a whole scan: stronger ones are for few steps."""
    monkeypatch.setattr(constants, "GROUP_SLOW_STRENGTH", constants.SLOW_STRENGTH)
    monkeypatch.setattr(constants, "GROUP_SLOW_GAIN_LIMIT", constants.SLOW_GAIN_LIMIT)
    of_object, misfits = zip(*(errors(2, steps) for steps in (1, 4, 16, 64)), strict=True)
    assert (np.diff(of_object) < 0).all(), of_object
    assert (np.diff(misfits) < 0).all(), misfits
    assert of_object[-1] < 0.005
    assert misfits[-1] < 0.002


def test_rounds():
    """Later rounds go on from the corrected canvas, with their own number of steps."""
    case = CASES["group"]
    config, weights = case.config.model, reference.in_double(case.weights)
    groups, (measured, offsets, _) = groups_of(case)
    canvas = np.ones_like(groups.light, complex)
    for steps in (config.n_steps, constants.LATER_STEPS):
        canvas = unrolled.estimate(canvas, groups, steps)
        canvas = unrolled.corrected_within(canvas, groups.light, weights, config.N)
    got = unrolled.object_canvas(measured, offsets, weights, config, case.batch.valid_pixels)
    ratio = got / canvas
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], ratio.shape), rtol=1e-9)


def test_steps_of_other_weights():
    """What a finite difference holds: with the same weights nothing changes, with others the steps are theirs."""
    case = CASES["group"]
    loss = reference.loss(case.config, case.weights, case.batch)["total"]
    assert reference.loss(case.config, case.weights, case.batch, steps_with=case.weights)["total"] == loss
    moved = {**case.weights, "log_scale": case.weights["log_scale"] + np.float32(1)}
    held = reference.loss(case.config, moved, case.batch, steps_with=case.weights)["total"]
    assert held == pytest.approx(loss, rel=1e-12)
    moved = {**case.weights, "probe": np.roll(case.weights["probe"], 1, axis=0)}
    assert reference.loss(case.config, moved, case.batch, steps_with=case.weights)["total"] != loss


def test_settings():
    for N in (16, 18, 250, 1024):
        assert ModelConfig(N=N, architecture="unrolled").N == N
    for N in (14, 17):
        with pytest.raises(ConfigError, match=f"N: got {N}, want an even"):
            ModelConfig(N=N, architecture="unrolled")
    with pytest.raises(ConfigError, match="N: got 96"):
        ModelConfig(N=96)
    with pytest.raises(ConfigError, match="n_steps: got 3, but the architecture 'cnn' has no such thing"):
        ModelConfig(n_steps=3)
    with pytest.raises(ConfigError, match=r"pad_object: got False.*architecture='cnn' or 'attention'"):
        ModelConfig(N=32, architecture="unrolled", pad_object=False)
    for name in ("n_steps", "n_rounds"):
        with pytest.raises(ConfigError, match=f"{name}: got 0"):
            TrainingConfig(model=ModelConfig(N=32, architecture="unrolled", **{name: 0}))
