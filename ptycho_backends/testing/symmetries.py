"""Reorderings that have no effect in real numbers, and so measure the effect of rounding alone.

Filters inside the network are renumbered, positions in a group and groups in a batch change places, x and y
are exchanged, and the batch may be repeated. Every sum of the computation then runs in another order and over
another number of terms. Prediction and gradient must come out in the new order; any other difference is
rounding. ECA depends on the neighbours of a channel, so its channels are at most reversed.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.config import ModelConfig
from ptycho_backends.reference.correction import HEAD
from ptycho_backends.reference.initial_weights import (
    BOTTLENECK,
    DECODERS,
    PROBE,
    UNET_INPUTS,
    UNET_LEVELS,
    UNET_OUTPUTS,
    attention_stages,
    border_channels,
    layer_channels,
    trunk_of,
    weight_shapes,
)
from ptycho_backends.values import Batch, Prediction, Weights

Order = NDArray[np.int64]
_Axes = dict[str, dict[int, Order]]

KERNEL = "/kernel"


class Reordering:
    """One reordering, drawn from `seed`.

    Parameters
    ----------
    config : ModelConfig
    groups : int
        Groups in the batch.
    seed : int
    transposed : bool
        Exchange x and y as well.
    repeats : int
        Number of times that each group occurs. A loss is a mean over groups, so repeats leave it unchanged,
        but a sum of equal terms, which no order changes, is rounded differently.
    """

    def __init__(
        self, config: ModelConfig, groups: int, seed: int, *, transposed: bool = True, repeats: int = 1
    ) -> None:
        generator = np.random.default_rng([seed, 4])
        self.transposed = transposed
        self.groups: Order = generator.permutation(np.tile(np.arange(groups), repeats))
        self.positions: Order = generator.permutation(config.group_size)
        self.axes = _Orders(config, self.positions, generator).axes

    def weights(self, weights: Weights) -> dict[str, NDArray]:
        """The same network with its filters renumbered."""
        changed = {name: np.asarray(value) for name, value in weights.items()}
        for name, orders in self.axes.items():
            value = changed[name]
            if name.endswith(KERNEL) and value.ndim == 4:
                value = self._turned(value, 0, 1)
            for axis, order in orders.items():
                value = np.take(value, order, axis)
            changed[name] = np.ascontiguousarray(value)
        changed[PROBE] = self._turned(changed[PROBE], -2, -1)
        return changed

    def weights_back(self, weights: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Inverse of `weights`; gradients are ordered as weights are."""
        restored = dict(weights)
        for name, orders in self.axes.items():
            value = weights[name]
            for axis, order in orders.items():
                value = np.take(value, np.argsort(order), axis)
            if name.endswith(KERNEL) and value.ndim == 4:
                value = self._turned(value, 0, 1)
            restored[name] = np.ascontiguousarray(value)
        restored[PROBE] = self._turned(weights[PROBE], -2, -1)
        return restored

    def batch(self, batch: Batch) -> Batch:
        """The same measurement, in another order."""
        offsets = batch.relative_offsets_px[self.groups][..., self.positions]
        return dataclasses.replace(
            batch,
            diffraction_amplitude=self._images(batch.diffraction_amplitude, self.positions),
            relative_offsets_px=offsets[:, :, ::-1].copy() if self.transposed else offsets,
            object_patches=None
            if batch.object_patches is None
            else self._images(batch.object_patches, self.positions),
            object_at_centre=None
            if batch.object_at_centre is None
            else self._images(batch.object_at_centre, np.arange(1)),
            valid_pixels=None
            if batch.valid_pixels is None
            else np.ascontiguousarray(self._turned(batch.valid_pixels[self.groups], 1, 2)),
            probe_index=None if batch.probe_index is None else batch.probe_index[self.groups],
        )

    def prediction(self, prediction: Prediction) -> Prediction:
        """The prediction for the reordered batch that corresponds to `prediction`."""
        return Prediction(
            object=self._images(prediction.object, np.arange(1)),
            amplitude=self._images(prediction.amplitude, self.positions),
            intensity=self._images(prediction.intensity, self.positions),
        )

    def _images(self, images: NDArray, channels: Order) -> NDArray:
        return np.ascontiguousarray(self._turned(images[self.groups][..., channels], 1, 2))

    def _turned(self, array: NDArray, first: int, second: int) -> NDArray:
        return np.swapaxes(array, first, second) if self.transposed else array


class _Orders:
    """Orders of channels, drawn so that they are consistent from layer to layer; `axes` collects them."""

    def __init__(self, config: ModelConfig, positions: Order, generator: np.random.Generator) -> None:
        self.axes: _Axes = {}
        self._config = config
        self._channels = layer_channels(config)
        self._shapes = weight_shapes(config)
        self._generator = generator
        if config.architecture == "unrolled":
            self._unet()
            return
        encoded = positions
        for i in range(len(constants.ENCODER_FILTERS[config.N])):
            encoded = self._block(f"encoder/block{i}", encoded)
        self._attention(BOTTLENECK, encoded)
        heads = positions if config.object_big else np.arange(1)
        trunks: dict[str, tuple[Order, Order | None]] = {}
        for decoder in DECODERS:
            name = trunk_of(config, decoder)
            if name not in trunks:
                trunks[name] = self._trunk(name, encoded)
            inner, border = trunks[name]
            if config.pad_object:
                self._layer(f"{decoder}/inner_head", inner, heads)
            if border is not None:
                self._layer(f"{decoder}/border_head", border, heads)

    def _unet(self) -> None:
        kept, wire = [], np.arange(UNET_INPUTS)
        for level in range(UNET_LEVELS):
            wire = self._block(f"encoder/block{level}", wire)
            kept.append(wire)
        for level in reversed(range(UNET_LEVELS - 1)):
            joined = np.concatenate([wire, len(wire) + kept[level]])
            wire = self._block(f"decoder/block{level}", joined)
        self._layer(HEAD, wire, np.arange(UNET_OUTPUTS))

    def _trunk(self, name: str, wire: Order) -> tuple[Order, Order | None]:
        """Orders of the inputs of the inner and of the border head."""
        config = self._config
        last = len(constants.DECODER_FILTERS[config.N]) - 1
        for i in range(last):
            wire = self._block(f"{name}/block{i}", wire)
        width = self._channels[f"{name}/block{last}/conv1"][1]
        inner_width = width - border_channels(config) if config.pad_object else 0
        # the channels set aside for the border keep their place among the others
        inner, outer = np.arange(inner_width), np.arange(width - inner_width)
        if not config.eca_decoder:
            inner, outer = self._generator.permutation(inner), self._generator.permutation(outer)
        self._block(f"{name}/block{last}", wire, np.concatenate([inner, inner_width + outer]))
        has_border = f"{name}/border/conv0" in self._channels
        return inner, self._block(f"{name}/border", outer) if has_border else None

    def _block(self, block: str, ins: Order, outs: Order | None = None) -> Order:
        first = self._generator.permutation(self._channels[f"{block}/conv0"][1])
        if outs is None:
            outs = np.arange(self._channels[f"{block}/conv1"][1])
            # ECA knows its channels' neighbours, so there is no other order than this one and its reverse
            if "eca" not in attention_stages(self._config, block):
                outs = self._generator.permutation(outs)
            elif self._generator.integers(2):
                outs = outs[::-1]
        self._layer(f"{block}/conv0", ins, first)
        self._layer(f"{block}/conv1", first, outs)
        self._attention(block, outs)
        return outs

    def _attention(self, block: str, channels: Order) -> None:
        for stage in attention_stages(self._config, block):
            if stage == "eca":
                side = self._shapes[f"{block}/eca/kernel"][0]
                reversed_ = channels[0] > channels[-1]
                self.axes[f"{block}/eca/kernel"] = {0: np.arange(side)[:: -1 if reversed_ else 1]}
            elif stage == "cbam":
                hidden = self._generator.permutation(self._shapes[f"{block}/cbam/mlp0/bias"][0])
                self._layer(f"{block}/cbam/mlp0", channels, hidden)
                self._layer(f"{block}/cbam/mlp1", hidden, channels)
                self._layer(f"{block}/cbam/spatial")
            else:
                self._layer(f"{block}/spatial")

    def _layer(self, layer: str, ins: Order | None = None, outs: Order | None = None) -> None:
        """Record the orders of a layer; the inputs of spatial attention (mean, maximum) keep theirs."""
        kernel = f"{layer}{KERNEL}"
        channel_axis = len(self._shapes[kernel]) - 2
        if ins is None or outs is None:
            self.axes[kernel] = {}
            return
        self.axes[kernel] = {channel_axis: ins, channel_axis + 1: outs}
        for kind in ("bias", "norm/gamma", "norm/beta", "norm/mean", "norm/variance"):
            if f"{layer}/{kind}" in self._shapes:
                self.axes[f"{layer}/{kind}"] = {0: outs}
