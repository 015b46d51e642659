"""Mirror of `ptycho_backends.reference.physics`: from object patches to predicted diffraction.

Images are the last two axes, `[y, x]`. A bilinear translation is separable, so it is two products with
banded matrices: exact for any sub-pixel offset, with a gradient that is summed in a fixed order.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ptycho_backends import constants
from ptycho_backends.config import ModelConfig
from ptycho_backends.reference.physics import smoothing_weights
from ptycho_backends.reference.probe import circular_mask
from ptycho_torch.backend.arrays import constant


def translate(image: Tensor, offset_px: Tensor) -> Tensor:
    """Mirror of `reference.physics.translate`."""
    height, width = image.shape[-2:]
    towards, dtype = _in_double(offset_px), image.real.dtype
    rows = _shift_matrix(height, height, towards[..., 1], dtype)
    columns = _shift_matrix(width, width, towards[..., 0], dtype)
    return _resample(image, rows, columns)


def _in_double(offset_px: Tensor) -> Tensor:
    """Offsets before they are added up: a handful of numbers, whose rounding every pixel would share."""
    # Apple's devices have no float64
    return offset_px if offset_px.device.type == "mps" else offset_px.double()


def _shift_matrix(length_out: int, length_in: int, shift_px: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., out, in) weights of linear interpolation: `out[i] = in[i - shift]`, zero outside."""
    # whole pixels apart: float32 keeps five digits of the fraction of 20.123456
    whole = torch.floor(shift_px)
    fraction = (shift_px - whole).to(dtype)[..., None, None]
    i = torch.arange(length_out, device=shift_px.device, dtype=dtype)[:, None]
    j = torch.arange(length_in, device=shift_px.device, dtype=dtype)[None, :]
    return (1.0 - ((i - j) - whole.to(dtype)[..., None, None] - fraction).abs()).clamp(min=0.0)


def _resample(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`rows @ image @ columns^T`, real and imaginary part each."""
    return _whole(_along_rows(_across_rows(rows, _parts(image)), columns))


def _parts(image: Tensor) -> Tensor:
    """(..., height, parts, width): of each row the real part and the imaginary part, if there is one.

    So laid out, both parts take part in one real product, along rows as well as across them.
    """
    return torch.stack([image.real, image.imag], dim=-2) if image.is_complex() else image[..., None, :]


def _whole(parts: Tensor) -> Tensor:
    """Inverse of `_parts`."""
    return torch.complex(parts[..., 0, :], parts[..., 1, :]) if parts.shape[-2] == 2 else parts[..., 0, :]


def _across_rows(rows: Tensor, parts: Tensor) -> Tensor:
    """`rows @ part` for each part of an image."""
    return (rows @ parts.flatten(-2)).unflatten(-1, parts.shape[-2:])


def _along_rows(parts: Tensor, columns: Tensor) -> Tensor:
    """`part @ columns^T` for each part of an image."""
    return (parts.flatten(-3, -2) @ columns.mT).unflatten(-2, parts.shape[-3:-1])


def pad_centre(image: Tensor, size: int) -> Tensor:
    """Mirror of `reference.physics.pad_centre`."""
    before = (size - image.shape[-1]) // 2
    after = size - image.shape[-1] - before
    return F.pad(image, (before, after, before, after))


def crop_centre(image: Tensor, size: int) -> Tensor:
    """Mirror of `reference.physics.crop_centre`."""
    start = (image.shape[-1] - size) // 2
    return image[..., start : start + size, start : start + size]


def merge_patches(object_patches: Tensor, relative_offsets_px: Tensor, canvas_size: int) -> Tensor:
    """Mirror of `reference.physics.merge_patches`; padding and translation are one product."""
    N = object_patches.shape[-1]
    before = (canvas_size - N) // 2
    offsets, dtype = _in_double(relative_offsets_px), object_patches.real.dtype
    towards = before - (offsets - offsets.mean(dim=1, keepdim=True))
    rows = _shift_matrix(canvas_size, N, towards[..., 1], dtype)
    columns = _shift_matrix(canvas_size, N, towards[..., 0], dtype)
    # the patches of a group below one another: the product across their rows adds them up, too
    moved = _along_rows(_parts(object_patches), columns).flatten(1, 2)
    total = _whole(_across_rows(rows.transpose(1, 2).flatten(2), moved))
    box = slice((N - N // 2) // 2, (N - N // 2) // 2 + N // 2)
    overlap = torch.einsum("bki,bkj->bij", rows[..., box].sum(dim=-1), columns[..., box].sum(dim=-1))
    return total / (overlap + constants.OVERLAP_FLOOR)


def canvas_views(object_canvas: Tensor, relative_offsets_px: Tensor, N: int) -> Tensor:
    """Mirror of `reference.physics.canvas_views`; translation and cropping are one product."""
    size = object_canvas.shape[-1]
    towards, dtype = _in_double(relative_offsets_px) - (size - N) // 2, object_canvas.real.dtype
    rows = _shift_matrix(N, size, towards[..., 1], dtype)
    columns = _shift_matrix(N, size, towards[..., 0], dtype)
    # the rows of all views in one product, instead of a copy of the canvas for each
    moved = _across_rows(rows.flatten(1, 2), _parts(object_canvas))
    return _whole(_along_rows(moved.unflatten(1, rows.shape[1:3]), columns))


def smooth_exit_wave(exit_wave: Tensor, sigma_px: float) -> Tensor:
    """Mirror of `reference.physics.smooth_exit_wave`."""
    side, middle = smoothing_weights(sigma_px)
    rows = torch.cat([exit_wave[..., 1:2, :], exit_wave, exit_wave[..., -2:-1, :]], dim=-2)
    rows = side * (rows[..., :-2, :] + rows[..., 2:, :]) + middle * exit_wave
    columns = torch.cat([rows[..., 1:2], rows, rows[..., -2:-1]], dim=-1)
    return side * (columns[..., :-2] + columns[..., 2:]) + middle * rows


def diffraction_amplitude(exit_wave: Tensor) -> Tensor:
    """Mirror of `reference.physics.diffraction_amplitude`."""
    # abs, not the root of a square: its gradient stays finite where the amplitude is zero
    return torch.fft.fftshift(torch.fft.fft2(exit_wave).abs(), dim=(-2, -1)) / exit_wave.shape[-1]


def exit_waves(views: Tensor, probe: Tensor, config: ModelConfig) -> Tensor:
    """Mirror of `reference.physics.exit_waves`."""
    if probe.ndim > 2:
        views = views[:, :, None]
        probe = probe[:, None] if probe.ndim == 4 else probe
    waves = probe * views
    if config.gaussian_smoothing_sigma > 0:
        waves = smooth_exit_wave(waves, config.gaussian_smoothing_sigma)
    if config.probe_mask:
        key = ("circular_mask", config.N)
        waves = waves * constant(lambda: circular_mask(config.N), key, waves.real)
    return waves


def chosen_probe(probe: Tensor, probe_index: Tensor | None) -> Tensor:
    """Mirror of `reference.physics.chosen_probe`."""
    if probe.ndim < 4:
        return probe
    return probe[0] if probe_index is None else probe[probe_index.long()]


def summed_amplitude(amplitudes: Tensor) -> Tensor:
    """Mirror of `reference.physics.summed_amplitude`."""
    # a norm, not the root of a sum: its gradient stays finite where the amplitude is zero
    return torch.linalg.vector_norm(amplitudes, dim=-3)


def predict_diffraction(
    object_patches: Tensor,
    relative_offsets_px: Tensor,
    probe: Tensor,
    log_scale: Tensor,
    config: ModelConfig,
    probe_index: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mirror of `reference.physics.predict_diffraction`."""
    if config.object_big:
        canvas = merge_patches(object_patches, relative_offsets_px, config.canvas_size)
    else:
        canvas = pad_centre(object_patches[:, 0], config.canvas_size)
    views = canvas_views(canvas, relative_offsets_px, config.N)
    return crop_centre(canvas, config.N), views_amplitude(views, probe, log_scale, config, probe_index)


def views_amplitude(
    views: Tensor,
    probe: Tensor,
    log_scale: Tensor,
    config: ModelConfig,
    probe_index: Tensor | None = None,
) -> Tensor:
    """Mirror of `reference.physics.views_amplitude`."""
    amplitude = diffraction_amplitude(exit_waves(views, chosen_probe(probe, probe_index), config))
    if probe.ndim > 2:
        amplitude = summed_amplitude(amplitude)
    return amplitude * torch.exp(log_scale)
