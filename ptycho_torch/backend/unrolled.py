"""Mirror of `ptycho_backends.reference.unrolled`: accelerated steps and learned corrections in turn."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_backends import constants
from ptycho_backends.config import ModelConfig
from ptycho_backends.reference.probe import circular_mask
from ptycho_torch.backend.arrays import constant
from ptycho_torch.backend.correction import corrected
from ptycho_torch.backend.network import Weights
from ptycho_torch.backend.physics import chosen_probe, crop_centre, pad_centre
from ptycho_torch.backend.refinement import modulus_change, spread, views


class Groups(NamedTuple):
    """As the mirrored class."""

    measured: Tensor
    pixel_weights: Tensor
    corners: Tensor
    fractions: Tensor
    probe: Tensor
    light: Tensor
    gain: Tensor


def object_canvas(
    measured: Tensor,
    relative_offsets_px: Tensor,
    weights: Weights,
    config: ModelConfig,
    valid_pixels: Tensor | None = None,
    probe_index: Tensor | None = None,
) -> Tensor:
    """Mirror of `reference.unrolled.object_canvas`."""
    steps = before_last_correction(measured, relative_offsets_px, weights, config, valid_pixels, probe_index)
    return after_last_correction(steps, weights, config, probe_index)


class Steps(NamedTuple):
    """As the mirrored class."""

    canvas: Tensor
    light: Tensor
    energy: Tensor


def before_last_correction(
    measured: Tensor,
    relative_offsets_px: Tensor,
    weights: Weights,
    config: ModelConfig,
    valid_pixels: Tensor | None = None,
    probe_index: Tensor | None = None,
) -> Steps:
    """Mirror of `reference.unrolled.before_last_correction`."""
    # the correction alone computes in mixed precision
    exactly = torch.autocast(measured.device.type, enabled=False)
    with torch.no_grad(), exactly:
        probe = modes_of_groups(weights, config, probe_index)
        energy = mean_energy(measured, probe, valid_pixels) / torch.exp(2 * weights["log_scale"])
        groups = normalised_groups(measured, relative_offsets_px, probe, config, valid_pixels)
        canvas = estimate(torch.ones_like(groups.light, dtype=probe.dtype), groups, config.n_steps)
    for _ in range(config.n_rounds - 1):
        # with gradients: mixed precision would keep kernels that it has cast without them
        canvas = corrected_within(canvas, groups.light, weights, config.N).detach()
        with torch.no_grad(), exactly:
            canvas = estimate(canvas, groups, constants.LATER_STEPS)
    return Steps(canvas, groups.light, energy)


def after_last_correction(
    steps: Steps, weights: Weights, config: ModelConfig, probe_index: Tensor | None = None
) -> Tensor:
    """Mirror of `reference.unrolled.after_last_correction`."""
    canvas = corrected_within(steps.canvas, steps.light, weights, config.N)
    power = _power(modes_of_groups(weights, config, probe_index)).sum(dim=(1, 2, 3))
    return canvas * (torch.sqrt(steps.energy) / torch.sqrt(power))[:, None, None]


def modes_of_groups(weights: Weights, config: ModelConfig, probe_index: Tensor | None) -> Tensor:
    """Mirror of `reference.unrolled.modes_of_groups`."""
    probe = chosen_probe(torch.view_as_complex(weights["probe"]), probe_index)
    probe = probe if probe.ndim == 4 else probe.reshape(1, -1, config.N, config.N)
    if not config.probe_mask:
        return probe
    return probe * constant(lambda: circular_mask(config.N), ("circular_mask", config.N), probe.real)


def _power(waves: Tensor) -> Tensor:
    return waves.real.square() + waves.imag.square()


def mean_energy(measured: Tensor, probe: Tensor, valid_pixels: Tensor | None) -> Tensor:
    """Mirror of `reference.unrolled.mean_energy`."""
    energy = measured.square().sum(dim=(2, 3)).mean(dim=1)
    if valid_pixels is None:
        return energy
    far = torch.fft.fftshift(_power(torch.fft.fft2(probe)).sum(dim=1), dim=(-2, -1))
    share = (far * valid_pixels).sum(dim=(1, 2)) / far.sum(dim=(1, 2))
    return energy / share.clamp(min=constants.LEAST_SHARE)


def normalised_groups(
    measured: Tensor,
    relative_offsets_px: Tensor,
    probe: Tensor,
    config: ModelConfig,
    valid_pixels: Tensor | None = None,
) -> Groups:
    """Mirror of `reference.unrolled.normalised_groups`."""
    B, C, N, _ = measured.shape
    S = config.canvas_size
    energy = mean_energy(measured, probe, valid_pixels)
    scale = N / torch.sqrt(torch.where(energy > 0, energy, 1.0))
    amplitude = torch.fft.ifftshift(measured * scale[:, None, None, None], dim=(-2, -1)).reshape(B * C, N, N)
    if valid_pixels is None:
        pixel_weights = torch.ones_like(amplitude[:1])
    else:
        shifted = torch.fft.ifftshift(valid_pixels, dim=(-2, -1)).to(amplitude.dtype)
        pixel_weights = shifted.repeat_interleave(C, dim=0)
    corners, fractions = tall_views(relative_offsets_px, S, N)
    fractions = fractions.to(amplitude.dtype)
    unit = probe * (N / torch.sqrt(_power(probe).sum(dim=(1, 2, 3))))[:, None, None, None]
    each = unit if len(unit) == 1 else unit.repeat_interleave(C, dim=0)
    lit = _power(each).sum(dim=1).expand(B * C, N, N)
    light = spread(lit, corners, fractions, lit.new_zeros(B * S, S)).reshape(B, S, S)
    gain = slow_gain(unit, S)
    return Groups(amplitude, pixel_weights, corners, fractions, each, light, gain)


def tall_views(relative_offsets_px: Tensor, S: int, N: int) -> tuple[Tensor, Tensor]:
    """Mirror of `reference.unrolled.tall_views`."""
    offsets = (
        relative_offsets_px if relative_offsets_px.device.type == "mps" else relative_offsets_px.double()
    )
    corner = ((S - N) // 2 - offsets).clamp(0.0, S - N - constants.CANVAS_RIM)
    first = torch.floor(corner)
    corners = first.long()
    corners[..., 1] += S * torch.arange(corners.shape[0], dtype=torch.int64, device=corners.device)[:, None]
    return corners.reshape(-1, 2), (corner - first).reshape(-1, 2)


def slow_gain(probe: Tensor, S: int) -> Tensor:
    """Mirror of `reference.unrolled.slow_gain`."""
    intensity = _power(probe).sum(dim=1)
    dtype, device = intensity.dtype, intensity.device
    # from the middle, because the variance is a difference of squares
    axis = torch.arange(probe.shape[-1], dtype=dtype, device=device) - probe.shape[-1] // 2
    total = intensity.sum(dim=(1, 2))
    squared = torch.zeros_like(total)
    for along in (intensity.sum(dim=1), intensity.sum(dim=2)):
        mean = along @ axis / total
        squared = squared + along @ axis.square() / total - mean.square()
    frequency = constant(lambda: _squared_frequency(S), ("squared_frequency", S), intensity)
    strength, limit = constants.GROUP_SLOW_STRENGTH, constants.GROUP_SLOW_GAIN_LIMIT
    gain = strength / (frequency * squared[:, None, None] / 2 + strength / limit)
    return torch.where(frequency == 0, 0.0, gain)


def _squared_frequency(S: int) -> NDArray[np.float64]:
    """(S, S // 2 + 1) squared frequencies of the real FFT, in radians per pixel; no exporter knows `fftfreq`."""
    return (2 * math.pi) ** 2 * (np.fft.fftfreq(S)[:, None] ** 2 + np.fft.rfftfreq(S) ** 2)


def corrected_within(canvas: Tensor, light: Tensor, weights: Weights, N: int) -> Tensor:
    """Mirror of `reference.unrolled.corrected_within`."""
    inner = crop_centre(canvas, N)
    change = corrected(inner, crop_centre(light, N), weights) - inner
    return canvas + pad_centre(change, canvas.shape[-1])


def estimate(canvas: Tensor, groups: Groups, steps: int) -> Tensor:
    """Mirror of `reference.unrolled.estimate`."""
    velocity = torch.zeros_like(canvas)
    for number in range(steps):
        ahead = canvas + constants.GROUP_MOMENTUM * velocity
        moved = step(ahead, groups, slow=number > 0)
        velocity, canvas = moved - canvas, moved
    return canvas


def step(canvas: Tensor, groups: Groups, *, slow: bool) -> Tensor:
    """Mirror of `reference.unrolled.step`."""
    B, S, _ = canvas.shape
    N = groups.measured.shape[-1]
    tall = canvas.reshape(B * S, S)
    seen = views(tall, groups.corners, groups.fractions, N)
    change, _ = modulus_change(
        groups.probe * seen[:, None], groups.measured, groups.pixel_weights, "amplitude"
    )
    towards = (groups.probe.conj().resolve_conj() * change).sum(dim=1)
    numerator = spread(towards, groups.corners, groups.fractions, torch.zeros_like(tall)).reshape(B, S, S)
    brightest = groups.light.amax(dim=(1, 2), keepdim=True)
    moved = numerator / (groups.light + constants.GROUP_DAMPING * brightest)
    if not slow:
        return canvas + moved
    trusted = groups.light / (groups.light + constants.LOW_LIGHT * brightest)
    turn = (moved * canvas.conj()).imag / (_power(canvas) + constants.DARK_OBJECT) * trusted
    turned = torch.fft.irfft2(torch.fft.rfft2(turn) * groups.gain, s=(S, S))
    return (canvas + moved) * torch.polar(torch.ones_like(turned), turned)
