"""The layers of a model as `torch.nn` modules, named as their weights are; `network` computes through them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ptycho_backends.config import ModelConfig
from ptycho_backends.reference.initial_weights import BOTTLENECK, DECODERS, SHARED_DECODER, is_running_value
from ptycho_torch.backend import network

# Attributes of `torch.nn.Conv2d` that have another name than the canonical weight.
TORCH_NAMES = {"kernel": "weight", "bias": "bias"}


class Layer(torch.nn.Module):
    """A layer, block or decoder; computes one function of `network` with its own weights.

    Parameters
    ----------
    name : str
        Canonical, as 'encoder/block1'.
    computes : str
        A key of `network.LAYER_FUNCTIONS`.
    """

    def __init__(self, name: str, computes: str) -> None:
        super().__init__()
        self.computes = computes
        self._name = name
        self._arguments: tuple[Any, ...] = ()

    def _connect(self, weights: network.ModuleWeights, config: ModelConfig) -> None:
        """Give the layer access to the weights of its model."""
        without_config = ("batch_norm", "cbam", "dense", "efficient_channel_attention", "unet_block")
        if self.computes == "encode":
            self._arguments = (weights, config)
        elif self.computes in without_config:
            self._arguments = (weights, self._name)
        elif self.computes in ("decoder", "small_heads", "small_trunk"):
            self._arguments = (weights, config, self._name)
        else:
            self._arguments = (weights, self._name, config)

    def forward(self, image: Tensor, statistics: network.Statistics | None = None) -> Tensor:
        """Result of the layer, channels first; `statistics` as in `network`."""
        function = network.LAYER_FUNCTIONS[self.computes]
        takes_statistics = self.computes in TRAINED_APART
        result: Tensor = function(image, *self._arguments, *([statistics] if takes_statistics else []))
        return result

    def extra_repr(self) -> str:
        return f"{self.computes}, parameters={sum(parameter.numel() for parameter in self.parameters()):,}"


TRAINED_APART = ("batch_norm", "block_features", "decoder", "encode", "encoder_block", "small_trunk")
"""Functions that compute otherwise in training, and take `statistics` then."""


class _UpsampledConv2d(torch.nn.Conv2d):
    """Convolution of an image that is up-sampled by two on the way."""

    computes = "conv_upsampled"

    def forward(self, image: Tensor) -> Tensor:
        weights = {"/kernel": self.weight, "/bias": self.bias}
        result: Tensor = network.LAYER_FUNCTIONS[self.computes](image, weights, "")
        return result


def attach_layers(
    root: torch.nn.Module, tensors: Mapping[str, Tensor], config: ModelConfig
) -> network.ModuleWeights:
    """Make `tensors` parameters and buffers of `root` and of modules below it.

    Parameters
    ----------
    root : torch.nn.Module
        Gets a submodule for each layer, and the weights of no layer itself.
    tensors : mapping of tensors
        Canonical names in canonical order.
    config : ModelConfig

    Returns
    -------
    network.ModuleWeights
        The same tensors by canonical name.
    """
    attributes = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition("/")
        module = _module(root, layer, config, tensors) if layer else root
        attribute = TORCH_NAMES[kind] if isinstance(module, torch.nn.Conv2d) else kind
        if is_running_value(name):
            module.register_buffer(attribute, tensor)
        else:
            setattr(module, attribute, torch.nn.Parameter(tensor))
        attributes[name] = attribute
    weights = network.ModuleWeights(root, attributes)
    for module in root.modules():
        if isinstance(module, Layer):
            module._connect(weights, config)
    return weights


def _module(
    root: torch.nn.Module, layer: str, config: ModelConfig, tensors: Mapping[str, Tensor]
) -> torch.nn.Module:
    """The module of `layer` below `root`, which is made if it is not there."""
    parent, _, last = layer.rpartition("/")
    above = _module(root, parent, config, tensors) if parent else root
    if last not in above._modules:
        kernel = tensors.get(f"{layer}/kernel")
        if kernel is not None and kernel.ndim == 4:
            above.add_module(last, _convolution(layer, kernel, biased=f"{layer}/bias" in tensors))
        elif config.architecture == "unrolled" and "/" not in layer:
            # the way down and the way up of the U-Net, which are joined level by level
            above.add_module(last, torch.nn.Module())
        else:
            above.add_module(last, Layer(layer, _function(layer, config)))
    return above.get_submodule(last)


def _convolution(layer: str, kernel: Tensor, *, biased: bool) -> torch.nn.Conv2d:
    kind = _UpsampledConv2d if layer.endswith("_head") else torch.nn.Conv2d
    outs, ins, side, _ = kernel.shape
    # without memory, because the weights are put in afterwards
    return kind(ins, outs, side, padding=side // 2, bias=biased, device="meta")


def _function(layer: str, config: ModelConfig) -> str:
    """Name of the function of `network` that `layer` stands for."""
    if config.architecture == "unrolled":
        return "unet_block"
    last = layer.rpartition("/")[2]
    by_last = {"cbam": "cbam", "eca": "efficient_channel_attention", "norm": "batch_norm"}
    if last in by_last:
        return by_last[last]
    if last.startswith("mlp"):
        return "dense"
    if layer == "encoder":
        return "encode"
    if layer == BOTTLENECK:
        return "attend"
    if layer == SHARED_DECODER:
        return "small_trunk"
    if layer in DECODERS:
        return "small_heads" if config.use_shared_decoder else "decoder"
    return "encoder_block" if layer.startswith("encoder/") else "block_features"
