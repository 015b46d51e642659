"""The reverse pass of the layers that the network `attention` adds: each gives its result and the way back.

The way back takes the gradient by the result, adds to `gradients` those by the weights, and returns the one
by the image.
"""

import numpy as np

from ptycho_backends import constants
from ptycho_backends.reference import network
from ptycho_backends.reference.initial_weights import attention_stages


def attend(image, weights, block, config, gradients):
    """`network.attend`."""
    ways = []
    for stage in attention_stages(config, block):
        if stage == "eca":
            image, back = efficient_channel_attention(image, weights, f"{block}/eca", gradients)
        elif stage == "cbam":
            image, back = channel_attention(image, weights, f"{block}/cbam", gradients)
            ways.append(back)
            image, back = spatial_attention(image, weights, f"{block}/cbam/spatial", gradients)
        else:
            image, back = spatial_attention(image, weights, f"{block}/spatial", gradients)
        ways.append(back)

    def all_back(by_image):
        for back in reversed(ways):
            by_image = back(by_image)
        return by_image

    return image, all_back


def channel_attention(image, weights, layer, gradients):
    mean, largest = image.mean(axis=(1, 2)), image.max(axis=(1, 2))
    hidden = [network.dense(pooled, weights, f"{layer}/mlp0") for pooled in (mean, largest)]
    lit = [np.maximum(x, 0) for x in hidden]
    gate = network.activation("sigmoid", sum(network.dense(x, weights, f"{layer}/mlp1") for x in lit))

    def back(by_result):
        by_said = (by_result * image).sum(axis=(1, 2)) * gate * (1 - gate)
        by_pooled = []
        for pooled, x, on in zip((mean, largest), hidden, lit, strict=True):
            by_hidden = _dense_back(f"{layer}/mlp1", on, by_said, weights, gradients) * (x > 0)
            by_pooled.append(_dense_back(f"{layer}/mlp0", pooled, by_hidden, weights, gradients))
        area = image.shape[1] * image.shape[2]
        chosen = image == largest[:, None, None]
        shared = chosen / chosen.sum(axis=(1, 2), keepdims=True)
        by_mean, by_largest = (by[:, None, None] for by in by_pooled)
        return by_result * gate[:, None, None] + by_mean / area + by_largest * shared

    return image * gate[:, None, None], back


def _dense_back(layer, vectors, by_result, weights, gradients):
    gradients[f"{layer}/kernel"] += vectors.T @ by_result
    gradients[f"{layer}/bias"] += by_result.sum(axis=0)
    return by_result @ weights[f"{layer}/kernel"].T


def spatial_attention(image, weights, layer, gradients):
    largest = image.max(axis=-1, keepdims=True)
    pooled = np.concatenate([image.mean(axis=-1, keepdims=True), largest], axis=-1)
    gate = network.activation("sigmoid", network.conv(pooled, weights, layer))

    def back(by_result):
        by_said = (by_result * image).sum(axis=-1, keepdims=True) * gate * (1 - gate)
        by_pooled = conv_back(layer, pooled, by_said, weights, gradients)
        chosen = image == largest
        shared = chosen / chosen.sum(axis=-1, keepdims=True)
        return by_result * gate + by_pooled[..., :1] / image.shape[-1] + by_pooled[..., 1:] * shared

    return image * gate, back


def efficient_channel_attention(image, weights, layer, gradients):
    kernel, channels = weights[f"{layer}/kernel"], image.shape[-1]
    side = len(kernel)
    padded = np.pad(image.mean(axis=(1, 2)), [(0, 0), (side // 2, side // 2)])
    response = sum(kernel[i] * padded[:, i : i + channels] for i in range(side))
    gate = network.activation("sigmoid", response)

    def back(by_result):
        by_said = (by_result * image).sum(axis=(1, 2)) * gate * (1 - gate)
        by_padded = np.zeros_like(padded)
        for i in range(side):
            gradients[f"{layer}/kernel"][i] += (by_said * padded[:, i : i + channels]).sum()
            by_padded[:, i : i + channels] += kernel[i] * by_said
        by_mean = by_padded[:, side // 2 : side // 2 + channels, None, None].transpose(0, 2, 3, 1)
        return by_result * gate[:, None, None] + by_mean / (image.shape[1] * image.shape[2])

    return image * gate[:, None, None], back


def batch_norm(image, weights, layer, gradients):
    """`network.batch_norm` with the batch's statistics."""
    gamma = weights[f"{layer}/gamma"]
    root = np.sqrt(image.var(axis=(0, 1, 2)) + constants.BATCH_NORM_EPSILON)
    normal = (image - image.mean(axis=(0, 1, 2))) / root

    def back(by_result):
        gradients[f"{layer}/gamma"] += (by_result * normal).sum(axis=(0, 1, 2))
        gradients[f"{layer}/beta"] += by_result.sum(axis=(0, 1, 2))
        along = (by_result * normal).mean(axis=(0, 1, 2))
        return gamma / root * (by_result - by_result.mean(axis=(0, 1, 2)) - normal * along)

    return normal * gamma + weights[f"{layer}/beta"], back


def conv_back(layer, image, by_result, weights, gradients):
    """Way back of `network.conv`."""
    kernel = weights[f"{layer}/kernel"]
    side, margin = len(kernel), len(kernel) // 2
    height, width = image.shape[1:3]
    padded = np.pad(image, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    by_padded = np.zeros_like(padded)
    for dy in range(side):
        for dx in range(side):
            window = (slice(None), slice(dy, dy + height), slice(dx, dx + width))
            gradients[f"{layer}/kernel"][dy, dx] += np.tensordot(
                padded[window], by_result, ([0, 1, 2], [0, 1, 2])
            )
            by_padded[window] += by_result @ kernel[dy, dx].T
    if f"{layer}/bias" in gradients:
        gradients[f"{layer}/bias"] += by_result.sum(axis=(0, 1, 2))
    return by_padded[:, margin : margin + height, margin : margin + width]
