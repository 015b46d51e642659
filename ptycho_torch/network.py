"""Mirror of `ptycho_backends.reference.network`; images are `(B, channels, y, x)` here."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ptycho_backends.config import ModelConfig
from ptycho_backends.reference import constants

Weights = Mapping[str, Tensor]

# Beyond this, softplus(x) and x are the same number even in float64.
SOFTPLUS_THRESHOLD = 50.0


def conv3x3(image: Tensor, weights: Weights, layer: str) -> Tensor:
    """Mirror of `reference.network.conv3x3`; kernels are (out, in, 3, 3)."""
    return F.conv2d(image, weights[f"{layer}/kernel"], weights[f"{layer}/bias"], padding=1)


def activation(name: str, x: Tensor) -> Tensor:
    """Mirror of `reference.network.activation`."""
    if name == "sigmoid":
        return torch.sigmoid(x)
    if name in ("swish", "silu"):
        return F.silu(x)
    if name == "softplus":
        return F.softplus(x, threshold=SOFTPLUS_THRESHOLD)
    if name == "relu":
        return F.relu(x)
    raise ValueError(f"activation: got {name!r}, want sigmoid, swish, softplus or relu")


def max_pool(image: Tensor) -> Tensor:
    """Mirror of `reference.network.max_pool`."""
    return F.max_pool2d(image, 2)


def upsample(image: Tensor) -> Tensor:
    """Mirror of `reference.network.upsample`."""
    return F.interpolate(image, scale_factor=2, mode="nearest")


def encoder_block(image: Tensor, weights: Weights, block: str) -> Tensor:
    """Mirror of `reference.network.encoder_block`."""
    image = activation("relu", conv3x3(image, weights, f"{block}/conv0"))
    return max_pool(activation("relu", conv3x3(image, weights, f"{block}/conv1")))


def decoder_block(image: Tensor, weights: Weights, block: str) -> Tensor:
    """Mirror of `reference.network.decoder_block`."""
    image = activation("relu", conv3x3(image, weights, f"{block}/conv0"))
    return upsample(activation("relu", conv3x3(image, weights, f"{block}/conv1")))


def encode(image: Tensor, weights: Weights, config: ModelConfig) -> Tensor:
    """Mirror of `reference.network.encode`."""
    for i in range(len(constants.ENCODER_FILTERS[config.N])):
        image = encoder_block(image, weights, f"encoder/block{i}")
    return image


def decode(encoded: Tensor, weights: Weights, config: ModelConfig, decoder: str) -> Tensor:
    """Mirror of `reference.network.decode`."""
    features = encoded
    for i in range(len(constants.DECODER_FILTERS[config.N])):
        features = decoder_block(features, weights, f"{decoder}/block{i}")
    if not config.pad_object:
        border = decoder_block(features, weights, f"{decoder}/border")
        return head_activation(conv3x3(border, weights, f"{decoder}/border_head"), config, decoder)
    inner = features[:, : -constants.BORDER_CHANNELS]
    outer = features[:, -constants.BORDER_CHANNELS :]
    patches = head_activation(conv3x3(inner, weights, f"{decoder}/inner_head"), config, decoder)
    margin = config.N // 4
    patches = F.pad(patches, (margin, margin, margin, margin))
    if config.probe_big:
        border = decoder_block(outer, weights, f"{decoder}/border")
        border = activation("swish", conv3x3(border, weights, f"{decoder}/border_head"))
        patches = patches + border * _outside_box(config.N, border)
    return patches


def _outside_box(N: int, like: Tensor) -> Tensor:
    """(N, N), 0 in the central N/2 x N/2 square, 1 outside."""
    mask = torch.ones(N, N, device=like.device, dtype=like.dtype)
    margin = N // 4
    mask[margin : N - margin, margin : N - margin] = 0.0
    return mask


def head_activation(x: Tensor, config: ModelConfig, decoder: str) -> Tensor:
    """Mirror of `reference.network.head_activation`."""
    return activation(config.amp_activation, x) if decoder == "amplitude" else torch.pi * torch.tanh(x)


def object_patches(diffraction_fed: Tensor, weights: Weights, config: ModelConfig) -> Tensor:
    """Mirror of `reference.network.object_patches`; (B, C, N, N) in, (B, c, N, N) out."""
    encoded = encode(diffraction_fed / torch.exp(weights["log_scale"]), weights, config)
    amplitude = decode(encoded, weights, config, "amplitude")
    phase = decode(encoded, weights, config, "phase")
    # complex numbers have no half precision: autocast ends here
    wide = weights["log_scale"].dtype
    amplitude, phase = amplitude.to(wide), phase.to(wide)
    # not torch.polar: its gradient takes the amplitude for positive, and swish is not
    return torch.complex(amplitude * torch.cos(phase), amplitude * torch.sin(phase))
