"""`unrolled` with real tensors alone, for formats without complex ones: the same numbers up to rounding.

A complex tensor is a pair of its real and its imaginary part. Views of the canvas are products with banded matrices, as
in `physics`, and spreading is the product with their transposes.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ptycho_backends import constants
from ptycho_backends.config import ModelConfig
from ptycho_backends.reference.initial_weights import UNET_LEVELS
from ptycho_backends.reference.probe import circular_mask
from ptycho_torch.backend import physics, unrolled
from ptycho_torch.backend.arrays import constant
from ptycho_torch.backend.correction import unet
from ptycho_torch.backend.network import Weights


class Pair(NamedTuple):
    """Real and imaginary part, of one shape."""

    real: Tensor
    imag: Tensor

    def plus(self, other: "Pair") -> "Pair":
        return Pair(self.real + other.real, self.imag + other.imag)

    def times(self, factor: Tensor | float) -> "Pair":
        """Times a real factor."""
        return Pair(self.real * factor, self.imag * factor)

    def by(self, other: "Pair") -> "Pair":
        """Times a complex factor."""
        return Pair(
            self.real * other.real - self.imag * other.imag, self.real * other.imag + self.imag * other.real
        )

    def conjugate(self) -> "Pair":
        return Pair(self.real, -self.imag)

    def power(self) -> Tensor:
        return self.real * self.real + self.imag * self.imag

    def at(self, index: tuple[object, ...]) -> "Pair":
        return Pair(self.real[index], self.imag[index])  # type: ignore[index]

    def summed(self, dim: int) -> "Pair":
        return Pair(self.real.sum(dim=dim), self.imag.sum(dim=dim))


class Views(NamedTuple):
    """Matrices (B, C, N, S) that cut views from a canvas (B, S, S) along rows and along columns."""

    rows: Tensor
    columns: Tensor

    def of(self, canvas: Pair) -> Pair:
        """(B, C, N, N)."""
        parts = (self.rows @ part[:, None] @ self.columns.mT for part in canvas)
        return Pair(*parts)

    def spread(self, images: Tensor) -> Tensor:
        """The adjoint, summed over the positions: (B, S, S)."""
        return (self.rows.mT @ images @ self.columns).sum(dim=1)


@torch.no_grad()
def gain_of_slow_phases(weights: Weights, config: ModelConfig) -> Tensor:
    """(S, S), per frequency: `unrolled.slow_gain` over both halves of the transform. It depends on no measurement."""
    S = config.canvas_size
    probe = unrolled.modes_of_groups(weights, config, None)[:1]
    half = unrolled.slow_gain(probe, S)[0]
    columns = np.arange(S)
    opposite = columns >= half.shape[1]
    rows = np.where(opposite, -np.arange(S)[:, None] % S, np.arange(S)[:, None])
    return half[rows, np.where(opposite, S - columns, columns)[None].repeat(S, axis=0)]


def predict(
    measured: Tensor, offsets: Tensor, weights: Weights, config: ModelConfig, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Real and imaginary part of the object (B, N, N), and the predicted amplitude (B, C, N, N).

    Parameters
    ----------
    measured : (B, C, N, N) tensor, [ky, kx]
        `s * X_full`.
    offsets : (B, C, 2) tensor, [x, y]
    weights : mapping
    config : ModelConfig
        Of the architecture 'unrolled'. The first of several probes counts.
    gain : (S, S) tensor
        `gain_of_slow_phases`.
    """
    N, S = config.N, config.canvas_size
    probe = _first_probe(weights)
    masked = probe
    if config.probe_mask:
        masked = probe.times(constant(lambda: circular_mask(N), ("circular_mask", N), probe.real))
    energy = measured.square().sum(dim=(2, 3)).mean(dim=1)
    amplitude = measured * (N / torch.sqrt(torch.where(energy > 0, energy, 1.0)))[:, None, None, None]
    amplitude = torch.fft.ifftshift(amplitude, dim=(-2, -1))
    power = masked.power().sum()
    unit = masked.times(N / torch.sqrt(power))
    cut = _views(
        ((S - N) // 2 - offsets.double()).clamp(0.0, S - N - constants.CANVAS_RIM), N, S, measured.dtype
    )
    light = cut.spread(unit.power().sum(dim=0).expand_as(amplitude))
    canvas = Pair(torch.ones_like(light), torch.zeros_like(light))
    canvas = _estimate(canvas, config.n_steps, amplitude, unit, cut, light, gain)
    for _ in range(config.n_rounds - 1):
        canvas = _corrected(canvas, light, weights, N)
        canvas = _estimate(canvas, constants.LATER_STEPS, amplitude, unit, cut, light, gain)
    canvas = _corrected(canvas, light, weights, N)
    canvas = canvas.times(torch.sqrt(energy / torch.exp(2 * weights["log_scale"]) / power)[:, None, None])
    image = Pair(*(physics.crop_centre(part, N) for part in canvas))
    return image.real, image.imag, _predicted(canvas, offsets, probe, weights, config)


def real_change(real: Tensor, imag: Tensor, light: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """Real and imaginary part (B, N, N) of the change that `correction.corrected_parts` makes."""
    lit = torch.log1p(constants.LIGHT_CONTRAST * light) / math.log1p(constants.LIGHT_CONTRAST)
    N, multiple = real.shape[-1], 2 ** (UNET_LEVELS - 1)
    more = -N % multiple
    change = unet(F.pad(torch.stack([real - 1.0, imag, lit], dim=1), (0, more, 0, more)), weights)
    return change[:, 0, :N, :N], change[:, 1, :N, :N]


def _first_probe(weights: Weights) -> Pair:
    """(K, N, N)."""
    probe = weights["probe"]
    probe = probe[0] if probe.ndim == 5 else probe
    probe = probe.reshape(-1, *probe.shape[-3:])
    return Pair(probe[..., 0], probe[..., 1])


def _views(corner: Tensor, N: int, S: int, dtype: torch.dtype) -> Views:
    """Views at `corner` (B, C, 2), [x, y]."""
    rows, columns = (physics._shift_matrix(N, S, -corner[..., axis], dtype) for axis in (1, 0))
    return Views(rows, columns)


def _estimate(
    canvas: Pair, steps: int, measured: Tensor, probe: Pair, cut: Views, light: Tensor, gain: Tensor
) -> Pair:
    """`unrolled.estimate`."""
    velocity = canvas.times(0.0)
    for number in range(steps):
        ahead = canvas.plus(velocity.times(constants.GROUP_MOMENTUM))
        moved = _step(ahead, measured, probe, cut, light, gain, slow=number > 0)
        velocity, canvas = moved.plus(canvas.times(-1.0)), moved
    return canvas


def _step(
    canvas: Pair, measured: Tensor, probe: Pair, cut: Views, light: Tensor, gain: Tensor, *, slow: bool
) -> Pair:
    """`unrolled.step`."""
    N = measured.shape[-1]
    far = _fourier(cut.of(canvas).at((slice(None), slice(None), None)).by(probe))
    amplitude = torch.sqrt(far.power().sum(dim=2)) / N
    factor = measured / (amplitude + constants.MODULUS_FLOOR) - 1.0
    change = _fourier(far.times(factor[:, :, None]), inverse=True)
    towards = change.by(probe.conjugate()).summed(2)
    brightest = light.amax(dim=(1, 2), keepdim=True)
    moved = Pair(*(cut.spread(part) for part in towards)).times(
        1.0 / (light + constants.GROUP_DAMPING * brightest)
    )
    if not slow:
        return canvas.plus(moved)
    trusted = light / (light + constants.LOW_LIGHT * brightest)
    turn = moved.by(canvas.conjugate()).imag / (canvas.power() + constants.DARK_OBJECT) * trusted
    spectrum = _fourier(Pair(turn, torch.zeros_like(turn)))
    turned = _fourier(spectrum.times(gain), inverse=True).real
    return canvas.plus(moved).by(Pair(torch.cos(turned), torch.sin(turned)))


def _fourier(image: Pair, *, inverse: bool = False) -> Pair:
    """Transform along the last two axes; the inverse is divided by the number of pixels."""
    side = image.real.shape[-1]
    angles = 2 * math.pi * (np.outer(np.arange(side), np.arange(side)) % side) / side
    cosine = constant(lambda: np.cos(angles), ("cosine", side), image.real)
    sine = constant(lambda: np.sin(angles), ("sine", side), image.real)
    matrix = Pair(cosine, sine if inverse else -sine)
    along = Pair(
        image.real @ matrix.real - image.imag @ matrix.imag,
        image.real @ matrix.imag + image.imag @ matrix.real,
    )
    both = Pair(
        matrix.real @ along.real - matrix.imag @ along.imag,
        matrix.real @ along.imag + matrix.imag @ along.real,
    )
    return both.times(1.0 / side**2) if inverse else both


def _corrected(canvas: Pair, light: Tensor, weights: Weights, N: int) -> Pair:
    """`unrolled.corrected_within`."""
    S = light.shape[-1]
    inner = Pair(*(physics.crop_centre(part, N) for part in canvas))
    seen = physics.crop_centre(light, N)
    total = seen.sum(dim=(1, 2), keepdim=True)

    def mean(values: Tensor) -> Tensor:
        return (values * seen).sum(dim=(1, 2), keepdim=True) / torch.where(total > 0, total, 1.0)

    size = torch.sqrt(mean(inner.power()))
    size = torch.where(size > 0, size, 1.0)
    middle = Pair(mean(inner.real), mean(inner.imag))
    modulus = torch.sqrt(middle.power())
    phase = Pair(
        torch.where(modulus > 0, middle.real / torch.where(modulus > 0, modulus, 1.0), 1.0),
        torch.where(modulus > 0, -middle.imag / torch.where(modulus > 0, modulus, 1.0), 0.0),
    )
    level = inner.by(phase).times(1.0 / size)
    brightest = seen.amax(dim=(1, 2), keepdim=True)
    relative = seen / torch.where(brightest > 0, brightest, 1.0)
    change = Pair(*real_change(level.real, level.imag, relative, weights))
    change = change.by(phase.conjugate()).times(size)
    return canvas.plus(Pair(*(physics.pad_centre(part, S) for part in change)))


def _predicted(canvas: Pair, offsets: Tensor, probe: Pair, weights: Weights, config: ModelConfig) -> Tensor:
    """`physics.views_amplitude` of the canvas."""
    N, S = config.N, config.canvas_size
    cut = _views((S - N) // 2 - offsets.double(), N, S, canvas.real.dtype)
    waves = cut.of(canvas).at((slice(None), slice(None), None)).by(probe)
    if config.gaussian_smoothing_sigma > 0:
        waves = Pair(*(physics.smooth_exit_wave(part, config.gaussian_smoothing_sigma) for part in waves))
    if config.probe_mask:
        waves = waves.times(constant(lambda: circular_mask(N), ("circular_mask", N), waves.real))
    amplitude = torch.sqrt(_fourier(waves).power().sum(dim=2)) / N
    return torch.fft.fftshift(amplitude, dim=(-2, -1)) * torch.exp(weights["log_scale"])
