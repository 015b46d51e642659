"""Mirror of `ptycho_backends.reference.physics`: from object patches to predicted diffraction.

Images are the last two axes, `[y, x]`. A bilinear translation is separable, so it is two products with
banded matrices: exact for any sub-pixel offset, with a gradient that is summed in a fixed order.
"""

import numpy as np
import tensorflow as tf

from ptycho_backends import constants
from ptycho_backends.config import ModelConfig
from ptycho_backends.reference.physics import smoothing_weights
from ptycho_backends.reference.probe import circular_mask


def translate(image: tf.Tensor, offset_px: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.physics.translate`."""
    height, width = image.shape[-2:]
    towards, dtype = _in_double(offset_px), image.dtype.real_dtype
    rows = _shift_matrix(height, height, towards[..., 1], dtype)
    columns = _shift_matrix(width, width, towards[..., 0], dtype)
    return _resample(image, rows, columns)


def _in_double(offset_px: tf.Tensor) -> tf.Tensor:
    """Offsets before they are added up: a handful of numbers, whose rounding every pixel would share."""
    return tf.cast(offset_px, tf.float64)


def _shift_matrix(length_out: int, length_in: int, shift_px: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """(..., out, in) weights of linear interpolation: `out[i] = in[i - shift]`, zero outside."""
    # whole pixels apart: float32 keeps five digits of the fraction of 20.123456
    whole = tf.floor(shift_px)
    fraction = tf.cast(shift_px - whole, dtype)[..., None, None]
    i = tf.range(length_out, dtype=dtype)[:, None]
    j = tf.range(length_in, dtype=dtype)[None, :]
    return tf.nn.relu(1.0 - tf.abs((i - j) - tf.cast(whole, dtype)[..., None, None] - fraction))


def _resample(image: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """`rows @ image @ columns^T`, real and imaginary part each."""
    if not image.dtype.is_complex:
        return tf.matmul(rows @ image, columns, transpose_b=True)
    real, imag = tf.math.real(image), tf.math.imag(image)
    return tf.complex(_resample(real, rows, columns), _resample(imag, rows, columns))


def pad_centre(image: tf.Tensor, size: int) -> tf.Tensor:
    """Mirror of `reference.physics.pad_centre`."""
    before = (size - image.shape[-1]) // 2
    after = size - image.shape[-1] - before
    return tf.pad(image, [(0, 0)] * (len(image.shape) - 2) + [(before, after)] * 2)


def crop_centre(image: tf.Tensor, size: int) -> tf.Tensor:
    """Mirror of `reference.physics.crop_centre`."""
    start = (image.shape[-1] - size) // 2
    return image[..., start : start + size, start : start + size]


def merge_patches(object_patches: tf.Tensor, relative_offsets_px: tf.Tensor, canvas_size: int) -> tf.Tensor:
    """Mirror of `reference.physics.merge_patches`; padding and translation are one product."""
    N = object_patches.shape[-1]
    before = (canvas_size - N) // 2
    offsets, dtype = _in_double(relative_offsets_px), object_patches.dtype.real_dtype
    towards = before - (offsets - tf.reduce_mean(offsets, axis=1, keepdims=True))
    rows = _shift_matrix(canvas_size, N, towards[..., 1], dtype)
    columns = _shift_matrix(canvas_size, N, towards[..., 0], dtype)
    total = tf.reduce_sum(_resample(object_patches, rows, columns), axis=1)
    box = slice((N - N // 2) // 2, (N - N // 2) // 2 + N // 2)
    covered = tf.reduce_sum(rows[..., box], axis=-1), tf.reduce_sum(columns[..., box], axis=-1)
    overlap = tf.matmul(*covered, transpose_a=True)
    return total / tf.cast(overlap + constants.OVERLAP_FLOOR, total.dtype)


def canvas_views(object_canvas: tf.Tensor, relative_offsets_px: tf.Tensor, N: int) -> tf.Tensor:
    """Mirror of `reference.physics.canvas_views`; translation and cropping are one product."""
    size = object_canvas.shape[-1]
    towards, dtype = _in_double(relative_offsets_px) - (size - N) // 2, object_canvas.dtype.real_dtype
    rows = _shift_matrix(N, size, towards[..., 1], dtype)
    columns = _shift_matrix(N, size, towards[..., 0], dtype)
    return _resample(object_canvas[:, None], rows, columns)


def smooth_exit_wave(exit_wave: tf.Tensor, sigma_px: float) -> tf.Tensor:
    """Mirror of `reference.physics.smooth_exit_wave`."""
    side, middle = smoothing_weights(sigma_px)
    rows = tf.concat([exit_wave[..., 1:2, :], exit_wave, exit_wave[..., -2:-1, :]], axis=-2)
    rows = side * (rows[..., :-2, :] + rows[..., 2:, :]) + middle * exit_wave
    columns = tf.concat([rows[..., 1:2], rows, rows[..., -2:-1]], axis=-1)
    return side * (columns[..., :-2] + columns[..., 2:]) + middle * rows


def diffraction_amplitude(exit_wave: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.physics.diffraction_amplitude`."""
    # abs, not the root of a square: its gradient stays finite where the amplitude is zero
    return tf.signal.fftshift(tf.abs(tf.signal.fft2d(exit_wave)), axes=(-2, -1)) / exit_wave.shape[-1]


def exit_waves(views: tf.Tensor, probe: tf.Tensor, config: ModelConfig) -> tf.Tensor:
    """Mirror of `reference.physics.exit_waves`."""
    if len(probe.shape) > 2:
        views = views[:, :, None]
        probe = probe[:, None] if len(probe.shape) == 4 else probe
    waves = probe * views
    if config.gaussian_smoothing_sigma > 0:
        waves = smooth_exit_wave(waves, config.gaussian_smoothing_sigma)
    if config.probe_mask:
        waves = waves * tf.cast(circular_mask(config.N), waves.dtype)
    return waves


def chosen_probe(probe: tf.Tensor, probe_index: tf.Tensor | None) -> tf.Tensor:
    """Mirror of `reference.physics.chosen_probe`."""
    if len(probe.shape) < 4:
        return probe
    return probe[0] if probe_index is None else tf.gather(probe, probe_index)


def summed_amplitude(amplitudes: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.physics.summed_amplitude`."""
    intensity = tf.reduce_sum(tf.square(amplitudes), axis=-3)
    # the gradient divides by the amplitude: where that underflows it would be NaN, and is zero
    lit = intensity >= np.finfo(intensity.dtype.as_numpy_dtype).tiny
    return tf.where(lit, tf.sqrt(tf.where(lit, intensity, tf.ones_like(intensity))), tf.zeros_like(intensity))


def predict_diffraction(
    object_patches: tf.Tensor,
    relative_offsets_px: tf.Tensor,
    probe: tf.Tensor,
    log_scale: tf.Tensor,
    config: ModelConfig,
    probe_index: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mirror of `reference.physics.predict_diffraction`."""
    if config.object_big:
        canvas = merge_patches(object_patches, relative_offsets_px, config.canvas_size)
    else:
        canvas = pad_centre(object_patches[:, 0], config.canvas_size)
    views = canvas_views(canvas, relative_offsets_px, config.N)
    return crop_centre(canvas, config.N), views_amplitude(views, probe, log_scale, config, probe_index)


def views_amplitude(
    views: tf.Tensor,
    probe: tf.Tensor,
    log_scale: tf.Tensor,
    config: ModelConfig,
    probe_index: tf.Tensor | None = None,
) -> tf.Tensor:
    """Mirror of `reference.physics.views_amplitude`."""
    amplitude = diffraction_amplitude(exit_waves(views, chosen_probe(probe, probe_index), config))
    if len(probe.shape) > 2:
        amplitude = summed_amplitude(amplitude)
    return amplitude * tf.exp(log_scale)
