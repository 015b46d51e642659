"""Mirror of `ptycho_backends.reference.network`; images are `(B, y, x, channels)` here."""

import math
from collections.abc import Mapping

import tensorflow as tf

from ptycho_backends.config import ModelConfig
from ptycho_backends.reference import constants
from ptycho_backends.reference.physics import central_box

Weights = Mapping[str, tf.Tensor]


def conv3x3(image: tf.Tensor, weights: Weights, layer: str) -> tf.Tensor:
    """Mirror of `reference.network.conv3x3`, in the precision of the kernel."""
    kernel = tf.convert_to_tensor(weights[f"{layer}/kernel"])
    convolved = tf.nn.conv2d(tf.cast(image, kernel.dtype), kernel, strides=1, padding="SAME")
    return tf.nn.bias_add(convolved, weights[f"{layer}/bias"])


def activation(name: str, x: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.network.activation`."""
    if name == "sigmoid":
        return tf.sigmoid(x)
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
    height, width, channels = image.shape[1:]
    wide = tf.reshape(tf.stack([image, image], axis=3), (-1, height, 2 * width, channels))
    return tf.reshape(tf.stack([wide, wide], axis=2), (-1, 2 * height, 2 * width, channels))


def encoder_block(image: tf.Tensor, weights: Weights, block: str) -> tf.Tensor:
    """Mirror of `reference.network.encoder_block`."""
    image = activation("relu", conv3x3(image, weights, f"{block}/conv0"))
    return max_pool(activation("relu", conv3x3(image, weights, f"{block}/conv1")))


def decoder_block(image: tf.Tensor, weights: Weights, block: str) -> tf.Tensor:
    """Mirror of `reference.network.decoder_block`."""
    image = activation("relu", conv3x3(image, weights, f"{block}/conv0"))
    return upsample(activation("relu", conv3x3(image, weights, f"{block}/conv1")))


def encode(image: tf.Tensor, weights: Weights, config: ModelConfig) -> tf.Tensor:
    """Mirror of `reference.network.encode`."""
    for i in range(len(constants.ENCODER_FILTERS[config.N])):
        image = encoder_block(image, weights, f"encoder/block{i}")
    return image


def decode(encoded: tf.Tensor, weights: Weights, config: ModelConfig, decoder: str) -> tf.Tensor:
    """Mirror of `reference.network.decode`."""
    features = encoded
    for i in range(len(constants.DECODER_FILTERS[config.N])):
        features = decoder_block(features, weights, f"{decoder}/block{i}")
    if not config.pad_object:
        border = decoder_block(features, weights, f"{decoder}/border")
        return head_activation(conv3x3(border, weights, f"{decoder}/border_head"), config, decoder)
    inner = features[..., : -constants.BORDER_CHANNELS]
    outer = features[..., -constants.BORDER_CHANNELS :]
    patches = head_activation(conv3x3(inner, weights, f"{decoder}/inner_head"), config, decoder)
    margin = config.N // 4
    patches = tf.pad(patches, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    if config.probe_big:
        border = decoder_block(outer, weights, f"{decoder}/border")
        border = activation("swish", conv3x3(border, weights, f"{decoder}/border_head"))
        patches = patches + border * tf.cast(1.0 - central_box(config.N), border.dtype)[..., None]
    return patches


def head_activation(x: tf.Tensor, config: ModelConfig, decoder: str) -> tf.Tensor:
    """Mirror of `reference.network.head_activation`."""
    return activation(config.amp_activation, x) if decoder == "amplitude" else math.pi * tf.tanh(x)


def object_patches(diffraction_fed: tf.Tensor, weights: Weights, config: ModelConfig) -> tf.Tensor:
    """Mirror of `reference.network.object_patches`; (B, N, N, C) in, (B, N, N, c) out."""
    encoded = encode(diffraction_fed / tf.exp(weights["log_scale"]), weights, config)
    amplitude = decode(encoded, weights, config, "amplitude")
    phase = decode(encoded, weights, config, "phase")
    # complex numbers have no half precision: mixed precision ends here
    wide = weights["log_scale"].dtype
    amplitude, phase = tf.cast(amplitude, wide), tf.cast(phase, wide)
    return tf.complex(amplitude * tf.cos(phase), amplitude * tf.sin(phase))
