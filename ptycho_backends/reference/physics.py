"""From object patches to predicted diffraction (docs/model.md, sections 1, 2 and 5).

Images are the last two axes, `[y, x]`; positions are `[x, y]` in object pixels. B groups, C positions
in a group, N the side of a pattern, S the side of the canvas.
"""

import numpy as np
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.config import ModelConfig
from ptycho_backends.reference.probe import circular_mask


def translate(image: NDArray, offset_px: NDArray) -> NDArray:
    r"""Move the content of an image by an offset, bilinearly.

    .. math:: out[y, x] = image[y - t_y, x - t_x]

    each of the four source pixels counting as zero where it lies outside the image.

    Parameters
    ----------
    image : (..., H, W) real or complex array, [y, x]
    offset_px : (..., 2) real array, [x, y]
        Pixels; leading axes broadcast against those of `image`.

    Returns
    -------
    (..., H, W) array, dtype of `image`

    References
    ----------
    docs/model.md, section 1.
    """
    return _shift(_shift(image, offset_px[..., 1], -2), offset_px[..., 0], -1)


def _shift(image: NDArray, shift_px: NDArray, axis: int) -> NDArray:
    """One axis of `translate`; bilinear interpolation is the product of two linear ones."""
    length = image.shape[axis]
    source = np.arange(length) - np.asarray(shift_px)[..., None]
    lower = np.floor(source).astype(np.int64)
    fraction = source - lower
    moved = np.zeros(1, image.dtype)
    for index, weight in ((lower, 1.0 - fraction), (lower + 1, fraction)):
        inside = (index >= 0) & (index < length)
        index = np.clip(index, 0, length - 1)
        weight = np.where(inside, weight, 0.0)
        other = -1 if axis == -2 else -2
        index, weight = np.expand_dims(index, other), np.expand_dims(weight, other)
        leading = np.broadcast_shapes(image.shape[:-2], index.shape[:-2])
        spread = np.broadcast_to(image, leading + image.shape[-2:])
        taken = np.take_along_axis(spread, np.broadcast_to(index, leading + index.shape[-2:]), axis)
        moved = moved + taken * weight
    return moved.astype(np.result_type(image.dtype, np.float64) if image.dtype.kind in "iu" else image.dtype)


def pad_centre(image: NDArray, size: int) -> NDArray:
    """Zero-pad the last two axes of `image` to `size`; an odd pixel goes to the end."""
    before = (size - image.shape[-1]) // 2
    after = size - image.shape[-1] - before
    return np.pad(image, [(0, 0)] * (image.ndim - 2) + [(before, after)] * 2)


def crop_centre(image: NDArray, size: int) -> NDArray:
    """The central `size` x `size` pixels of the last two axes; inverse of `pad_centre`."""
    start = (image.shape[-1] - size) // 2
    return image[..., start : start + size, start : start + size]


def central_box(N: int) -> NDArray[np.float64]:
    """(N, N) array, 1 in the central N/2 x N/2 square, else 0: where patches are trusted."""
    return pad_centre(np.ones((N // 2, N // 2)), N)


def merge_patches(object_patches: NDArray, relative_offsets_px: NDArray, canvas_size: int) -> NDArray:
    r"""Merge the overlapping patches of a group into one canvas.

    .. math:: O = \sum_k T_{-r_k} p_k \Big/ \Big(\sum_k T_{-r_k} 1_{box} + 0.001\Big)

    with :math:`1_{box}` 1 in the central N/2 square. Offsets are centred to zero mean per group first,
    so that a prediction does not depend on its batch.

    Parameters
    ----------
    object_patches : (B, C, N, N) complex array, [y, x]
    relative_offsets_px : (B, C, 2) array, [x, y]
        `r`, minus the position relative to the group's centre.
    canvas_size : int
        `S`, pixels.

    Returns
    -------
    (B, S, S) complex array, [y, x]

    References
    ----------
    docs/model.md, section 5.
    """
    towards = -(relative_offsets_px - relative_offsets_px.mean(axis=1, keepdims=True))
    box = pad_centre(central_box(object_patches.shape[-1]), canvas_size)
    total = translate(pad_centre(object_patches, canvas_size), towards).sum(axis=1)
    overlap = translate(box, towards).sum(axis=1)
    return total / (overlap + constants.OVERLAP_FLOOR)


def canvas_views(object_canvas: NDArray, relative_offsets_px: NDArray, N: int) -> NDArray:
    """The view of the canvas from each position: moved by `+r_k`, cut to the central N x N.

    Parameters
    ----------
    object_canvas : (B, S, S) complex array, [y, x]
    relative_offsets_px : (B, C, 2) array, [x, y]
    N : int

    Returns
    -------
    (B, C, N, N) complex array, [y, x]

    References
    ----------
    docs/model.md, section 5.
    """
    return crop_centre(translate(object_canvas[:, None], relative_offsets_px), N)


def smooth_exit_wave(exit_wave: NDArray, sigma_px: float) -> NDArray:
    """Convolve with the 3x3 kernel `w w^T`, `w = softmax(-[1, 0, 1] / (2 sigma^2))`, reflect padding.

    Parameters
    ----------
    exit_wave : (..., N, N) complex array, [y, x]
    sigma_px : float
        Pixels; > 0.
    """
    side, middle = smoothing_weights(sigma_px)
    padded = np.pad(exit_wave, [(0, 0)] * (exit_wave.ndim - 2) + [(1, 1)] * 2, mode="reflect")
    rows = side * (padded[..., :-2, :] + padded[..., 2:, :]) + middle * padded[..., 1:-1, :]
    return side * (rows[..., :-2] + rows[..., 2:]) + middle * rows[..., 1:-1]


def smoothing_weights(sigma_px: float) -> tuple[float, float]:
    """(outer, central) weight of `smooth_exit_wave`; twice the outer and the central sum to 1."""
    outer = float(np.exp(-1.0 / (2.0 * sigma_px**2)))
    return outer / (1.0 + 2.0 * outer), 1.0 / (1.0 + 2.0 * outer)


def diffraction_amplitude(exit_wave: NDArray) -> NDArray:
    r"""Far-field diffraction amplitude of an exit wave.

    .. math:: A = \mathrm{fftshift}\,|\mathcal{F}\psi| \, / \, N

    so that the energies agree: :math:`\sum A^2 = \sum |\psi|^2`.

    Parameters
    ----------
    exit_wave : (..., N, N) complex array, [y, x]
        Wave just behind the object.

    Returns
    -------
    (..., N, N) real array, [ky, kx]
        Zero frequency in the array centre `[N//2, N//2]`.

    References
    ----------
    docs/model.md, section 5.
    """
    return np.fft.fftshift(np.abs(np.fft.fft2(exit_wave)), axes=(-2, -1)) / exit_wave.shape[-1]


def exit_waves(views: NDArray, probe: NDArray, config: ModelConfig) -> NDArray:
    """Probe times view, with the smoothing and the mask that `config` enables.

    Parameters
    ----------
    views : (B, C, N, N) complex array, [y, x]
    probe : (N, N), (modes, N, N) or (B, modes, N, N) complex array, [y, x]
        One for all groups, several modes of it, or modes for each group.
    config : ModelConfig

    Returns
    -------
    (B, C, N, N) complex array, [y, x]
        With modes (B, C, modes, N, N).

    References
    ----------
    docs/model.md, section 5.
    """
    if probe.ndim > 2:
        views = views[:, :, None]
        probe = probe[:, None] if probe.ndim == 4 else probe
    waves = probe * views
    if config.gaussian_smoothing_sigma > 0:
        waves = smooth_exit_wave(waves, config.gaussian_smoothing_sigma)
    if config.probe_mask:
        waves = waves * circular_mask(config.N)
    return waves


def chosen_probe(probe: NDArray, probe_index: NDArray | None) -> NDArray:
    """The probe that lit each group, of a model that has several.

    Parameters
    ----------
    probe : (N, N), (modes, N, N) or (probes, modes, N, N) complex array, [y, x]
    probe_index : (B,) integer array, optional
        Number of each group's probe; None for the first of several.

    Returns
    -------
    complex array, [y, x]
        `probe` itself where there is one; else (B, modes, N, N), or (modes, N, N) without `probe_index`.

    References
    ----------
    docs/model.md, section 5.
    """
    if probe.ndim < 4:
        return probe
    return probe[0] if probe_index is None else probe[probe_index]


def summed_amplitude(amplitudes: NDArray) -> NDArray:
    r"""Amplitude of mutually incoherent modes, whose intensities add up.

    .. math:: A = \sqrt{\sum_p A_p^2}

    Its gradient is zero where :math:`A` is.

    Parameters
    ----------
    amplitudes : (..., modes, N, N) real array, [ky, kx]

    Returns
    -------
    (..., N, N) real array, [ky, kx]

    References
    ----------
    docs/model.md, section 5.
    """
    return np.sqrt(np.sum(np.square(amplitudes), axis=-3))


def predict_diffraction(
    object_patches: NDArray,
    relative_offsets_px: NDArray,
    probe: NDArray,
    log_scale: NDArray,
    config: ModelConfig,
    probe_index: NDArray | None = None,
) -> tuple[NDArray, NDArray]:
    """The object around the group's centre, and the diffraction amplitude it predicts.

    Parameters
    ----------
    object_patches : (B, c, N, N) complex array, [y, x]
        `c = C` with `object_big`, else 1.
    relative_offsets_px : (B, C, 2) array, [x, y]
    probe : (N, N), (modes, N, N) or (probes, modes, N, N) complex array, [y, x]
    log_scale : scalar array
    config : ModelConfig
    probe_index : (B,) integer array, optional
        As in `chosen_probe`.

    Returns
    -------
    object : (B, N, N) complex array, [y, x]
    amplitude : (B, C, N, N) real array, [ky, kx]
        Multiplied by `exp(log_scale)`: the root of photons.

    References
    ----------
    docs/model.md, section 5.
    """
    if config.object_big:
        canvas = merge_patches(object_patches, relative_offsets_px, config.canvas_size)
    else:
        canvas = pad_centre(object_patches[:, 0], config.canvas_size)
    views = canvas_views(canvas, relative_offsets_px, config.N)
    return crop_centre(canvas, config.N), views_amplitude(views, probe, log_scale, config, probe_index)


def views_amplitude(
    views: NDArray,
    probe: NDArray,
    log_scale: NDArray,
    config: ModelConfig,
    probe_index: NDArray | None = None,
) -> NDArray:
    """Diffraction amplitude (B, C, N, N) of the object as seen from each position, times `exp(log_scale)`.

    Parameters
    ----------
    views : (B, C, N, N) complex array, [y, x]
    probe, log_scale, config, probe_index
        As in `predict_diffraction`.
    """
    amplitude = diffraction_amplitude(exit_waves(views, chosen_probe(probe, probe_index), config))
    if probe.ndim > 2:
        amplitude = summed_amplitude(amplitude)
    return amplitude * np.exp(log_scale)


def extract_patches(object_image: NDArray, positions_px: NDArray, N: int) -> NDArray:
    """The view of the object from each position: `patch[i, j] = object[i + y - N/2, j + x - N/2]`.

    Bilinear; zero outside the image. Memory grows with the patches, not with the image.

    Parameters
    ----------
    object_image : (H, W) complex array, [y, x]
    positions_px : (..., 2) array, [x, y]
        Patch centres in object pixels.
    N : int
        Side of a patch, pixels.

    Returns
    -------
    (..., N, N) array, dtype of `object_image`, [y, x]

    References
    ----------
    docs/model.md, section 2, item 4.
    """
    corner = np.asarray(positions_px, np.float64) - N // 2
    first = np.floor(corner).astype(np.int64)
    fraction = corner - first
    # a pixel of zeros around the image stands for everything outside it
    framed = np.pad(object_image, 1)
    height, width = framed.shape
    columns = np.clip(first[..., 0, None] + np.arange(N + 1) + 1, 0, width - 1)
    rows = np.clip(first[..., 1, None] + np.arange(N + 1) + 1, 0, height - 1)
    window = framed[rows[..., :, None], columns[..., None, :]]
    right = fraction[..., 0, None, None]
    down = fraction[..., 1, None, None]
    across = window[..., :-1] * (1 - right) + window[..., 1:] * right
    patches = across[..., :-1, :] * (1 - down) + across[..., 1:, :] * down
    return patches.astype(object_image.dtype)
