"""Mirror of `ptycho_backends.reference.losses`."""

import tensorflow as tf

from ptycho_backends.config import TrainingConfig
from ptycho_backends.errors import ScanError
from ptycho_backends.reference import constants


def poisson_nll(intensity: tf.Tensor, measured_intensity: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.losses.poisson_nll`."""
    floored = tf.maximum(intensity, constants.INTENSITY_FLOOR)
    return tf.reduce_mean(intensity - measured_intensity * tf.math.log(floored))


def amplitude_mae(amplitude: tf.Tensor, measured_amplitude: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.losses.amplitude_mae`."""
    return tf.reduce_mean(tf.abs(amplitude - measured_amplitude))


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


def _phase(image: tf.Tensor) -> tf.Tensor:
    # the angle of -0 - 0i is minus pi: which zero it is must not matter; nor may the gradient be NaN there
    real, imag = tf.math.real(image), tf.math.imag(image)
    empty = (real == 0) & (imag == 0)
    return tf.atan2(tf.where(empty, tf.zeros_like(imag), imag), tf.where(empty, tf.ones_like(real), real))


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
) -> dict[str, tf.Tensor]:
    """Mirror of `reference.losses.loss_terms`."""
    terms: dict[str, tf.Tensor] = {}
    if config.model.model_type == "supervised":
        truth = required(patches_truth) if config.model.object_big else required(object_truth)[:, None]
        terms["supervised"] = object_mae(object_patches, truth)
        return {**terms, "total": terms["supervised"]}
    total = tf.zeros((), amplitude.dtype)
    if config.nll_weight:
        terms["nll"] = poisson_nll(tf.square(amplitude), tf.square(measured_amplitude))
        total = total + config.nll_weight * terms["nll"]
    if config.mae_weight:
        terms["mae"] = amplitude_mae(amplitude, measured_amplitude)
        total = total + config.mae_weight * terms["mae"]
    if config.realspace_weight and config.tv_weight:
        terms["tv"] = total_variation(object_image)
        total = total + config.realspace_weight * config.tv_weight * terms["tv"]
    if config.realspace_weight and config.realspace_mae_weight:
        terms["realspace_mae"] = object_mae(object_image, required(object_truth))
        total = total + config.realspace_weight * config.realspace_mae_weight * terms["realspace_mae"]
    return {**terms, "total": total}
