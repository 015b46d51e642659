"""Mirror of `ptycho_backends.reference.network`; images are `(B, y, x, channels)` here."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from ptycho_backends import constants
from ptycho_backends.config import ModelConfig
from ptycho_backends.reference.initial_weights import (
    BOTTLENECK,
    DECODERS,
    SHARED_DECODER,
    attention_stages,
    border_channels,
)
from ptycho_backends.reference.network import border_mask
from ptycho_backends.tensorflow import process_group

Weights = Mapping[str, tf.Tensor]
Statistics = dict[str, tf.Tensor]


class SharedStatistics(dict[str, tf.Tensor]):
    """`Statistics` of a batch of which this replica holds the fraction `fraction` of the groups."""

    def __init__(self, fraction: tf.Tensor) -> None:
        super().__init__()
        self.fraction = fraction


def conv(image: tf.Tensor, weights: Weights, layer: str) -> tf.Tensor:
    """Mirror of `reference.network.conv`, in the precision of the kernel."""
    kernel = tf.convert_to_tensor(weights[f"{layer}/kernel"])
    convolved = tf.nn.conv2d(tf.cast(image, kernel.dtype), kernel, strides=1, padding="SAME")
    return _biased(convolved, weights, layer)


def _biased(convolved: tf.Tensor, weights: Weights, layer: str) -> tf.Tensor:
    bias = weights.get(f"{layer}/bias")
    return convolved if bias is None else tf.nn.bias_add(convolved, bias)


# how much a weight of a kernel counts in row (or column) u of `conv_upsampled`'s kernel
_SPREAD = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
_SPREAD_2D = np.einsum("ua,vb->uvab", _SPREAD, _SPREAD).reshape(16, 9)


def conv_upsampled(image: tf.Tensor, weights: Weights, layer: str) -> tf.Tensor:
    """Mirror of `reference.network.conv_upsampled`, for a kernel of 3 x 3, with four ninths of its products.

    A pixel that is doubled and then convolved is spread over 4 x 4 pixels of the result, two apart from the next one's:
    a transposed convolution, whose kernel has sums of one, two or four weights.
    """
    kernel = tf.convert_to_tensor(weights[f"{layer}/kernel"])
    ins, outs = kernel.shape[2:]
    if outs > ins:
        # results cost more than products
        return conv(upsample(image), weights, layer)
    spread = tf.cast(_SPREAD_2D, kernel.dtype) @ tf.reshape(kernel, (9, ins * outs))
    spread = tf.transpose(tf.reshape(spread, (4, 4, ins, outs)), (0, 1, 3, 2))
    height, width = 2 * _length(image, 1), 2 * _length(image, 2)
    shape = (_length(image, 0), height, width, outs)
    convolved = tf.nn.conv2d_transpose(tf.cast(image, kernel.dtype), spread, shape, strides=2, padding="SAME")
    return _biased(convolved, weights, layer)


def dense(vectors: tf.Tensor, weights: Weights, layer: str) -> tf.Tensor:
    """Mirror of `reference.network.dense`."""
    return vectors @ weights[f"{layer}/kernel"] + weights[f"{layer}/bias"]


def activation(name: str, x: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.network.activation`."""
    if name == "sigmoid":
        # its own derivative, y (1 - y), loses every digit where y is all but 1, as gates are
        return tf.exp(tf.math.log_sigmoid(x))
    if name in ("swish", "silu"):
        return tf.nn.silu(x)
    if name == "softplus":
        return tf.nn.softplus(x)
    if name == "relu":
        return tf.nn.relu(x)
    raise ValueError(f"activation: got {name!r}, want sigmoid, swish, softplus or relu")


def max_pool(image: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.network.max_pool`."""
    return tf.nn.max_pool2d(image, ksize=2, strides=2, padding="VALID")


def upsample(image: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.network.upsample`."""
    # not tf.repeat, whose gradient is slow; not a resize, whose gradient a GPU sums in any order
    height, width = tf.unstack(tf.shape(image)[1:3]) if None in image.shape[1:3] else image.shape[1:3]
    channels = image.shape[3]
    wide = tf.reshape(tf.stack([image, image], axis=3), (-1, height, 2 * width, channels))
    return tf.reshape(tf.stack([wide, wide], axis=2), (-1, 2 * height, 2 * width, channels))


def batch_norm(
    image: tf.Tensor, weights: Weights, layer: str, statistics: Statistics | None = None
) -> tf.Tensor:
    """Mirror of `reference.network.batch_norm`, in the precision of the weights."""
    mean, variance = f"{layer}/mean", f"{layer}/variance"
    gamma, beta = weights[f"{layer}/gamma"], weights[f"{layer}/beta"]
    image = tf.cast(image, gamma.dtype)
    used = weights
    if statistics is not None:
        used = dict(zip((mean, variance), _moments_of_batch(image, statistics), strict=True))
        statistics.update(used)
    root = tf.sqrt(used[variance] + constants.BATCH_NORM_EPSILON)
    # (3, W, channels), so that gradients are summed axis by axis
    values = tf.stack([used[mean], gamma / root, beta])[:, None]
    centre, scale, shift = tf.unstack(tf.broadcast_to(values, (3, _length(image, 2), gamma.shape[0])))
    return (image - centre) * scale + shift


def _moments_of_batch(image: tf.Tensor, statistics: Statistics) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance of each channel over the batch; over the parts of all replicas for `SharedStatistics`."""
    mean = _mean_of_batch(image, statistics)
    return mean, _mean_of_batch(tf.square(image - mean), statistics)


def _mean_of_batch(image: tf.Tensor, statistics: Statistics) -> tf.Tensor:
    # axis by axis: a sum of all pixels in a row would lose two digits
    mean = tf.reshape(_mean(_mean(_mean(image, 2), 1), 0), image.shape[-1:])
    if isinstance(statistics, SharedStatistics):
        return process_group.summed(mean * tf.cast(statistics.fraction, image.dtype))
    return mean


def moved_running_values(weights: Weights, statistics: Statistics) -> Statistics:
    """Mirror of `reference.network.moved_running_values`."""
    return {
        name: weights[name] + constants.BATCH_NORM_MOMENTUM * (value - weights[name])
        for name, value in statistics.items()
    }


def _length(image: tf.Tensor, axis: int) -> int | tf.Tensor:
    """Of an axis; a number where it is known, of which a graph needs no operation."""
    known = image.shape[axis]
    return tf.shape(image)[axis] if known is None else known


def _mean(image: tf.Tensor, axis: int) -> tf.Tensor:
    """Mean along one axis, which stays with a length of 1.

    As a sum that keeps its axis: the gradient of `tf.reduce_mean` takes a dozen operations of shapes, of which the
    graph of 'attention' had thousands.
    """
    total, count = tf.reduce_sum(image, axis=axis, keepdims=True), _length(image, axis)
    return total * (1.0 / count) if isinstance(count, int) else total / tf.cast(count, image.dtype)


def _mean_of_pixels(image: tf.Tensor) -> tf.Tensor:
    """(B, channels), axis by axis."""
    return tf.reshape(_mean(_mean(image, 2), 1), (-1, image.shape[-1]))


def _gated(image: tf.Tensor, gate: tf.Tensor) -> tf.Tensor:
    """`image` times a (B, channels) gate, whose gradient is summed axis by axis."""
    rows = tf.ones((1, 1, _length(image, 2), 1), image.dtype)
    return image * (tf.reshape(gate, (-1, 1, 1, gate.shape[1])) * rows)


def channel_attention(image: tf.Tensor, weights: Weights, layer: str) -> tf.Tensor:
    """Mirror of `reference.network.channel_attention`, in the precision of the weights."""
    image = tf.cast(image, weights[f"{layer}/mlp0/kernel"].dtype)
    brightest = tf.reshape(tf.reduce_max(image, axis=(1, 2), keepdims=True), (-1, image.shape[-1]))
    pooled = (_mean_of_pixels(image), brightest)
    hidden = [activation("relu", dense(vectors, weights, f"{layer}/mlp0")) for vectors in pooled]
    of_mean, of_maximum = (dense(vectors, weights, f"{layer}/mlp1") for vectors in hidden)
    return _gated(image, activation("sigmoid", of_mean + of_maximum))


def spatial_attention(image: tf.Tensor, weights: Weights, layer: str) -> tf.Tensor:
    """Mirror of `reference.network.spatial_attention`, in the precision of the weights."""
    image = tf.cast(image, weights[f"{layer}/kernel"].dtype)
    pooled = tf.concat([_mean(image, -1), tf.reduce_max(image, axis=-1, keepdims=True)], axis=-1)
    return image * activation("sigmoid", conv(pooled, weights, layer))


def efficient_channel_attention(image: tf.Tensor, weights: Weights, layer: str) -> tf.Tensor:
    """Mirror of `reference.network.efficient_channel_attention`, in the precision of the weights."""
    kernel, channels = weights[f"{layer}/kernel"], image.shape[-1]
    image = tf.cast(image, kernel.dtype)
    side = kernel.shape[0]
    padded = tf.pad(_mean_of_pixels(image), [(0, 0), (side // 2, side // 2)])
    taps = [kernel[i] * padded[:, i : i + channels] for i in range(side)]
    return _gated(image, activation("sigmoid", tf.add_n(taps)))


def _cbam(image: tf.Tensor, weights: Weights, layer: str) -> tf.Tensor:
    image = channel_attention(image, weights, layer)
    return spatial_attention(image, weights, f"{layer}/spatial")


def attend(image: tf.Tensor, weights: Weights, block: str, config: ModelConfig) -> tf.Tensor:
    """Mirror of `reference.network.attend`."""
    for stage in attention_stages(config, block):
        if stage == "eca":
            image = efficient_channel_attention(image, weights, f"{block}/eca")
        elif stage == "cbam":
            image = _cbam(image, weights, f"{block}/cbam")
        else:
            image = spatial_attention(image, weights, f"{block}/spatial")
    return image


def block_features(
    image: tf.Tensor, weights: Weights, block: str, config: ModelConfig, statistics: Statistics | None = None
) -> tf.Tensor:
    """Mirror of `reference.network.block_features`."""
    return _features(conv, image, weights, block, config, statistics)


def _features(
    first: Callable[[tf.Tensor, Weights, str], tf.Tensor],
    image: tf.Tensor,
    weights: Weights,
    block: str,
    config: ModelConfig,
    statistics: Statistics | None,
) -> tf.Tensor:
    """Features of a block of which `first` computes the first convolution."""
    for convolution, layer in ((first, f"{block}/conv0"), (conv, f"{block}/conv1")):
        image = convolution(image, weights, layer)
        if config.batch_norm:
            image = batch_norm(image, weights, f"{layer}/norm", statistics)
        image = activation("relu", image)
    return attend(image, weights, block, config)


def encoder_block(
    image: tf.Tensor, weights: Weights, block: str, config: ModelConfig, statistics: Statistics | None = None
) -> tf.Tensor:
    """Mirror of `reference.network.encoder_block`."""
    return max_pool(block_features(image, weights, block, config, statistics))


def decoder_block(
    image: tf.Tensor, weights: Weights, block: str, config: ModelConfig, statistics: Statistics | None = None
) -> tf.Tensor:
    """Mirror of `reference.network.decoder_block`."""
    return upsample(block_features(image, weights, block, config, statistics))


def unet_block(image: tf.Tensor, weights: Weights, block: str) -> tf.Tensor:
    """Mirror of `reference.network.unet_block`."""
    for layer in (f"{block}/conv0", f"{block}/conv1"):
        image = activation("relu", conv(image, weights, layer))
    return image


def encode(
    image: tf.Tensor, weights: Weights, config: ModelConfig, statistics: Statistics | None = None
) -> tf.Tensor:
    """Mirror of `reference.network.encode`."""
    for i in range(len(constants.ENCODER_FILTERS[config.N])):
        image = encoder_block(image, weights, f"encoder/block{i}", config, statistics)
    return attend(image, weights, BOTTLENECK, config)


def trunk(
    encoded: tf.Tensor, weights: Weights, config: ModelConfig, name: str, statistics: Statistics | None = None
) -> dict[str, tf.Tensor]:
    """Mirror of `reference.network.trunk`."""
    small = _small_trunk(encoded, weights, config, name, statistics)
    return {head: upsample(features) for head, features in small.items()}


def _small_trunk(
    encoded: tf.Tensor, weights: Weights, config: ModelConfig, name: str, statistics: Statistics | None
) -> dict[str, tf.Tensor]:
    """`trunk` without its last up-sampling."""
    features, first = encoded, conv
    for i in range(len(constants.DECODER_FILTERS[config.N])):
        features = _features(first, features, weights, f"{name}/block{i}", config, statistics)
        first = conv_upsampled
    head_inputs, outer = {}, features
    if config.pad_object:
        aside = border_channels(config)
        head_inputs["inner_head"], outer = features[..., :-aside], features[..., -aside:]
    if config.probe_big or not config.pad_object:
        head_inputs["border_head"] = _features(first, outer, weights, f"{name}/border", config, statistics)
    return head_inputs


def heads(
    head_inputs: Mapping[str, tf.Tensor], weights: Weights, config: ModelConfig, decoder: str
) -> tf.Tensor:
    """Mirror of `reference.network.heads`."""
    return _heads(conv, head_inputs, weights, config, decoder)


def _heads(
    convolve: Callable[[tf.Tensor, Weights, str], tf.Tensor],
    head_inputs: Mapping[str, tf.Tensor],
    weights: Weights,
    config: ModelConfig,
    decoder: str,
) -> tf.Tensor:
    """`heads`, whose convolutions `convolve` computes."""
    head_outputs = {
        head: convolve(features, weights, f"{decoder}/{head}") for head, features in head_inputs.items()
    }
    return _patches(head_outputs, config, decoder)


def _patches(head_outputs: Mapping[str, tf.Tensor], config: ModelConfig, decoder: str) -> tf.Tensor:
    """Activate the outputs of the heads and add the border to the inner part."""
    if not config.pad_object:
        patches = head_activation(head_outputs["border_head"], config, decoder)
        return patches * _mask(config, patches) if config.edge_pad else patches
    margin = config.N // 4
    patches = head_activation(head_outputs["inner_head"], config, decoder)
    patches = tf.pad(patches, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    if "border_head" in head_outputs:
        border = activation("swish", head_outputs["border_head"])
        patches = patches + border * _mask(config, border)
    return patches


def _mask(config: ModelConfig, like: tf.Tensor) -> tf.Tensor:
    return tf.cast(border_mask(config), like.dtype)[..., None]


def decode(
    encoded: tf.Tensor, weights: Weights, config: ModelConfig, statistics: Statistics | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mirror of `reference.network.decode`."""
    if config.use_shared_decoder:
        small = [_small_trunk(encoded, weights, config, SHARED_DECODER, statistics)] * 2
    else:
        small = [_small_trunk(encoded, weights, config, decoder, statistics) for decoder in DECODERS]
    amplitude, phase = (
        _heads(conv_upsampled, features, weights, config, decoder)
        for features, decoder in zip(small, DECODERS, strict=True)
    )
    return amplitude, phase


def head_activation(x: tf.Tensor, config: ModelConfig, decoder: str) -> tf.Tensor:
    """Mirror of `reference.network.head_activation`."""
    return activation(config.amp_activation, x) if decoder == "amplitude" else math.pi * tf.tanh(x)


def object_patches(
    diffraction_fed: tf.Tensor, weights: Weights, config: ModelConfig, statistics: Statistics | None = None
) -> tf.Tensor:
    """Mirror of `reference.network.object_patches`; (B, N, N, C) in, (B, N, N, c) out."""
    encoded = encode(diffraction_fed / tf.exp(weights["log_scale"]), weights, config, statistics)
    amplitude, phase = decode(encoded, weights, config, statistics)
    # complex numbers have no half precision: mixed precision ends here
    wide = weights["log_scale"].dtype
    amplitude, phase = tf.cast(amplitude, wide), tf.cast(phase, wide)
    return tf.complex(amplitude * tf.cos(phase), amplitude * tf.sin(phase))
