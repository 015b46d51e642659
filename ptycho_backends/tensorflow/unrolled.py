"""Mirror of `ptycho_backends.reference.unrolled`: accelerated steps and learned corrections in turn."""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ptycho_backends import constants
from ptycho_backends.config import ModelConfig
from ptycho_backends.reference.probe import circular_mask
from ptycho_backends.tensorflow.correction import corrected
from ptycho_backends.tensorflow.network import Weights
from ptycho_backends.tensorflow.physics import chosen_probe, crop_centre, pad_centre
from ptycho_backends.tensorflow.refinement import modulus_change, spread, views


class Groups(NamedTuple):
    """As the mirrored class."""

    measured: tf.Tensor
    pixel_weights: tf.Tensor
    corners: tf.Tensor
    fractions: tf.Tensor
    probe: tf.Tensor
    light: tf.Tensor
    gain: tf.Tensor


def object_canvas(
    measured: tf.Tensor,
    relative_offsets_px: tf.Tensor,
    weights: Weights,
    config: ModelConfig,
    valid_pixels: tf.Tensor | None = None,
    probe_index: tf.Tensor | None = None,
) -> tf.Tensor:
    """Mirror of `reference.unrolled.object_canvas`."""
    steps = before_last_correction(measured, relative_offsets_px, weights, config, valid_pixels, probe_index)
    return after_last_correction(steps, weights, config, probe_index)


class Steps(NamedTuple):
    """As the mirrored class."""

    canvas: tf.Tensor
    light: tf.Tensor
    energy: tf.Tensor


def before_last_correction(
    measured: tf.Tensor,
    relative_offsets_px: tf.Tensor,
    weights: Weights,
    config: ModelConfig,
    valid_pixels: tf.Tensor | None = None,
    probe_index: tf.Tensor | None = None,
) -> Steps:
    """Mirror of `reference.unrolled.before_last_correction`."""
    probe = tf.stop_gradient(modes_of_groups(weights, config, probe_index))
    energy = mean_energy(measured, probe, valid_pixels) / tf.exp(2 * tf.stop_gradient(weights["log_scale"]))
    groups = normalised_groups(measured, relative_offsets_px, probe, config, valid_pixels)
    canvas = estimate(tf.cast(tf.ones_like(groups.light), probe.dtype), groups, config.n_steps)
    for _ in range(config.n_rounds - 1):
        canvas = tf.stop_gradient(corrected_within(canvas, groups.light, weights, config.N))
        canvas = estimate(canvas, groups, constants.LATER_STEPS)
    return Steps(canvas, groups.light, energy)


def after_last_correction(
    steps: Steps, weights: Weights, config: ModelConfig, probe_index: tf.Tensor | None = None
) -> tf.Tensor:
    """Mirror of `reference.unrolled.after_last_correction`."""
    canvas = corrected_within(steps.canvas, steps.light, weights, config.N)
    power = tf.reduce_sum(_power(modes_of_groups(weights, config, probe_index)), axis=(1, 2, 3))
    scale = tf.sqrt(steps.energy) / tf.sqrt(power)
    # the gradient of a cast to complex numbers would warn of the imaginary part that it rightly drops
    return canvas * tf.complex(scale, tf.zeros_like(scale))[:, None, None]


def modes_of_groups(weights: Weights, config: ModelConfig, probe_index: tf.Tensor | None) -> tf.Tensor:
    """Mirror of `reference.unrolled.modes_of_groups`."""
    parts = weights["probe"]
    probe = chosen_probe(tf.complex(parts[..., 0], parts[..., 1]), probe_index)
    probe = probe if len(probe.shape) == 4 else tf.reshape(probe, (1, -1, config.N, config.N))
    return probe * tf.cast(circular_mask(config.N), probe.dtype) if config.probe_mask else probe


def _power(waves: tf.Tensor) -> tf.Tensor:
    return tf.square(tf.math.real(waves)) + tf.square(tf.math.imag(waves))


def mean_energy(measured: tf.Tensor, probe: tf.Tensor, valid_pixels: tf.Tensor | None) -> tf.Tensor:
    """Mirror of `reference.unrolled.mean_energy`."""
    energy = tf.reduce_mean(tf.reduce_sum(tf.square(measured), axis=(2, 3)), axis=1)
    if valid_pixels is None:
        return energy
    far = tf.signal.fftshift(tf.reduce_sum(_power(tf.signal.fft2d(probe)), axis=1), axes=(-2, -1))
    valid = tf.cast(valid_pixels, far.dtype)
    share = tf.reduce_sum(far * valid, axis=(1, 2)) / tf.reduce_sum(far, axis=(1, 2))
    return energy / tf.maximum(share, constants.LEAST_SHARE)


def normalised_groups(
    measured: tf.Tensor,
    relative_offsets_px: tf.Tensor,
    probe: tf.Tensor,
    config: ModelConfig,
    valid_pixels: tf.Tensor | None = None,
) -> Groups:
    """Mirror of `reference.unrolled.normalised_groups`."""
    B, C, N, S = tf.shape(measured)[0], measured.shape[1], config.N, config.canvas_size
    energy = mean_energy(measured, probe, valid_pixels)
    scale = N / tf.sqrt(tf.where(energy > 0, energy, tf.ones_like(energy)))
    amplitude = tf.signal.ifftshift(measured * scale[:, None, None, None], axes=(-2, -1))
    amplitude = tf.reshape(amplitude, (-1, N, N))
    if valid_pixels is None:
        pixel_weights = tf.ones((1, N, N), amplitude.dtype)
    else:
        shifted = tf.cast(tf.signal.ifftshift(valid_pixels, axes=(-2, -1)), amplitude.dtype)
        pixel_weights = tf.repeat(shifted, C, axis=0)
    corners, fractions = tall_views(relative_offsets_px, S, N)
    fractions = tf.cast(fractions, amplitude.dtype)
    factor = N / tf.sqrt(tf.reduce_sum(_power(probe), axis=(1, 2, 3)))
    unit = probe * tf.cast(factor, probe.dtype)[:, None, None, None]
    each = unit if unit.shape[0] == 1 else tf.repeat(unit, C, axis=0)
    lit = tf.broadcast_to(tf.reduce_sum(_power(each), axis=1), tf.shape(amplitude))
    lit = tf.ensure_shape(lit, (None, N, N))
    light = tf.reshape(spread(lit, corners, fractions, tf.zeros((B * S, S), lit.dtype)), (-1, S, S))
    return Groups(amplitude, pixel_weights, corners, fractions, each, light, slow_gain(unit, S))


def tall_views(relative_offsets_px: tf.Tensor, S: int, N: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Mirror of `reference.unrolled.tall_views`."""
    offsets = tf.cast(relative_offsets_px, tf.float64)
    corner = tf.clip_by_value((S - N) // 2 - offsets, 0.0, S - N - constants.CANVAS_RIM)
    first = tf.floor(corner)
    below = S * tf.range(tf.shape(corner, tf.int64)[0])
    tops = tf.stack([tf.zeros_like(below), below], axis=-1)[:, None]
    corners = tf.cast(first, tf.int64) + tops
    return tf.reshape(corners, (-1, 2)), tf.reshape(corner - first, (-1, 2))


def slow_gain(probe: tf.Tensor, S: int) -> tf.Tensor:
    """Mirror of `reference.unrolled.slow_gain`."""
    intensity = tf.reduce_sum(_power(probe), axis=1)
    dtype = intensity.dtype
    # from the middle, because the variance is a difference of squares
    axis = tf.range(probe.shape[-1], dtype=dtype) - probe.shape[-1] // 2
    total = tf.reduce_sum(intensity, axis=(1, 2))
    squared = tf.zeros_like(total)
    for along in (tf.reduce_sum(intensity, axis=1), tf.reduce_sum(intensity, axis=2)):
        mean = tf.linalg.matvec(along, axis) / total
        squared += tf.linalg.matvec(along, tf.square(axis)) / total - tf.square(mean)
    rows, columns = np.fft.fftfreq(S), np.fft.rfftfreq(S)
    frequency = tf.constant((2 * math.pi) ** 2 * (rows[:, None] ** 2 + columns**2), dtype)
    strength, limit = constants.GROUP_SLOW_STRENGTH, constants.GROUP_SLOW_GAIN_LIMIT
    gain = strength / (frequency * squared[:, None, None] / 2 + strength / limit)
    return tf.where(frequency == 0, tf.zeros_like(gain), gain)


def corrected_within(canvas: tf.Tensor, light: tf.Tensor, weights: Weights, N: int) -> tf.Tensor:
    """Mirror of `reference.unrolled.corrected_within`."""
    inner = crop_centre(canvas, N)
    change = corrected(inner, crop_centre(light, N), weights) - inner
    return canvas + pad_centre(change, canvas.shape[-1])


def estimate(canvas: tf.Tensor, groups: Groups, steps: int) -> tf.Tensor:
    """Mirror of `reference.unrolled.estimate`."""
    velocity = tf.zeros_like(canvas)
    for number in range(steps):
        ahead = canvas + constants.GROUP_MOMENTUM * velocity
        moved = step(ahead, groups, slow=number > 0)
        velocity, canvas = moved - canvas, moved
    return canvas


def step(canvas: tf.Tensor, groups: Groups, *, slow: bool) -> tf.Tensor:
    """Mirror of `reference.unrolled.step`."""
    S, N = canvas.shape[-1], groups.measured.shape[-1]
    tall = tf.reshape(canvas, (-1, S))
    seen = views(tall, groups.corners, groups.fractions, N)
    change, _ = modulus_change(
        groups.probe * seen[:, None], groups.measured, groups.pixel_weights, "amplitude"
    )
    towards = tf.reduce_sum(tf.math.conj(groups.probe) * change, axis=1)
    numerator = spread(towards, groups.corners, groups.fractions, tf.zeros_like(tall))
    numerator = tf.reshape(numerator, (-1, S, S))
    brightest = tf.reduce_max(groups.light, axis=(1, 2), keepdims=True)
    moved = numerator / tf.cast(groups.light + constants.GROUP_DAMPING * brightest, numerator.dtype)
    if not slow:
        return canvas + moved
    trusted = groups.light / (groups.light + constants.LOW_LIGHT * brightest)
    turn = tf.math.imag(moved * tf.math.conj(canvas)) / (_power(canvas) + constants.DARK_OBJECT) * trusted
    spectrum = tf.signal.rfft2d(turn)
    turned = tf.signal.irfft2d(spectrum * tf.cast(groups.gain, spectrum.dtype), (S, S))
    return (canvas + moved) * tf.complex(tf.cos(turned), tf.sin(turned))
