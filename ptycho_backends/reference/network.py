"""The networks `cnn` and `attention` (docs/model.md, section 4): diffraction amplitude to object patches.

Images are channels-last here, `(B, y, x, channels)`. `weights` maps canonical names
(`initial_weights.weight_shapes`) to arrays. Batch normalisation uses the running statistics unless the dict
`statistics` is given. With it, as in training, batch normalisation uses the mean and variance of the batch and
stores them in `statistics` under the names of the running ones.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ptycho_backends import constants
from ptycho_backends.config import ModelConfig
from ptycho_backends.reference.initial_weights import (
    BOTTLENECK,
    DECODERS,
    SHARED_DECODER,
    attention_stages,
    border_channels,
)
from ptycho_backends.reference.physics import central_box

Weights = Mapping[str, NDArray]
Statistics = dict[str, NDArray]


def conv(image: NDArray, weights: Weights, layer: str) -> NDArray:
    """Cross-correlation, stride 1, zero padding that keeps the size, plus the bias if the layer has one.

    Parameters
    ----------
    image : (B, H, W, channels in) array
    weights : mapping
        Holds `<layer>/kernel` (k, k, in, out), k odd, and `<layer>/bias` (out,) or no bias.
    layer : str

    Returns
    -------
    (B, H, W, channels out) array
    """
    kernel = weights[f"{layer}/kernel"]
    height, width = image.shape[1:3]
    side, margin = len(kernel), len(kernel) // 2
    padded = np.pad(image, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    total = np.zeros((*image.shape[:3], kernel.shape[-1]), np.result_type(image, kernel))
    for dy in range(side):
        for dx in range(side):
            total += padded[:, dy : dy + height, dx : dx + width] @ kernel[dy, dx]
    return total + weights.get(f"{layer}/bias", 0.0)


def conv_upsampled(image: NDArray, weights: Weights, layer: str) -> NDArray:
    """`conv` of an up-sampled image: `(B, H, W, channels in)` to `(B, 2H, 2W, channels out)`.

    What it means, for the frameworks, which save products by computing both at once.
    """
    return conv(upsample(image), weights, layer)


def dense(vectors: NDArray, weights: Weights, layer: str) -> NDArray:
    """`vectors @ kernel + bias`: (B, in) to (B, out), the kernel being (in, out)."""
    return vectors @ weights[f"{layer}/kernel"] + weights[f"{layer}/bias"]


def activation(name: str, x: NDArray) -> NDArray:
    """Sigmoid, swish (`x sigmoid(x)`, also spelt silu), softplus (`ln(1 + e^x)`) or relu of `x`."""
    if name == "sigmoid":
        return expit(x)
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


def batch_norm(image: NDArray, weights: Weights, layer: str, statistics: Statistics | None = None) -> NDArray:
    r"""Every channel brought to mean beta and standard deviation gamma.

    .. math:: \gamma \frac{x - \mu}{\sqrt{\sigma^2 + 10^{-5}}} + \beta

    Parameters
    ----------
    image : (B, H, W, channels) array
    weights : mapping
        Holds `<layer>/gamma`, `beta`, `mean` and `variance`, each (channels,).
    layer : str
    statistics : dict, optional
        If given, mean and (biased) variance are those of `image` over groups and pixels, stored there as
        `<layer>/mean` and `<layer>/variance`. Otherwise they are the weights of these names.

    References
    ----------
    Ioffe and Szegedy 2015, Algorithm 1.
    """
    mean, variance = f"{layer}/mean", f"{layer}/variance"
    used: Weights = weights
    if statistics is not None:
        centre = _mean_of_batch(image)
        used = {mean: centre, variance: _mean_of_batch((image - centre) ** 2)}
        statistics.update(used)
    root = np.sqrt(used[variance] + constants.BATCH_NORM_EPSILON)
    return (image - used[mean]) / root * weights[f"{layer}/gamma"] + weights[f"{layer}/beta"]


def _mean_of_batch(image: NDArray) -> NDArray:
    """Mean of each channel, axis by axis: one sum over all pixels would lose four digits."""
    return image.mean(axis=2).mean(axis=1).mean(axis=0)


def moved_running_values(weights: Weights, statistics: Statistics) -> Statistics:
    """Running statistics after a batch with these `statistics`: moved a tenth of the way towards them."""
    return {
        name: weights[name] + constants.BATCH_NORM_MOMENTUM * (value - weights[name])
        for name, value in statistics.items()
    }


def channel_attention(image: NDArray, weights: Weights, layer: str) -> NDArray:
    """CBAM's first half: each channel times a gate, the sigmoid of a perceptron over all channels.

    The perceptron (dense, ReLU, dense: `<layer>/mlp0`, `<layer>/mlp1`) is applied to the channels' means and
    to their maxima; its two outputs are added.

    References
    ----------
    Woo et al. 2018, eq. 2.
    """
    pooled = (image.mean(axis=(1, 2)), image.max(axis=(1, 2)))
    hidden = [activation("relu", dense(vectors, weights, f"{layer}/mlp0")) for vectors in pooled]
    of_mean, of_maximum = (dense(vectors, weights, f"{layer}/mlp1") for vectors in hidden)
    return image * activation("sigmoid", of_mean + of_maximum)[:, None, None]


def spatial_attention(image: NDArray, weights: Weights, layer: str) -> NDArray:
    """CBAM's second half: each pixel times the sigmoid of a convolution of the pixels' mean and maximum.

    References
    ----------
    Woo et al. 2018, eq. 3.
    """
    pooled = np.stack([image.mean(axis=-1), image.max(axis=-1)], axis=-1)
    return image * activation("sigmoid", conv(pooled, weights, layer))


def efficient_channel_attention(image: NDArray, weights: Weights, layer: str) -> NDArray:
    """ECA: each channel times the sigmoid of a weighted sum over the means of its neighbours.

    `<layer>/kernel` (k,), k odd, holds the weights; beyond the first and the last channel there is zero.

    References
    ----------
    Wang et al. 2020, section 3.2.
    """
    kernel, channels = weights[f"{layer}/kernel"], image.shape[-1]
    side = kernel.shape[0]
    padded = np.pad(image.mean(axis=(1, 2)), [(0, 0), (side // 2, side // 2)])
    taps = [kernel[i] * padded[:, i : i + channels] for i in range(side)]
    return image * activation("sigmoid", np.sum(taps, axis=0))[:, None, None]


def attend(image: NDArray, weights: Weights, block: str, config: ModelConfig) -> NDArray:
    """Apply the attention stages that `config` enables behind `block`, in order."""
    for stage in attention_stages(config, block):
        if stage == "eca":
            image = efficient_channel_attention(image, weights, f"{block}/eca")
        elif stage == "cbam":
            image = channel_attention(image, weights, f"{block}/cbam")
            image = spatial_attention(image, weights, f"{block}/cbam/spatial")
        else:
            image = spatial_attention(image, weights, f"{block}/spatial")
    return image


def block_features(
    image: NDArray, weights: Weights, block: str, config: ModelConfig, statistics: Statistics | None = None
) -> NDArray:
    """Common part of all blocks: twice convolution, optional batch normalisation, ReLU; then attention."""
    for layer in (f"{block}/conv0", f"{block}/conv1"):
        image = conv(image, weights, layer)
        if config.batch_norm:
            image = batch_norm(image, weights, f"{layer}/norm", statistics)
        image = activation("relu", image)
    return attend(image, weights, block, config)


def encoder_block(
    image: NDArray, weights: Weights, block: str, config: ModelConfig, statistics: Statistics | None = None
) -> NDArray:
    """`block_features`, then 2x2 max-pool."""
    return max_pool(block_features(image, weights, block, config, statistics))


def decoder_block(
    image: NDArray, weights: Weights, block: str, config: ModelConfig, statistics: Statistics | None = None
) -> NDArray:
    """`block_features`, then nearest-neighbour x2 up-sampling."""
    return upsample(block_features(image, weights, block, config, statistics))


def unet_block(image: NDArray, weights: Weights, block: str) -> NDArray:
    """A block of the network `unrolled`: twice convolution and ReLU."""
    for layer in (f"{block}/conv0", f"{block}/conv1"):
        image = activation("relu", conv(image, weights, layer))
    return image


def encode(
    image: NDArray, weights: Weights, config: ModelConfig, statistics: Statistics | None = None
) -> NDArray:
    """All encoder blocks: `(B, N, N, C)` to `(B, 8, 8, features)`."""
    for i in range(len(constants.ENCODER_FILTERS[config.N])):
        image = encoder_block(image, weights, f"encoder/block{i}", config, statistics)
    return attend(image, weights, BOTTLENECK, config)


def trunk(
    encoded: NDArray, weights: Weights, config: ModelConfig, name: str, statistics: Statistics | None = None
) -> dict[str, NDArray]:
    """The blocks of a decoder.

    Parameters
    ----------
    encoded : (B, 8, 8, features) array
    weights : mapping
    config : ModelConfig
    name : {'amplitude', 'phase', 'decoder'}
    statistics : dict, optional

    Returns
    -------
    dict of arrays
        Input of each head: with `pad_object` `inner_head` (B, N/2, N/2, channels); with `probe_big` or
        without `pad_object` `border_head` (B, N, N, channels).
    """
    features = encoded
    for i in range(len(constants.DECODER_FILTERS[config.N])):
        features = decoder_block(features, weights, f"{name}/block{i}", config, statistics)
    head_inputs, outer = {}, features
    if config.pad_object:
        aside = border_channels(config)
        head_inputs["inner_head"], outer = features[..., :-aside], features[..., -aside:]
    if config.probe_big or not config.pad_object:
        head_inputs["border_head"] = decoder_block(outer, weights, f"{name}/border", config, statistics)
    return head_inputs


def heads(head_inputs: Mapping[str, NDArray], weights: Weights, config: ModelConfig, decoder: str) -> NDArray:
    """The amplitude or the phase of the patches from the head inputs that `trunk` returns.

    Parameters
    ----------
    head_inputs : mapping of arrays
    weights : mapping
    config : ModelConfig
    decoder : {'amplitude', 'phase'}

    Returns
    -------
    (B, N, N, c) array
        `c = C` with `object_big`, else 1. A phase is in radians.
    """
    head_outputs = {
        head: conv(features, weights, f"{decoder}/{head}") for head, features in head_inputs.items()
    }
    if not config.pad_object:
        patches = head_activation(head_outputs["border_head"], config, decoder)
        return patches * border_mask(config)[..., None] if config.edge_pad else patches
    margin = config.N // 4
    patches = head_activation(head_outputs["inner_head"], config, decoder)
    patches = np.pad(patches, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    if "border_head" in head_outputs:
        border = activation("swish", head_outputs["border_head"])
        patches = patches + border * border_mask(config)[..., None]
    return patches


def border_mask(config: ModelConfig) -> NDArray[np.float64]:
    """(N, N), 1 where the border head predicts: outside the inner part, and not in the rim of `edge_pad`."""
    mask = 1.0 - central_box(config.N) if config.pad_object else np.ones((config.N, config.N))
    rim = np.pad(np.ones([config.N - 2 * config.edge_pad] * 2), config.edge_pad)
    return mask * rim


def decode(
    encoded: NDArray, weights: Weights, config: ModelConfig, statistics: Statistics | None = None
) -> tuple[NDArray, NDArray]:
    """Both decoders with their heads: `(B, 8, 8, features)` to amplitude and phase of the patches.

    Parameters
    ----------
    encoded : (B, 8, 8, features) array
    weights : mapping
    config : ModelConfig
    statistics : dict, optional

    Returns
    -------
    amplitude, phase : (B, N, N, c) arrays
        `c = C` with `object_big`, else 1. A phase is in radians.

    References
    ----------
    docs/model.md, section 4.
    """
    if config.use_shared_decoder:
        trunks = [trunk(encoded, weights, config, SHARED_DECODER, statistics)] * 2
    else:
        trunks = [trunk(encoded, weights, config, decoder, statistics) for decoder in DECODERS]
    amplitude, phase = (
        heads(head_inputs, weights, config, decoder)
        for head_inputs, decoder in zip(trunks, DECODERS, strict=True)
    )
    return amplitude, phase


def head_activation(x: NDArray, config: ModelConfig, decoder: str) -> NDArray:
    """`config.amp_activation` for the amplitude, `pi * tanh` for the phase."""
    return activation(config.amp_activation, x) if decoder == "amplitude" else np.pi * np.tanh(x)


def object_patches(
    diffraction_fed: NDArray, weights: Weights, config: ModelConfig, statistics: Statistics | None = None
) -> NDArray:
    """The whole network: `A exp(i phi)` from diffraction amplitudes.

    Parameters
    ----------
    diffraction_fed : (B, N, N, C) array
        `s * X_full`; the network first divides it by `exp(log_scale)`.
    weights : mapping
    config : ModelConfig
    statistics : dict, optional

    Returns
    -------
    (B, N, N, c) complex array
        `c = C` with `object_big`, else 1.

    References
    ----------
    docs/model.md, section 4.
    """
    encoded = encode(diffraction_fed / np.exp(weights["log_scale"]), weights, config, statistics)
    amplitude, phase = decode(encoded, weights, config, statistics)
    return amplitude * np.exp(1j * phase)
