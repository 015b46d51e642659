"""Laws that the diffraction model obeys, whoever computes it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_backends import constants
from ptycho_backends.config import ModelConfig
from ptycho_backends.reference import physics
from ptycho_backends.reference.probe import circular_mask

seeds = st.integers(0, 2**32 - 1)
offsets = st.floats(-6, 6, allow_nan=False)


def complex_noise(seed, *shape):
    generator = np.random.default_rng(seed)
    return generator.normal(size=shape) + 1j * generator.normal(size=shape)


@given(seed=seeds, side=st.sampled_from([4, 16, 64]))
def test_diffraction_conserves_energy(seed, side):
    wave = complex_noise(seed, 2, side, side)
    amplitude = physics.diffraction_amplitude(wave)
    np.testing.assert_allclose((amplitude**2).sum((1, 2)), (np.abs(wave) ** 2).sum((1, 2)), rtol=1e-12)


def test_zero_frequency_lies_in_the_centre():
    amplitude = physics.diffraction_amplitude(np.ones((8, 8), complex))
    assert np.argmax(amplitude) == 4 * 8 + 4
    assert amplitude[4, 4] == pytest.approx(8.0)
    assert amplitude.sum() == pytest.approx(8.0)


@given(seed=seeds, x=st.integers(-5, 5), y=st.integers(-5, 5))
def test_whole_translation_moves_content_towards_plus(seed, x, y):
    image = np.zeros((20, 20), complex)
    image[6:14, 6:14] = complex_noise(seed, 8, 8)
    moved = physics.translate(image, np.array([float(x), float(y)]))
    np.testing.assert_array_equal(moved, np.roll(image, (y, x), axis=(0, 1)))


def test_translation_is_bilinear_and_zero_outside():
    image = np.ones((3, 3))
    moved = physics.translate(image, np.array([0.25, 0.0]))
    np.testing.assert_allclose(moved, [[0.75, 1, 1]] * 3)
    moved = physics.translate(image, np.array([0.5, -0.5]))
    np.testing.assert_allclose(moved, [[0.5, 1, 1], [0.5, 1, 1], [0.25, 0.5, 0.5]])


@given(seed=seeds, x=offsets, y=offsets)
def test_translation_back_is_the_adjoint(seed, x, y):
    a, b = complex_noise(seed, 2, 12, 12)
    t = np.array([x, y])
    there = np.vdot(physics.translate(a, t), b)
    back = np.vdot(a, physics.translate(b, -t))
    assert there == pytest.approx(back, rel=1e-10, abs=1e-10)


@given(seed=seeds)
def test_views_are_the_adjoint_of_merging(seed):
    """<views(canvas), patches> = <canvas, sum of the translated patches>."""
    generator = np.random.default_rng(seed)
    r = generator.uniform(-4, 4, (1, 4, 2))
    r -= r.mean(axis=1, keepdims=True)
    canvas, patches = complex_noise(seed, 1, 24, 24), complex_noise(seed + 1, 1, 4, 16, 16)
    views = physics.canvas_views(canvas, r, 16)
    box = physics.pad_centre(physics.central_box(16), 24)
    weight = physics.translate(box, -r).sum(axis=1) + constants.OVERLAP_FLOOR
    summed = physics.merge_patches(patches, r, 24) * weight
    assert np.vdot(views, patches) == pytest.approx(np.vdot(canvas, summed), rel=1e-10)


@given(seed=seeds)
def test_merging_recovers_a_known_object_where_it_is_trusted(seed):
    """Patches cut from one object at whole-pixel offsets merge into that object, but for the floor."""
    generator = np.random.default_rng(seed)
    corners = generator.integers(-3, 4, (3, 2))
    positions = np.concatenate([corners, -corners.sum(axis=0, keepdims=True)]) + 40.0
    image = complex_noise(seed, 80, 80)
    patches = physics.extract_patches(image, positions, 32)
    r = -(positions - positions.mean(axis=0))
    # patches count only within their central box, as the network's inner part does
    boxed = patches * physics.central_box(32)
    merged = physics.merge_patches(boxed[None], r[None], 64)[0]
    box = physics.pad_centre(physics.central_box(32), 64)
    overlap = physics.translate(box, -r).sum(axis=0)
    truth = physics.extract_patches(image, np.array([40.0, 40.0]), 64)
    want = truth * overlap / (overlap + constants.OVERLAP_FLOOR)
    np.testing.assert_allclose(merged, want, atol=1e-9)


@given(seed=seeds)
def test_a_prediction_does_not_depend_on_its_batch(seed):
    config = ModelConfig(N=64, gridsize=2)
    generator = np.random.default_rng(seed)
    patches = complex_noise(seed, 3, 4, 64, 64)
    r = generator.uniform(-5, 5, (3, 4, 2))  # not centred
    probe = complex_noise(seed + 1, 64, 64)
    together = physics.predict_diffraction(patches, r, probe, np.array(0.5), config)
    for i in range(3):
        alone = physics.predict_diffraction(patches[i : i + 1], r[i : i + 1], probe, np.array(0.5), config)
        np.testing.assert_allclose(alone[0][0], together[0][i], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(alone[1][0], together[1][i], rtol=1e-12, atol=1e-12)


@given(seed=seeds, x=st.integers(-3, 3), y=st.integers(-3, 3))
def test_moving_object_and_positions_together_changes_nothing(seed, x, y):
    image = complex_noise(seed, 60, 60)
    positions = np.array([[28.25, 31.5], [33.0, 29.75]])
    shift = np.array([x, y])
    moved = np.roll(image, (y, x), axis=(0, 1))
    np.testing.assert_allclose(
        physics.extract_patches(moved, positions + shift, 16),
        physics.extract_patches(image, positions, 16),
        atol=1e-12,
    )


def test_extracted_patch_is_centred_on_its_position():
    image = np.arange(100 * 90, dtype=float).reshape(100, 90) + 0j
    patch = physics.extract_patches(image, np.array([40.0, 50.0]), 16)
    np.testing.assert_array_equal(patch, image[50 - 8 : 50 + 8, 40 - 8 : 40 + 8])
    halfway = physics.extract_patches(image, np.array([40.5, 50.0]), 16)
    np.testing.assert_allclose(halfway, patch + 0.5)


def test_patches_are_zero_outside_the_image():
    image = np.ones((20, 20), complex)
    patch = physics.extract_patches(image, np.array([0.0, 10.0]), 16)
    np.testing.assert_array_equal(patch[:, :8], 0)
    assert np.all(patch[:, 8:] == 1)
    far = physics.extract_patches(image, np.array([1e4, -1e4]), 16)
    np.testing.assert_array_equal(far, 0)


@given(sigma=st.floats(0.2, 3.0), seed=seeds)
def test_smoothing_keeps_a_constant_and_never_adds_energy(sigma, seed):
    np.testing.assert_allclose(physics.smooth_exit_wave(np.full((8, 8), 2 + 1j), sigma), 2 + 1j)
    wave = complex_noise(seed, 8, 8)
    assert np.abs(physics.smooth_exit_wave(wave, sigma)).max() <= np.abs(wave).max() * (1 + 1e-12)


def test_smoothing_weights_are_the_softmax():
    sigma = 0.7
    logits = -np.array([1.0, 0.0, 1.0]) / (2 * sigma**2)
    softmax = np.exp(logits) / np.exp(logits).sum()
    outer, central = physics.smoothing_weights(sigma)
    np.testing.assert_allclose([outer, central, outer], softmax)


def test_probe_mask_and_order_of_smoothing():
    config = ModelConfig(N=64, probe_mask=True, gaussian_smoothing_sigma=0.5)
    views, probe = complex_noise(1, 1, 1, 64, 64), complex_noise(2, 64, 64)
    waves = physics.exit_waves(views, probe, config)
    assert np.all(waves[..., circular_mask(64) == 0] == 0)
    smooth = physics.smooth_exit_wave(probe * views, 0.5)
    np.testing.assert_array_equal(waves, smooth * circular_mask(64))
