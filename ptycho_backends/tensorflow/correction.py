"""Mirror of `ptycho_backends.reference.correction`; images are `(B, y, x, channels)` here."""

import math

import tensorflow as tf

from ptycho_backends import constants
from ptycho_backends.reference.correction import HEAD, tiles
from ptycho_backends.reference.initial_weights import UNET_INPUTS, UNET_LEVELS
from ptycho_backends.tensorflow.network import Weights, conv, max_pool, unet_block, upsample


def corrected(canvas: tf.Tensor, light: tf.Tensor, weights: Weights) -> tf.Tensor:
    """Mirror of `reference.correction.corrected`."""
    factor = unit_factor(canvas, light)
    return canvas + _change(features(canvas * factor, relative_light(light)), weights) / factor


def corrected_parts(canvas: tf.Tensor, light: tf.Tensor, weights: Weights) -> tf.Tensor:
    """Mirror of `reference.correction.corrected_parts`."""
    return canvas + _change(features(canvas, light), weights)


def _change(seen: tf.Tensor, weights: Weights) -> tf.Tensor:
    height, width = tf.unstack(tf.shape(seen)[1:3])
    multiple = 2 ** (UNET_LEVELS - 1)
    padded = tf.pad(seen, [(0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)])
    change = tf.cast(unet(padded, weights), seen.dtype)[:, :height, :width]
    return tf.complex(change[..., 0], change[..., 1])


def corrected_scan(canvas: tf.Tensor, light: tf.Tensor, weights: Weights) -> tf.Tensor:
    """Mirror of `reference.correction.corrected_scan`."""
    factor = unit_factor(canvas[None], light[None])[0]
    seen = features((canvas * factor)[None], relative_light(light[None]))
    rows: dict[int, list[tf.Tensor]] = {}
    for inner, outer, within in tiles(*canvas.shape):
        found = _change(seen[:, outer[0], outer[1]], weights)[0]
        rows.setdefault(inner[0].start, []).append(found[within])
    change = tf.concat([tf.concat(row, axis=1) for row in rows.values()], axis=0)
    return canvas + change / factor


def unit_factor(canvas: tf.Tensor, light: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.correction.unit_factor`."""
    real, imag = tf.math.real(canvas), tf.math.imag(canvas)
    size = tf.sqrt(_mean(tf.square(real) + tf.square(imag), light))
    mean = tf.complex(_mean(real, light), _mean(imag, light))
    modulus = tf.abs(mean)
    turned, lit = modulus > 0, size > 0
    divisor = tf.cast(tf.where(turned, modulus, tf.ones_like(modulus)), canvas.dtype)
    phase = tf.where(turned, tf.math.conj(mean) / divisor, tf.ones_like(mean))
    return phase / tf.cast(tf.where(lit, size, tf.ones_like(size)), canvas.dtype)


def _mean(values: tf.Tensor, light: tf.Tensor) -> tf.Tensor:
    total = tf.reduce_sum(light, axis=(1, 2), keepdims=True)
    summed = tf.reduce_sum(values * light, axis=(1, 2), keepdims=True)
    return summed / tf.where(total > 0, total, tf.ones_like(total))


def relative_light(light: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.correction.relative_light`."""
    brightest = tf.reduce_max(light, axis=(1, 2), keepdims=True)
    return light / tf.where(brightest > 0, brightest, tf.ones_like(brightest))


def features(canvas: tf.Tensor, light: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.correction.features`."""
    seen = tf.math.log1p(constants.LIGHT_CONTRAST * light) / math.log1p(constants.LIGHT_CONTRAST)
    return tf.stack([tf.math.real(canvas) - 1.0, tf.math.imag(canvas), seen], axis=-1)


def unet(image: tf.Tensor, weights: Weights) -> tf.Tensor:
    """Mirror of `reference.correction.unet`."""
    image = tf.ensure_shape(image, (None, None, None, UNET_INPUTS))
    kept = []
    for level in range(UNET_LEVELS):
        image = unet_block(max_pool(image) if level else image, weights, f"encoder/block{level}")
        kept.append(image)
    for level in reversed(range(UNET_LEVELS - 1)):
        joined = tf.concat([upsample(image), kept[level]], axis=-1)
        image = unet_block(joined, weights, f"decoder/block{level}")
    return conv(image, weights, HEAD)
