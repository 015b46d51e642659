"""The network `unrolled` (docs/model.md, section 4): steps of accelerated projections and learned corrections in turn.

B groups, C positions in a group, K probe modes, N the side of a pattern, S the side of the canvas. The canvases of a
batch lie below one another in one tall canvas, so that the views of `refinement` serve them all. No gradient goes
through the steps: that of the loss reaches the last correction, and the probe of the diffraction behind it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.config import ModelConfig
from ptycho_backends.reference.correction import corrected
from ptycho_backends.reference.network import Weights
from ptycho_backends.reference.physics import chosen_probe, crop_centre, pad_centre
from ptycho_backends.reference.probe import circular_mask
from ptycho_backends.reference.refinement import modulus_change, spread, views


class Groups(NamedTuple):
    """Measurement and geometry of a batch of groups, all scales normalised.

    Attributes
    ----------
    measured : (B * C, N, N) real, [ky, kx], zero frequency in the corner
        Amplitudes with the mean square 1 in each group.
    pixel_weights : (B * C or 1, N, N) real, [ky, kx], zero frequency in the corner
        0 for pixels that are invalid, else 1.
    corners, fractions : (B * C, 2) int64 and real, [x, y]
        Of the views of the tall canvas.
    probe : (B * C or 1, K, N, N) complex, [y, x]
        With the mean square 1 of its far field.
    light : (B, S, S) real, [y, x]
        Illumination.
    gain : (B or 1, S, S // 2 + 1) real
        Of slow phases, per frequency of the real FFT.
    """

    measured: NDArray
    pixel_weights: NDArray
    corners: NDArray
    fractions: NDArray
    probe: NDArray
    light: NDArray
    gain: NDArray


def object_canvas(
    measured: NDArray,
    relative_offsets_px: NDArray,
    weights: Weights,
    config: ModelConfig,
    valid_pixels: NDArray | None = None,
    probe_index: NDArray | None = None,
) -> NDArray:
    """The object on the canvas of each group.

    Parameters
    ----------
    measured : (B, C, N, N) real array, [ky, kx]
        `s * X_full`; 0 at invalid pixels.
    relative_offsets_px : (B, C, 2) array, [x, y]
    weights : mapping
    config : ModelConfig
    valid_pixels : (B, N, N) bool array, [ky, kx], optional
        None where all are.
    probe_index : (B,) integer array, optional
        As in `physics.chosen_probe`.

    Returns
    -------
    (B, S, S) complex array, [y, x]
    """
    steps = before_last_correction(measured, relative_offsets_px, weights, config, valid_pixels, probe_index)
    return after_last_correction(steps, weights, config, probe_index)


class Steps(NamedTuple):
    """What the last correction starts from; no gradient goes through it.

    Attributes
    ----------
    canvas : (B, S, S) complex, [y, x]
        After the last steps, with all scales normalised.
    light : (B, S, S) real, [y, x]
        Illumination.
    energy : (B,) real
        Mean energy of a group's whole patterns, in the unit of the probe.
    """

    canvas: NDArray
    light: NDArray
    energy: NDArray


def before_last_correction(
    measured: NDArray,
    relative_offsets_px: NDArray,
    weights: Weights,
    config: ModelConfig,
    valid_pixels: NDArray | None = None,
    probe_index: NDArray | None = None,
) -> Steps:
    """All rounds but the last correction; parameters as `object_canvas`."""
    probe = modes_of_groups(weights, config, probe_index)
    energy = mean_energy(measured, probe, valid_pixels) / np.exp(2 * weights["log_scale"])
    groups = normalised_groups(measured, relative_offsets_px, probe, config, valid_pixels)
    canvas = estimate(np.ones_like(groups.light, probe.dtype), groups, config.n_steps)
    for _ in range(config.n_rounds - 1):
        canvas = corrected_within(canvas, groups.light, weights, config.N)
        canvas = estimate(canvas, groups, constants.LATER_STEPS)
    return Steps(canvas, groups.light, energy)


def after_last_correction(
    steps: Steps, weights: Weights, config: ModelConfig, probe_index: NDArray | None = None
) -> NDArray:
    """The corrected object (B, S, S) complex, `[y, x]`, that gives the patterns their energy."""
    canvas = corrected_within(steps.canvas, steps.light, weights, config.N)
    power = np.sum(np.abs(modes_of_groups(weights, config, probe_index)) ** 2, axis=(1, 2, 3))
    # two roots: that of a quotient has no slope where a pattern is dark, and its gradient would be NaN
    return canvas * (np.sqrt(steps.energy) / np.sqrt(power))[:, None, None]


def modes_of_groups(weights: Weights, config: ModelConfig, probe_index: NDArray | None) -> NDArray:
    """(B or 1, K, N, N) complex, the modes that lit each group, in the mask where there is one."""
    probe = chosen_probe(weights["probe"], probe_index)
    probe = probe if probe.ndim == 4 else probe.reshape(1, -1, config.N, config.N)
    return probe * circular_mask(config.N) if config.probe_mask else probe


def mean_energy(measured: NDArray, probe: NDArray, valid_pixels: NDArray | None) -> NDArray:
    """(B,), mean energy of a group's whole patterns.

    Where pixels are invalid, the measured energy over the fraction of the probe's own far field at the valid ones.
    """
    energy = np.mean(np.sum(measured**2, axis=(2, 3)), axis=1)
    if valid_pixels is None:
        return energy
    far = np.fft.fftshift(np.sum(np.abs(np.fft.fft2(probe)) ** 2, axis=1), axes=(-2, -1))
    share = np.sum(far * valid_pixels, axis=(1, 2)) / np.sum(far, axis=(1, 2))
    return energy / np.maximum(share, constants.LEAST_SHARE)


def normalised_groups(
    measured: NDArray,
    relative_offsets_px: NDArray,
    probe: NDArray,
    config: ModelConfig,
    valid_pixels: NDArray | None = None,
) -> Groups:
    """`Groups` of a batch; photons and the probe's scale cancel out.

    Parameters
    ----------
    measured, relative_offsets_px, valid_pixels
        As in `object_canvas`.
    probe : (B or 1, K, N, N) complex array, [y, x]
    config : ModelConfig
    """
    B, C, N, _ = measured.shape
    S = config.canvas_size
    energy = mean_energy(measured, probe, valid_pixels)
    scale = N / np.sqrt(np.where(energy > 0, energy, 1.0))
    amplitude = np.fft.ifftshift(measured * scale[:, None, None, None], axes=(-2, -1)).reshape(B * C, N, N)
    if valid_pixels is None:
        pixel_weights = np.ones((1, N, N))
    else:
        shifted = np.fft.ifftshift(valid_pixels, axes=(-2, -1)).astype(np.float64)
        pixel_weights = np.repeat(shifted, C, axis=0)
    corners, fractions = tall_views(relative_offsets_px, S, N)
    unit = probe * (N / np.sqrt(np.sum(np.abs(probe) ** 2, axis=(1, 2, 3))))[:, None, None, None]
    each = unit if len(unit) == 1 else np.repeat(unit, C, axis=0)
    lit = np.broadcast_to(np.sum(np.abs(each) ** 2, axis=1), (B * C, N, N))
    light = spread(lit, corners, fractions, np.zeros((B * S, S))).reshape(B, S, S)
    return Groups(amplitude, pixel_weights, corners, fractions, each, light, slow_gain(unit, S))


def tall_views(relative_offsets_px: NDArray, S: int, N: int) -> tuple[NDArray, NDArray]:
    """Corners (B * C, 2) int64 and fractions (B * C, 2) of the views of the tall canvas (B * S, S), `[x, y]`.

    A position beyond its canvas is moved to the edge.
    """
    corner = np.clip((S - N) // 2 - relative_offsets_px, 0.0, S - N - constants.CANVAS_RIM)
    first = np.floor(corner)
    tops = np.stack(np.broadcast_arrays(0, S * np.arange(len(corner))[:, None]), axis=-1)
    return (first.astype(np.int64) + tops).reshape(-1, 2), (corner - first).reshape(-1, 2)


def slow_gain(probe: NDArray, S: int) -> NDArray:
    r"""(b, S, S // 2 + 1), gain of the metric of slow phases for probes (b, K, N, N).

    .. math:: g(k) = s / (k^2 w^2 + s / g_{max}), \quad g(0) = 0

    with the root-mean-square radius `w` of the probe's intensity along one axis.
    """
    intensity = np.sum(np.abs(probe) ** 2, axis=1)
    # from the middle, because the variance is a difference of squares
    axis = np.arange(probe.shape[-1], dtype=np.float64) - probe.shape[-1] // 2
    total = np.sum(intensity, axis=(1, 2))
    squared = np.zeros_like(total)
    for along in (np.sum(intensity, axis=1), np.sum(intensity, axis=2)):
        mean = along @ axis / total
        squared = squared + along @ axis**2 / total - mean**2
    rows, columns = np.fft.fftfreq(S), np.fft.rfftfreq(S)
    frequency = (2 * np.pi) ** 2 * (rows[:, None] ** 2 + columns**2)
    strength, limit = constants.GROUP_SLOW_STRENGTH, constants.GROUP_SLOW_GAIN_LIMIT
    gain = strength / (frequency * squared[:, None, None] / 2 + strength / limit)
    return np.where(frequency == 0, 0.0, gain)


def corrected_within(canvas: NDArray, light: NDArray, weights: Weights, N: int) -> NDArray:
    """(B, S, S) canvases, corrected in their central N x N pixels: there is little light around them."""
    inner = crop_centre(canvas, N)
    change = corrected(inner, crop_centre(light, N), weights) - inner
    return canvas + pad_centre(change, canvas.shape[-1])


def estimate(canvas: NDArray, groups: Groups, steps: int) -> NDArray:
    """(B, S, S) canvases after `steps` accelerated steps on all patterns of each group at once."""
    velocity = np.zeros_like(canvas)
    for number in range(steps):
        ahead = canvas + constants.GROUP_MOMENTUM * velocity
        # the first step from a flat object finds phases at random places
        moved = step(ahead, groups, slow=number > 0)
        velocity, canvas = moved - canvas, moved
    return canvas


def step(canvas: NDArray, groups: Groups, *, slow: bool) -> NDArray:
    """One step in the metric of the illumination and, with `slow`, in that of slow phases; (B, S, S) complex."""
    B, S, _ = canvas.shape
    N = groups.measured.shape[-1]
    tall = canvas.reshape(B * S, S)
    seen = views(tall, groups.corners, groups.fractions, N)
    change, _ = modulus_change(
        groups.probe * seen[:, None], groups.measured, groups.pixel_weights, "amplitude"
    )
    towards = np.sum(groups.probe.conj() * change, axis=1)
    numerator = spread(towards, groups.corners, groups.fractions, np.zeros_like(tall)).reshape(B, S, S)
    brightest = np.max(groups.light, axis=(1, 2), keepdims=True)
    moved = numerator / (groups.light + constants.GROUP_DAMPING * brightest)
    if not slow:
        return canvas + moved
    trusted = groups.light / (groups.light + constants.LOW_LIGHT * brightest)
    turn = np.imag(moved * canvas.conj()) / (np.abs(canvas) ** 2 + constants.DARK_OBJECT) * trusted
    turned = np.fft.irfft2(np.fft.rfft2(turn) * groups.gain, s=(S, S))
    return (canvas + moved) * np.exp(1j * turned)
