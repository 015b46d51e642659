"""Mirror of `ptycho_backends.reference.correction`; images are `(B, channels, y, x)` here."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ptycho_backends import constants
from ptycho_backends.reference.correction import HEAD, tiles
from ptycho_backends.reference.initial_weights import UNET_LEVELS
from ptycho_torch.backend.network import Weights, conv, max_pool, unet_block, upsample


def corrected(canvas: Tensor, light: Tensor, weights: Weights) -> Tensor:
    """Mirror of `reference.correction.corrected`."""
    factor = unit_factor(canvas, light)
    return canvas + _change(features(canvas * factor, relative_light(light)), weights) / factor


def corrected_parts(canvas: Tensor, light: Tensor, weights: Weights) -> Tensor:
    """Mirror of `reference.correction.corrected_parts`."""
    return canvas + _change(features(canvas, light), weights)


def _change(seen: Tensor, weights: Weights) -> Tensor:
    height, width = seen.shape[-2:]
    multiple = 2 ** (UNET_LEVELS - 1)
    change = unet(F.pad(seen, (0, -width % multiple, 0, -height % multiple)), weights)
    change = change[..., :height, :width].to(seen.dtype)
    return torch.complex(change[:, 0], change[:, 1])


def corrected_scan(canvas: Tensor, light: Tensor, weights: Weights) -> Tensor:
    """Mirror of `reference.correction.corrected_scan`."""
    factor = unit_factor(canvas[None], light[None])[0]
    seen = features((canvas * factor)[None], relative_light(light[None]))
    change = torch.zeros_like(canvas)
    for inner, outer, within in tiles(*canvas.shape):
        change[inner] = _change(seen[:, :, outer[0], outer[1]], weights)[0][within]
    return canvas + change / factor


def unit_factor(canvas: Tensor, light: Tensor) -> Tensor:
    """Mirror of `reference.correction.unit_factor`."""
    size = torch.sqrt(_mean(canvas.real.square() + canvas.imag.square(), light))
    mean = torch.complex(_mean(canvas.real, light), _mean(canvas.imag, light))
    modulus = mean.abs()
    turned, lit = modulus > 0, size > 0
    phase = torch.where(turned, mean.conj() / torch.where(turned, modulus, 1.0), 1.0)
    return phase / torch.where(lit, size, 1.0)


def _mean(values: Tensor, light: Tensor) -> Tensor:
    total = light.sum(dim=(1, 2), keepdim=True)
    return (values * light).sum(dim=(1, 2), keepdim=True) / torch.where(total > 0, total, 1.0)


def relative_light(light: Tensor) -> Tensor:
    """Mirror of `reference.correction.relative_light`."""
    brightest = light.amax(dim=(1, 2), keepdim=True)
    return light / torch.where(brightest > 0, brightest, 1.0)


def features(canvas: Tensor, light: Tensor) -> Tensor:
    """Mirror of `reference.correction.features`."""
    seen = torch.log1p(constants.LIGHT_CONTRAST * light) / math.log1p(constants.LIGHT_CONTRAST)
    return torch.stack([canvas.real - 1.0, canvas.imag, seen], dim=1)


def unet(image: Tensor, weights: Weights) -> Tensor:
    """Mirror of `reference.correction.unet`."""
    kept = []
    for level in range(UNET_LEVELS):
        image = unet_block(max_pool(image) if level else image, weights, f"encoder/block{level}")
        kept.append(image)
    for level in reversed(range(UNET_LEVELS - 1)):
        joined = torch.cat([upsample(image), kept[level]], dim=1)
        image = unet_block(joined, weights, f"decoder/block{level}")
    return conv(image, weights, HEAD)
