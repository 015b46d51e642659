"""Mirror of `ptycho_backends.reference.network`; images are `(B, channels, y, x)` here."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules import module as torch_module

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
from ptycho_torch.backend import process_group
from ptycho_torch.backend.arrays import constant

Weights = Mapping[str, Tensor]
Statistics = dict[str, Tensor]


class SharedStatistics(dict[str, Tensor]):
    """`Statistics` of a batch of which this process holds the fraction `fraction` of the groups."""

    def __init__(self, fraction: float) -> None:
        super().__init__()
        self.fraction = fraction


# Beyond this, softplus(x) and x are the same number even in float64.
SOFTPLUS_THRESHOLD = 50.0


# --- layers that are modules


class ModuleWeights(Mapping[str, Tensor]):
    """Weights of a tree of modules by canonical name, with access to the module of each layer.

    Given these, the functions of this file compute through the modules, so that their hooks are called. Given
    a plain mapping of tensors they compute alone.

    Parameters
    ----------
    root : torch.nn.Module
        Its submodules are the layers: `encoder.block0` is the layer `encoder/block0`.
    attributes : mapping of str to str
        Name of the attribute that holds each weight, by canonical name in canonical order.
    """

    def __init__(self, root: torch.nn.Module, attributes: Mapping[str, str]) -> None:
        self._root = root
        self.attributes = dict(attributes)

    def __getitem__(self, name: str) -> Tensor:
        attribute = self.attributes[name]
        layer, _, _ = name.rpartition("/")
        value: Tensor = getattr(self.module(layer) if layer else self._root, attribute)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.attributes)

    def __len__(self) -> int:
        return len(self.attributes)

    def module(self, layer: str) -> torch.nn.Module | None:
        """The module of `layer`; None where there is none."""
        found: torch.nn.Module | None = self._root
        for part in layer.split("/"):
            if found is None:
                return None
            found = found._modules.get(part)
        return found


LAYER_FUNCTIONS: dict[str, Callable[..., Any]] = {}
"""Functions that a module may stand for, by name; none of them calls its own module."""


Function = TypeVar("Function", bound=Callable[..., Any])


def _layer(name: str | None = None) -> Callable[[Function], Function]:
    """Compute a function through the module of its layer, where the weights are `ModuleWeights`.

    The layer is `name`, or else the function's first string argument. A module of this library has the name of
    the function that it stands for as `computes`; any other module, as one that a user has put in, is called
    in place of the function.
    """

    def decorated(function: Function) -> Function:
        key = function.__name__.lstrip("_")
        LAYER_FUNCTIONS[key] = function

        @functools.wraps(function)
        def through_module(image: Any, weights: Weights, *arguments: Any, **options: Any) -> Any:
            if isinstance(weights, ModuleWeights):
                module = weights.module(name or next(one for one in arguments if isinstance(one, str)))
                if module is not None and getattr(module, "computes", key) == key:
                    given = (*arguments, *options.values())
                    inputs = (one for one in given if isinstance(one, dict))
                    return module(image, *inputs)
            return function(image, weights, *arguments, **options)

        return cast("Function", through_module)

    return decorated


def _is_observed(weights: Weights, layer: str) -> bool:
    """True if somebody may keep the result of `layer`: its module has hooks, or is not of this library."""
    if not isinstance(weights, ModuleWeights):
        return False
    module = weights.module(layer)
    if module is None or not (type(module) is torch.nn.Conv2d or hasattr(module, "computes")):
        return True
    hooks = (module._forward_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or bool(torch_module._has_any_global_hook())


# --- stages


@_layer()
def conv(image: Tensor, weights: Weights, layer: str) -> Tensor:
    """Mirror of `reference.network.conv`; kernels are (out, in, k, k)."""
    kernel = weights[f"{layer}/kernel"]
    return F.conv2d(image, kernel, weights.get(f"{layer}/bias"), padding=kernel.shape[-1] // 2)


@_layer()
def conv_upsampled(image: Tensor, weights: Weights, layer: str) -> Tensor:
    """Mirror of `reference.network.conv_upsampled`, four pixels of the result at once.

    Of an up-sampled image two of the three rows below a kernel are the same: of an even row that one and the
    next, of an odd row that one and the one before; columns alike. With as many results for each pixel of
    `image`, a kernel of few results is not only a matter of memory.
    """
    kernel, bias = weights[f"{layer}/kernel"], weights.get(f"{layer}/bias")
    four_biases = None if bias is None else bias.repeat_interleave(4)
    four = [column for row in _even_and_odd(kernel, -2) for column in _even_and_odd(row, -1)]
    result = F.conv2d(image, torch.stack(four, dim=1).flatten(0, 1), four_biases, padding=1)
    return F.pixel_shuffle(result, 2)


def _even_and_odd(kernel: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Equivalent kernels for the even and the odd pixels of an up-sampled image, applied before up-sampling."""
    before, here, after = kernel.unbind(axis)
    none = torch.zeros_like(here)
    even = torch.stack([before, here + after, none], dim=axis)
    return even, torch.stack([none, before + here, after], dim=axis)


@_layer()
def dense(vectors: Tensor, weights: Weights, layer: str) -> Tensor:
    """Mirror of `reference.network.dense`."""
    return vectors @ weights[f"{layer}/kernel"] + weights[f"{layer}/bias"]


def activation(name: str, x: Tensor) -> Tensor:
    """Mirror of `reference.network.activation`."""
    if name == "sigmoid":
        # its own derivative, y (1 - y), loses every digit where y is all but 1, as gates are
        return F.logsigmoid(x).exp()
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


@_layer()
def batch_norm(image: Tensor, weights: Weights, layer: str, statistics: Statistics | None = None) -> Tensor:
    """Mirror of `reference.network.batch_norm`, in the precision of the weights."""
    mean, variance = f"{layer}/mean", f"{layer}/variance"
    gamma, beta = weights[f"{layer}/gamma"], weights[f"{layer}/beta"]
    image = image.to(gamma.dtype)
    used = weights
    if statistics is not None:
        # not F.batch_norm: its float32 gradient is off by more than the order of its sums explains
        centre = _mean_of_batch(image, statistics)
        used = {mean: centre, variance: _mean_of_batch((image - _by_channel(centre)).square(), statistics)}
        statistics.update({name: value.detach() for name, value in used.items()})
    root = torch.sqrt(used[variance] + constants.BATCH_NORM_EPSILON)
    return (image - _by_channel(used[mean])) * _by_channel(gamma / root) + _by_channel(beta)


def _mean_of_batch(image: Tensor, statistics: Statistics) -> Tensor:
    """Mean of each channel over the batch; over the shards of all processes for `SharedStatistics`."""
    mean = image.mean(dim=(0, 2, 3))
    if isinstance(statistics, SharedStatistics):
        return process_group.summed(mean * statistics.fraction)
    return mean


def _by_channel(values: Tensor) -> Tensor:
    return values[:, None, None]


def moved_running_values(weights: Weights, statistics: Statistics) -> Statistics:
    """Mirror of `reference.network.moved_running_values`."""
    return {
        name: weights[name] + constants.BATCH_NORM_MOMENTUM * (value - weights[name])
        for name, value in statistics.items()
    }


def channel_attention(image: Tensor, weights: Weights, layer: str) -> Tensor:
    """Mirror of `reference.network.channel_attention`."""
    # amax, not max: of equal pixels it favours none, and its gradient is that of TensorFlow
    pooled = (image.mean(dim=(2, 3)), image.amax(dim=(2, 3)))
    hidden = [activation("relu", dense(vectors, weights, f"{layer}/mlp0")) for vectors in pooled]
    of_mean, of_maximum = (dense(vectors, weights, f"{layer}/mlp1") for vectors in hidden)
    return image * activation("sigmoid", of_mean + of_maximum)[:, :, None, None]


def spatial_attention(image: Tensor, weights: Weights, layer: str) -> Tensor:
    """Mirror of `reference.network.spatial_attention`."""
    pooled = torch.stack([image.mean(dim=1), image.amax(dim=1)], dim=1)
    return image * activation("sigmoid", conv(pooled, weights, layer))


@_layer()
def efficient_channel_attention(image: Tensor, weights: Weights, layer: str) -> Tensor:
    """Mirror of `reference.network.efficient_channel_attention`."""
    kernel, channels = weights[f"{layer}/kernel"], image.shape[1]
    side = kernel.shape[0]
    padded = F.pad(image.mean(dim=(2, 3)), (side // 2, side // 2))
    taps = [kernel[i] * padded[:, i : i + channels] for i in range(side)]
    return image * activation("sigmoid", torch.stack(taps).sum(dim=0))[:, :, None, None]


@_layer()
def _cbam(image: Tensor, weights: Weights, layer: str) -> Tensor:
    image = channel_attention(image, weights, layer)
    return spatial_attention(image, weights, f"{layer}/spatial")


@_layer()
def attend(image: Tensor, weights: Weights, block: str, config: ModelConfig) -> Tensor:
    """Mirror of `reference.network.attend`."""
    for stage in attention_stages(config, block):
        if stage == "eca":
            image = efficient_channel_attention(image, weights, f"{block}/eca")
        elif stage == "cbam":
            image = _cbam(image, weights, f"{block}/cbam")
        else:
            image = spatial_attention(image, weights, f"{block}/spatial")
    return image


@_layer()
def block_features(
    image: Tensor, weights: Weights, block: str, config: ModelConfig, statistics: Statistics | None = None
) -> Tensor:
    """Mirror of `reference.network.block_features`."""
    for layer in (f"{block}/conv0", f"{block}/conv1"):
        image = conv(image, weights, layer)
        if config.batch_norm:
            image = batch_norm(image, weights, f"{layer}/norm", statistics)
        # in place where nobody keeps the former values: no gradient needs them
        observed = _is_observed(weights, f"{layer}/norm" if config.batch_norm else layer)
        image = F.relu(image, inplace=not observed)
    return attend(image, weights, block, config)


@_layer()
def encoder_block(
    image: Tensor, weights: Weights, block: str, config: ModelConfig, statistics: Statistics | None = None
) -> Tensor:
    """Mirror of `reference.network.encoder_block`."""
    return max_pool(block_features(image, weights, block, config, statistics))


def decoder_block(
    image: Tensor, weights: Weights, block: str, config: ModelConfig, statistics: Statistics | None = None
) -> Tensor:
    """Mirror of `reference.network.decoder_block`."""
    return upsample(block_features(image, weights, block, config, statistics))


@_layer()
def unet_block(image: Tensor, weights: Weights, block: str) -> Tensor:
    """Mirror of `reference.network.unet_block`."""
    for layer in (f"{block}/conv0", f"{block}/conv1"):
        image = F.relu(conv(image, weights, layer), inplace=not _is_observed(weights, layer))
    return image


@_layer("encoder")
def encode(
    image: Tensor, weights: Weights, config: ModelConfig, statistics: Statistics | None = None
) -> Tensor:
    """Mirror of `reference.network.encode`."""
    for i in range(len(constants.ENCODER_FILTERS[config.N])):
        image = encoder_block(image, weights, f"encoder/block{i}", config, statistics)
    return attend(image, weights, BOTTLENECK, config)


def trunk(
    encoded: Tensor, weights: Weights, config: ModelConfig, name: str, statistics: Statistics | None = None
) -> dict[str, Tensor]:
    """Mirror of `reference.network.trunk`."""
    small = _small_trunk(encoded, weights, config, name, statistics)
    return {head: upsample(features) for head, features in small.items()}


@_layer()
def _small_trunk(
    encoded: Tensor, weights: Weights, config: ModelConfig, name: str, statistics: Statistics | None
) -> dict[str, Tensor]:
    """`trunk` without its last up-sampling."""
    features = encoded
    for i in range(len(constants.DECODER_FILTERS[config.N])):
        image = upsample(features) if i else features
        features = block_features(image, weights, f"{name}/block{i}", config, statistics)
    head_inputs, outer = {}, features
    if config.pad_object:
        aside = border_channels(config)
        head_inputs["inner_head"], outer = features[:, :-aside], features[:, -aside:]
    if config.probe_big or not config.pad_object:
        image = upsample(outer)
        head_inputs["border_head"] = block_features(image, weights, f"{name}/border", config, statistics)
    return head_inputs


def heads(head_inputs: Mapping[str, Tensor], weights: Weights, config: ModelConfig, decoder: str) -> Tensor:
    """Mirror of `reference.network.heads`."""
    head_outputs = {
        head: conv(features, weights, f"{decoder}/{head}") for head, features in head_inputs.items()
    }
    return _patches(head_outputs, config, decoder)


@_layer()
def _small_heads(small: dict[str, Tensor], weights: Weights, config: ModelConfig, decoder: str) -> Tensor:
    """`heads` of the up-sampled features `small`."""
    head_outputs = {
        head: conv_upsampled(features, weights, f"{decoder}/{head}") for head, features in small.items()
    }
    return _patches(head_outputs, config, decoder)


def _patches(head_outputs: Mapping[str, Tensor], config: ModelConfig, decoder: str) -> Tensor:
    """Activate the outputs of the heads and add the border to the inner part."""
    if not config.pad_object:
        patches = head_activation(head_outputs["border_head"], config, decoder)
        return patches * _mask(config, patches) if config.edge_pad else patches
    margin = config.N // 4
    patches = head_activation(head_outputs["inner_head"], config, decoder)
    patches = F.pad(patches, (margin, margin, margin, margin))
    if "border_head" in head_outputs:
        border = activation("swish", head_outputs["border_head"])
        patches = patches + border * _mask(config, border)
    return patches


def _mask(config: ModelConfig, like: Tensor) -> Tensor:
    key = ("border_mask", config.N, config.pad_object, config.edge_pad)
    return constant(lambda: border_mask(config), key, like)


def decode(
    encoded: Tensor, weights: Weights, config: ModelConfig, statistics: Statistics | None = None
) -> tuple[Tensor, Tensor]:
    """Mirror of `reference.network.decode`."""
    if config.use_shared_decoder:
        small = _small_trunk(encoded, weights, config, SHARED_DECODER, statistics)
        amplitude, phase = (_small_heads(small, weights, config, decoder) for decoder in DECODERS)
    else:
        amplitude, phase = (_decoder(encoded, weights, config, decoder, statistics) for decoder in DECODERS)
    return amplitude, phase


@_layer()
def _decoder(
    encoded: Tensor, weights: Weights, config: ModelConfig, decoder: str, statistics: Statistics | None
) -> Tensor:
    """Blocks and heads of a decoder that is not shared."""
    small = _small_trunk(encoded, weights, config, decoder, statistics)
    return _small_heads(small, weights, config, decoder)


def head_activation(x: Tensor, config: ModelConfig, decoder: str) -> Tensor:
    """Mirror of `reference.network.head_activation`."""
    return activation(config.amp_activation, x) if decoder == "amplitude" else torch.pi * torch.tanh(x)


def object_patches(
    diffraction_fed: Tensor, weights: Weights, config: ModelConfig, statistics: Statistics | None = None
) -> Tensor:
    """Mirror of `reference.network.object_patches`; (B, C, N, N) in, (B, c, N, N) out."""
    encoded = encode(diffraction_fed / torch.exp(weights["log_scale"]), weights, config, statistics)
    amplitude, phase = decode(encoded, weights, config, statistics)
    # complex numbers have no half precision: autocast ends here
    wide = weights["log_scale"].dtype
    amplitude, phase = amplitude.to(wide).contiguous(), phase.to(wide).contiguous()
    # not torch.polar: its gradient takes the amplitude for positive, and swish is not
    return torch.complex(amplitude * torch.cos(phase), amplitude * torch.sin(phase))
