"""The network `cnn` (docs/model.md, section 4): diffraction amplitude to object patches.

Images are channels-last here, `(B, y, x, channels)`. `weights` maps canonical names
(`initial_weights.weight_shapes`) to arrays.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import ModelConfig
from ptycho_backends.reference import constants
from ptycho_backends.reference.physics import central_box

Weights = Mapping[str, NDArray]


def conv3x3(image: NDArray, weights: Weights, layer: str) -> NDArray:
    """3x3 cross-correlation, stride 1, zero padding that keeps the size, plus bias.

    Parameters
    ----------
    image : (B, H, W, channels in) array
    weights : mapping
        Holds `<layer>/kernel` (3, 3, in, out) and `<layer>/bias` (out,).
    layer : str

    Returns
    -------
    (B, H, W, channels out) array
    """
    kernel, bias = weights[f"{layer}/kernel"], weights[f"{layer}/bias"]
    height, width = image.shape[1:3]
    padded = np.pad(image, [(0, 0), (1, 1), (1, 1), (0, 0)])
    taps = [
        padded[:, dy : dy + height, dx : dx + width] @ kernel[dy, dx] for dy in range(3) for dx in range(3)
    ]
    return np.sum(taps, axis=0) + bias


def activation(name: str, x: NDArray) -> NDArray:
    """Sigmoid, swish (`x sigmoid(x)`, also spelt silu), softplus (`ln(1 + e^x)`) or relu of `x`."""
    if name == "sigmoid":
        return 0.5 * (1.0 + np.tanh(0.5 * x))  # no overflow for large negative x
    if name in ("swish", "silu"):
        return x * activation("sigmoid", x)
    if name == "softplus":
        return np.logaddexp(0.0, x)
    if name == "relu":
        return np.maximum(x, 0.0)
    raise ValueError(f"activation: got {name!r}, want sigmoid, swish, softplus or relu")


def max_pool(image: NDArray) -> NDArray:
    """Maximum over 2x2 pixels: `(B, H, W, channels)` to `(B, H/2, W/2, channels)`."""
    batch, height, width, channels = image.shape
    return image.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def upsample(image: NDArray) -> NDArray:
    """Repeat every pixel 2x2: `(B, H, W, channels)` to `(B, 2H, 2W, channels)`."""
    return image.repeat(2, axis=1).repeat(2, axis=2)


def encoder_block(image: NDArray, weights: Weights, block: str) -> NDArray:
    """conv, ReLU, conv, ReLU, 2x2 max-pool."""
    image = activation("relu", conv3x3(image, weights, f"{block}/conv0"))
    return max_pool(activation("relu", conv3x3(image, weights, f"{block}/conv1")))


def decoder_block(image: NDArray, weights: Weights, block: str) -> NDArray:
    """conv, ReLU, conv, ReLU, nearest-neighbour x2 up-sampling."""
    image = activation("relu", conv3x3(image, weights, f"{block}/conv0"))
    return upsample(activation("relu", conv3x3(image, weights, f"{block}/conv1")))


def encode(image: NDArray, weights: Weights, config: ModelConfig) -> NDArray:
    """All encoder blocks: `(B, N, N, C)` to `(B, 8, 8, features)`."""
    for i in range(len(constants.ENCODER_FILTERS[config.N])):
        image = encoder_block(image, weights, f"encoder/block{i}")
    return image


def decode(encoded: NDArray, weights: Weights, config: ModelConfig, decoder: str) -> NDArray:
    """One decoder with its heads: `(B, 8, 8, features)` to the amplitude or phase of the patches.

    Parameters
    ----------
    encoded : (B, 8, 8, features) array
    weights : mapping
    config : ModelConfig
    decoder : {'amplitude', 'phase'}

    Returns
    -------
    (B, N, N, c) array
        `c = C` with `object_big`, else 1. A phase is in radians.

    References
    ----------
    docs/model.md, section 4.
    """
    features = encoded
    for i in range(len(constants.DECODER_FILTERS[config.N])):
        features = decoder_block(features, weights, f"{decoder}/block{i}")
    if not config.pad_object:
        border = decoder_block(features, weights, f"{decoder}/border")
        return head_activation(conv3x3(border, weights, f"{decoder}/border_head"), config, decoder)
    inner, outer = (
        features[..., : -constants.BORDER_CHANNELS],
        features[..., -constants.BORDER_CHANNELS :],
    )
    patches = head_activation(conv3x3(inner, weights, f"{decoder}/inner_head"), config, decoder)
    margin = config.N // 4
    patches = np.pad(patches, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    if config.probe_big:
        border = decoder_block(outer, weights, f"{decoder}/border")
        border = activation("swish", conv3x3(border, weights, f"{decoder}/border_head"))
        patches = patches + border * (1.0 - central_box(config.N))[..., None]
    return patches


def head_activation(x: NDArray, config: ModelConfig, decoder: str) -> NDArray:
    """`config.amp_activation` for the amplitude, `pi * tanh` for the phase."""
    return activation(config.amp_activation, x) if decoder == "amplitude" else np.pi * np.tanh(x)


def object_patches(diffraction_fed: NDArray, weights: Weights, config: ModelConfig) -> NDArray:
    """The whole network: `A exp(i phi)` from diffraction amplitudes.

    Parameters
    ----------
    diffraction_fed : (B, N, N, C) array
        `s * X_full`; the network first divides it by `exp(log_scale)`.
    weights : mapping
    config : ModelConfig

    Returns
    -------
    (B, N, N, c) complex array
        `c = C` with `object_big`, else 1.

    References
    ----------
    docs/model.md, section 4.
    """
    encoded = encode(diffraction_fed / np.exp(weights["log_scale"]), weights, config)
    amplitude = decode(encoded, weights, config, "amplitude")
    phase = decode(encoded, weights, config, "phase")
    return amplitude * np.exp(1j * phase)
