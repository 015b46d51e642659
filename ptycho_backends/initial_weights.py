"""Canonical names and shapes of a model's weights, and their first values from `(config, seed)`.

Canonical kernels are `(height, width, in, out)` float32. The order of `kernel_shapes` is the order in
which the genuine PtychoPINN numbers its layers, and in which optimisers and archives list them.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import ModelConfig
from ptycho_backends.reference import constants

PROBE = "probe"
LOG_SCALE = "log_scale"


def layer_channels(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """`{layer: (channels in, channels out)}` of every 3x3 convolution, in canonical order.

    Layers are `encoder/block<i>/conv<j>` and, for each decoder in (`amplitude`, `phase`),
    `<decoder>/inner_head`, `<decoder>/border_head`, `<decoder>/block<i>/conv<j>`,
    `<decoder>/border/conv<j>`. The inner head exists only with `pad_object`, the border branch only
    with `probe_big` or without `pad_object` (docs/model.md, section 4).
    """
    scale, side = config.n_filters_scale, config.N
    layers: dict[str, tuple[int, int]] = {}

    def block(name: str, channels: int, filters: int) -> int:
        layers[f"{name}/conv0"] = (channels, filters)
        layers[f"{name}/conv1"] = (filters, filters)
        return filters

    encoded = config.group_size
    for i, filters in enumerate(constants.ENCODER_FILTERS[side]):
        encoded = block(f"encoder/block{i}", encoded, filters * scale)

    border_filters = constants.BORDER_FILTERS[side] * scale
    decoded = constants.DECODER_FILTERS[side][-1] * scale
    heads = config.patch_channels
    for decoder in ("amplitude", "phase"):
        border_input = constants.BORDER_CHANNELS if config.pad_object else decoded
        has_border = config.probe_big or not config.pad_object
        if config.pad_object:
            layers[f"{decoder}/inner_head"] = (decoded - constants.BORDER_CHANNELS, heads)
        if has_border:
            layers[f"{decoder}/border_head"] = (border_filters, heads)
        channels = encoded
        for i, filters in enumerate(constants.DECODER_FILTERS[side]):
            channels = block(f"{decoder}/block{i}", channels, filters * scale)
        if has_border:
            block(f"{decoder}/border", border_input, border_filters)
    return layers


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """`{name: shape}` of everything a model consists of, in canonical order.

    Each layer of `layer_channels` has a `<layer>/kernel` (3, 3, in, out) and a `<layer>/bias` (out,),
    float32; then come `log_scale` (), float32, and `probe` (N, N), complex64, `[y, x]`.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (channels_in, channels_out) in layer_channels(config).items():
        shapes[f"{layer}/kernel"] = (3, 3, channels_in, channels_out)
        shapes[f"{layer}/bias"] = (channels_out,)
    shapes[LOG_SCALE] = ()
    shapes[PROBE] = (config.N, config.N)
    return shapes


def weight_dtype(name: str) -> np.dtype:
    """Stored dtype of the weight `name`: complex64 for the probe, else float32."""
    return np.dtype(np.complex64 if name == PROBE else np.float32)


def initial_weights(
    config: ModelConfig, seed: int, *, probe: NDArray[np.complexfloating], intensity_scale: float
) -> dict[str, NDArray]:
    """First weights of a model: Glorot-uniform kernels, zero biases, the given probe and scale.

    Parameters
    ----------
    config : ModelConfig
        Validated, `N` known.
    seed : int
        The same `(config, seed)` gives the same numbers on every machine and in every backend.
    probe : (N, N) complex array, [y, x]
        Already normalised (`ptycho_backends.probe.normalise_probe`).
    intensity_scale : float
        `s`; its logarithm is stored as `log_scale`.

    Returns
    -------
    dict of arrays
        Canonical names in canonical order, dtypes of `weight_dtype`.

    References
    ----------
    Glorot and Bengio 2010, eq. 16: uniform in +-sqrt(6 / (fan_in + fan_out)).
    """
    generator = np.random.default_rng(seed)
    weights: dict[str, NDArray] = {}
    for name, shape in weight_shapes(config).items():
        if name.endswith("/kernel"):
            height, width, channels_in, channels_out = shape
            limit = math.sqrt(6.0 / (height * width * (channels_in + channels_out)))
            weights[name] = generator.uniform(-limit, limit, shape).astype(np.float32)
        else:
            weights[name] = np.zeros(shape, weight_dtype(name))
    weights[LOG_SCALE] = np.asarray(math.log(intensity_scale), np.float32)
    weights[PROBE] = np.asarray(probe, np.complex64).reshape(config.N, config.N)
    return weights
