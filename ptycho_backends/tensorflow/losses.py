"""Mirror of `ptycho_backends.reference.losses`."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from ptycho_backends import constants
from ptycho_backends.config import TrainingConfig
from ptycho_backends.errors import ScanError
from ptycho_backends.training.loss_weights import loss_weights, weighted_sum


def poisson_nll(
    intensity: tf.Tensor, measured_intensity: tf.Tensor, valid_pixels: tf.Tensor | None = None
) -> tf.Tensor:
    """Mirror of `reference.losses.poisson_nll`."""
    floored = tf.maximum(intensity, constants.INTENSITY_FLOOR)
    return _mean(intensity - measured_intensity * tf.math.log(floored), valid_pixels)


def amplitude_mae(
    amplitude: tf.Tensor, measured_amplitude: tf.Tensor, valid_pixels: tf.Tensor | None = None
) -> tf.Tensor:
    """Mirror of `reference.losses.amplitude_mae`."""
    return _mean(tf.abs(amplitude - measured_amplitude), valid_pixels)


def _mean(values: tf.Tensor, valid_pixels: tf.Tensor | None) -> tf.Tensor:
    if valid_pixels is None:
        return tf.reduce_mean(values)
    valid = tf.cast(valid_pixels, values.dtype)
    weights = valid / tf.reduce_mean(valid, axis=(-2, -1), keepdims=True)
    return tf.reduce_mean(values * weights[:, None])


def total_variation(object_image: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.losses.total_variation`."""
    parts = tf.stack([tf.math.real(object_image), tf.math.imag(object_image)], axis=1)
    down = tf.square(parts[..., 1:, :] - parts[..., :-1, :])
    right = tf.square(parts[..., 1:] - parts[..., :-1])
    return (tf.reduce_sum(down) + tf.reduce_sum(right)) / tf.cast(tf.shape(parts)[0], parts.dtype)


def object_mae(object_image: tf.Tensor, truth: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.losses.object_mae`."""
    amplitude = tf.reduce_mean(tf.abs(tf.abs(object_image) - tf.abs(truth)))
    return amplitude + tf.reduce_mean(tf.abs(_phase(object_image) - _phase(truth)))


def amplitude_variation(object_image: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.losses.amplitude_variation`."""
    amplitude = tf.abs(object_image)
    down = amplitude[..., 1:, :] - amplitude[..., :-1, :]
    right = amplitude[..., 1:] - amplitude[..., :-1]
    return tf.reduce_mean(tf.square(down)) + tf.reduce_mean(tf.square(right))


def phase_variation(object_image: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.losses.phase_variation`."""
    down = _phase(object_image[..., 1:, :] * tf.math.conj(object_image[..., :-1, :]))
    right = _phase(object_image[..., 1:] * tf.math.conj(object_image[..., :-1]))
    return tf.reduce_mean(tf.square(down)) + tf.reduce_mean(tf.square(right))


def amplitude_deviation(object_image: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.losses.amplitude_deviation`."""
    amplitude = tf.abs(object_image)
    return tf.reduce_mean(tf.abs(amplitude - tf.reduce_mean(amplitude, axis=(-2, -1), keepdims=True)))


def phase_deviation(object_image: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.losses.phase_deviation`."""
    phase = _phase(object_image)
    # through the angle, whose gradient is zero where the image is
    lit = tf.cast(object_image != 0, phase.dtype)
    directions = tf.complex(lit * tf.cos(phase), lit * tf.sin(phase))
    mean = tf.reduce_mean(directions, axis=(-2, -1), keepdims=True)
    return tf.reduce_mean(tf.abs(_phase(directions * tf.math.conj(mean))))


def amplitude_variance(object_image: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.losses.amplitude_variance`."""
    amplitude = tf.abs(object_image)
    return tf.reduce_mean(tf.square(amplitude - tf.reduce_mean(amplitude, axis=(-2, -1), keepdims=True)))


def auxiliary_terms(config: TrainingConfig, object_image: tf.Tensor) -> dict[str, tuple[float, tf.Tensor]]:
    """Mirror of `reference.losses.auxiliary_terms`."""
    margin = object_image.shape[-1] // 4
    inner = object_image[..., margin : object_image.shape[-1] - margin, :]
    inner = inner[..., margin : object_image.shape[-1] - margin]
    amplitude = {"Total_Variation": amplitude_variation, "Mean_Deviation": amplitude_deviation}
    phase = {"Total_Variation": phase_variation, "Mean_Deviation": phase_deviation}
    terms: dict[str, tuple[float, tf.Tensor]] = {}
    if config.amp_loss and config.amp_loss_coeff:
        terms["amp_loss"] = config.amp_loss_coeff, amplitude[config.amp_loss](inner)
    if config.phase_loss and config.phase_loss_coeff:
        terms["phase_loss"] = config.phase_loss_coeff, phase[config.phase_loss](inner)
    if config.amplitude_variance_coeff:
        terms["amplitude_variance"] = config.amplitude_variance_coeff, amplitude_variance(inner)
    return terms


def _phase(image: tf.Tensor) -> tf.Tensor:
    # the gradient divides by the square of the modulus: where that underflows it would be NaN, and is zero
    square = tf.square(tf.math.real(image)) + tf.square(tf.math.imag(image))
    image = tf.where(square >= np.finfo(square.dtype.as_numpy_dtype).tiny, image, tf.stop_gradient(image))
    # the angle of -0 - 0i is minus pi: the sign of a zero must not matter
    return tf.where(image == 0, tf.zeros_like(square), tf.math.angle(image))


def required(truth: tf.Tensor | None) -> tf.Tensor:
    """Mirror of `reference.losses.required`."""
    if truth is None:
        raise ScanError(
            "objectGuess: got none, but supervised training and the real-space error compare with it"
        )
    return truth


def loss_terms(
    config: TrainingConfig,
    object_patches: tf.Tensor,
    object_image: tf.Tensor,
    amplitude: tf.Tensor,
    measured_amplitude: tf.Tensor,
    patches_truth: tf.Tensor | None,
    object_truth: tf.Tensor | None,
    valid_pixels: tf.Tensor | None = None,
) -> dict[str, tf.Tensor]:
    """Mirror of `reference.losses.loss_terms`."""
    functions: dict[str, Callable[[], tf.Tensor]] = {
        "supervised": lambda: object_mae(
            object_patches,
            required(patches_truth) if config.model.object_big else required(object_truth)[:, None],
        ),
        "nll": lambda: poisson_nll(tf.square(amplitude), tf.square(measured_amplitude), valid_pixels),
        "mae": lambda: amplitude_mae(amplitude, measured_amplitude, valid_pixels),
        "tv": lambda: total_variation(object_image),
        "realspace_mae": lambda: object_mae(object_image, required(object_truth)),
    }
    weighted = {name: (weight, functions[name]()) for name, weight in loss_weights(config).items()}
    weighted |= auxiliary_terms(config, object_image)
    total = weighted_sum(weighted.values(), tf.zeros((), amplitude.dtype))
    return {**{name: value for name, (_, value) in weighted.items()}, "total": total}
