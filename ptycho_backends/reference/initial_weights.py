"""Canonical names and shapes of a model's weights, and their first values from `(config, seed)`.

Canonical kernels are `(height, width, in, out)` float32. The order of `layer_channels` is, for the network
`cnn`, the order in which the genuine PtychoPINN numbers its layers; that of `weight_shapes` is the one in
which optimisers and archives list weights.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.config import ModelConfig

PROBE = "probe"
LOG_SCALE = "log_scale"

DECODERS = ("amplitude", "phase")
SHARED_DECODER = "decoder"
BOTTLENECK = "encoder/bottleneck"
UNET_LEVELS = len(constants.UNET_FILTERS)
UNET_INPUTS, UNET_OUTPUTS = 3, 2

FIRST_AMPLITUDE_BIAS = {
    "sigmoid": 0.0,
    "swish": 0.7388350311316078,
    "softplus": math.log(math.expm1(0.5)),
    "relu": 0.5,
}
"""Argument at which each activation of the amplitude equals 0.5."""


def is_running_value(name: str) -> bool:
    """Test for the running statistics (mean, variance) of batch normalisation, which no optimiser updates."""
    return name.endswith(("/norm/mean", "/norm/variance"))


# --- structure


def trunk_of(config: ModelConfig, decoder: str) -> str:
    """Name of the blocks of `decoder` ('amplitude' or 'phase'): its own, or that of the shared decoder."""
    return SHARED_DECODER if config.use_shared_decoder else decoder


def border_channels(config: ModelConfig) -> int:
    """Feature channels that `pad_object` sets aside for the border; at least one is left for the inner part."""
    if config.architecture == "cnn":
        return constants.BORDER_CHANNELS
    decoded = constants.DECODER_FILTERS[config.N][-1] * config.n_filters_scale
    return min(max(1, round(config.decoder_last_c_outer_fraction * decoded)), decoded - 1)


def attention_stages(config: ModelConfig, block: str) -> tuple[str, ...]:
    """Attention stages ('eca', 'cbam', 'spatial') behind the convolutions of `block`, in order.

    `encoder/bottleneck` names the place behind the last encoder block.
    """
    if block == BOTTLENECK:
        enabled = {"cbam": config.cbam_bottleneck}
    elif block.startswith("encoder/"):
        enabled = {"eca": config.eca_encoder, "cbam": config.cbam_encoder}
    else:
        enabled = {"eca": config.eca_decoder, "cbam": config.cbam_decoder, "spatial": config.spatial_decoder}
    return tuple(stage for stage, is_enabled in enabled.items() if is_enabled)


def eca_side(channels: int) -> int:
    """Length of ECA's kernel: `(log2(channels) + 1) / 2`, whole part, the next odd number if it is even.

    References
    ----------
    Wang et al. 2020, eq. 12, with gamma = 2 and b = 1.
    """
    whole = channels.bit_length() // 2  # the whole part of (log2(channels) + 1) / 2, without its rounding
    return whole + 1 - whole % 2


def cbam_width(channels: int) -> int:
    """Hidden units of the perceptron over `channels` channels."""
    return max(channels // constants.CBAM_REDUCTION, constants.CBAM_SMALLEST_WIDTH)


def layer_channels(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """`{layer: (channels in, channels out)}` of every 3x3 convolution, in canonical order.

    Layers are `encoder/block<i>/conv<j>` and, for each decoder in (`amplitude`, `phase`),
    `<decoder>/inner_head`, `<decoder>/border_head`, `<decoder>/block<i>/conv<j>`,
    `<decoder>/border/conv<j>`. With `use_shared_decoder` the blocks and the border are called `decoder/...`
    and come before all heads. The inner head exists only with `pad_object`, the border branch only
    with `probe_big` or without `pad_object` (docs/model.md, section 4).

    The architecture `unrolled` has a U-Net: `encoder/block<i>/conv<j>`, then `decoder/block<i>/conv<j>` from its lowest
    level up, and `decoder/head`.
    """
    if config.architecture == "unrolled":
        return dict(_unet_layers(config))
    encoded = constants.ENCODER_FILTERS[config.N][-1] * config.n_filters_scale
    layers = dict(_encoder_layers(config))
    if config.use_shared_decoder:
        layers |= _trunk_layers(config, SHARED_DECODER, encoded)
    for decoder in DECODERS:
        layers |= _head_layers(config, decoder)
        if not config.use_shared_decoder:
            layers |= _trunk_layers(config, decoder, encoded)
    return layers


_Layers = Iterator[tuple[str, tuple[int, int]]]


def _block_layers(block: str, channels: int, filters: int) -> _Layers:
    yield f"{block}/conv0", (channels, filters)
    yield f"{block}/conv1", (filters, filters)


def _unet_layers(config: ModelConfig) -> _Layers:
    filters = [count * config.n_filters_scale for count in constants.UNET_FILTERS]
    for level, (channels, count) in enumerate(zip([UNET_INPUTS, *filters], filters, strict=False)):
        yield from _block_layers(f"encoder/block{level}", channels, count)
    for level in reversed(range(UNET_LEVELS - 1)):
        yield from _block_layers(f"decoder/block{level}", filters[level + 1] + filters[level], filters[level])
    yield "decoder/head", (filters[0], UNET_OUTPUTS)


def _encoder_layers(config: ModelConfig) -> _Layers:
    channels = config.group_size
    for i, filters in enumerate(constants.ENCODER_FILTERS[config.N]):
        yield from _block_layers(f"encoder/block{i}", channels, filters * config.n_filters_scale)
        channels = filters * config.n_filters_scale


def _trunk_layers(config: ModelConfig, trunk: str, channels: int) -> _Layers:
    for i, filters in enumerate(constants.DECODER_FILTERS[config.N]):
        yield from _block_layers(f"{trunk}/block{i}", channels, filters * config.n_filters_scale)
        channels = filters * config.n_filters_scale
    if config.probe_big or not config.pad_object:
        border_input = border_channels(config) if config.pad_object else channels
        border_filters = constants.BORDER_FILTERS[config.N] * config.n_filters_scale
        yield from _block_layers(f"{trunk}/border", border_input, border_filters)


def _head_layers(config: ModelConfig, decoder: str) -> _Layers:
    heads, scale = config.patch_channels, config.n_filters_scale
    if config.pad_object:
        decoded = constants.DECODER_FILTERS[config.N][-1] * scale
        yield f"{decoder}/inner_head", (decoded - border_channels(config), heads)
    if config.probe_big or not config.pad_object:
        yield f"{decoder}/border_head", (constants.BORDER_FILTERS[config.N] * scale, heads)


# --- shapes


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """`{name: shape}` of all weights of a model, in canonical order.

    Each layer of `layer_channels` has a `<layer>/kernel` (3, 3, in, out) and a `<layer>/bias` (out,),
    float32; then come `log_scale` (), float32, and `probe`, complex64, `[y, x]`. Its shape is (N, N); of several
    modes (modes, N, N); of several probes (probes, modes, N, N).

    In the network `attention`, attention stages follow the last convolution of a block:
    `<block>/eca/kernel` (k,), `<block>/cbam/mlp0/...` and `.../mlp1/...` with a kernel (in, out) and a bias,
    `<block>/cbam/spatial/...` and `<block>/spatial/...` with a kernel (k, k, 2, 1) and a bias. With
    `batch_norm` a block's convolutions have, instead of the bias, `<layer>/norm/gamma`, `.../beta`,
    `.../mean` and `.../variance`, each (out,).
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (channels_in, channels_out) in layer_channels(config).items():
        block, _, number = layer.rpartition("/conv")
        shapes[f"{layer}/kernel"] = (3, 3, channels_in, channels_out)
        if block and config.batch_norm:
            shapes |= {
                f"{layer}/norm/{kind}": (channels_out,) for kind in ("gamma", "beta", "mean", "variance")
            }
        else:
            shapes[f"{layer}/bias"] = (channels_out,)
        if number == "1" and config.architecture != "unrolled":
            shapes |= _attention_shapes(config, block, channels_out)
            if block == f"encoder/block{len(constants.ENCODER_FILTERS[config.N]) - 1}":
                shapes |= _attention_shapes(config, BOTTLENECK, channels_out)
    shapes[LOG_SCALE] = ()
    shapes[PROBE] = probe_shape(config)
    return shapes


def probe_shape(config: ModelConfig) -> tuple[int, ...]:
    """(N, N), (modes, N, N) or (probes, modes, N, N): the shape of the weight `probe`."""
    if config.n_probes > 1:
        return config.n_probes, config.n_probe_modes, config.N, config.N
    return (*((config.n_probe_modes,) if config.n_probe_modes > 1 else ()), config.N, config.N)


def correction_weights(weights: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Those of a model's weights that are its network's, without the probe and the scale."""
    return {name: value for name, value in weights.items() if name not in (PROBE, LOG_SCALE)}


def main_mode(probe: NDArray) -> NDArray:
    """(N, N), the first mode of the first probe of the weight `probe`."""
    return probe if probe.ndim == 2 else probe.reshape(-1, *probe.shape[-2:])[0]


def _attention_shapes(config: ModelConfig, block: str, channels: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *kernel: int) -> None:
        shapes[f"{block}/{name}/kernel"] = kernel
        shapes[f"{block}/{name}/bias"] = kernel[-1:]

    for stage in attention_stages(config, block):
        if stage == "eca":
            shapes[f"{block}/eca/kernel"] = (eca_side(channels),)
        elif stage == "cbam":
            layer("cbam/mlp0", channels, cbam_width(channels))
            layer("cbam/mlp1", cbam_width(channels), channels)
            layer("cbam/spatial", constants.CBAM_SPATIAL_SIDE, constants.CBAM_SPATIAL_SIDE, 2, 1)
        else:
            layer("spatial", config.decoder_spatial_kernel, config.decoder_spatial_kernel, 2, 1)
    return shapes


def weight_dtype(name: str) -> np.dtype:
    """Stored dtype of the weight `name`: complex64 for the probe, else float32."""
    return np.dtype(np.complex64 if name == PROBE else np.float32)


# --- first values


def gates_behind(config: ModelConfig, name: str) -> int:
    """Number of attention gates between the output of the weight `name` and the next weight.

    A gate is a sigmoid and starts at 1/2. Several gates in a row would make the first objects nearly
    constant, and training would have to undo that. So the last kernel of a block (with batch normalisation,
    its gamma) starts at twice its size for each gate.
    """
    block, _, rest = name.partition("/conv1/")
    if config.architecture == "unrolled" or rest != ("norm/gamma" if config.batch_norm else "kernel"):
        return 0
    stages = list(attention_stages(config, block))
    if block == f"encoder/block{len(constants.ENCODER_FILTERS[config.N]) - 1}":
        stages += attention_stages(config, BOTTLENECK)
    return sum(2 if stage == "cbam" else 1 for stage in stages)


def first_amplitude_bias(config: ModelConfig, name: str) -> float:
    """First value of the bias `name`: a new object of the network `attention` has amplitude 0.5.

    With `sigmoid` a zero bias gives 0.5; the other activations map zero to zero. An object near zero has
    amplitudes of either sign, hence phases of 0 and pi. Its first gradients drive the phase into the
    saturation of tanh, where it stays. In the network `cnn` every bias starts at zero.
    """
    head = "inner_head" if config.pad_object else "border_head"
    if config.architecture != "attention" or not name.endswith(f"/{head}/bias"):
        return 0.0
    return FIRST_AMPLITUDE_BIAS[config.amp_activation] if name.startswith("amplitude/") else 0.0


def initial_weights(
    config: ModelConfig, seed: int, *, probe: NDArray[np.complexfloating], intensity_scale: float
) -> dict[str, NDArray]:
    """First weights of a model: Glorot-uniform kernels, zero biases, the given probe and scale.

    The network `unrolled` starts with a correction of zero: its head's kernel is zero.

    Batch normalisation starts with gamma 1, beta 0, mean 0 and variance 1. Weights in front of attention
    gates start larger (`gates_behind`), and the amplitude starts at 0.5 (`first_amplitude_bias`).

    Parameters
    ----------
    config : ModelConfig
        Validated, `N` known.
    seed : int
        The same `(config, seed)` gives the same numbers on every machine and in every backend.
    probe : complex array of `probe_shape`, [y, x]
        Already normalised (`ptycho_backends.reference.probe.normalise_probe`).
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
        if name == "decoder/head/kernel":
            weights[name] = np.zeros(shape, np.float32)
        elif name.endswith("/kernel"):
            # along one axis, a kernel takes each channel to each channel: one in, one out
            *window, channels_in, channels_out = shape if len(shape) > 1 else (*shape, 1, 1)
            limit = math.sqrt(6.0 / (math.prod(window) * (channels_in + channels_out)))
            weights[name] = generator.uniform(-limit, limit, shape).astype(np.float32)
        elif name.endswith(("/norm/gamma", "/norm/variance")):
            weights[name] = np.ones(shape, weight_dtype(name))
        else:
            weights[name] = np.full(shape, first_amplitude_bias(config, name), weight_dtype(name))
        weights[name] *= np.float32(2.0 ** gates_behind(config, name))
    weights[LOG_SCALE] = np.asarray(math.log(intensity_scale), np.float32)
    weights[PROBE] = np.asarray(probe, np.complex64).reshape(probe_shape(config))
    return weights
