"""Reorderings that change nothing in real numbers, and so show what rounding alone does.

Filters inside the network are renumbered, positions in a group and groups in a batch change places, x and y
are exchanged, and the batch may be said several times over. Every sum of the computation then runs in
another order and over another number of terms. Prediction and gradient must come out reordered likewise;
what differs beyond that is rounding.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import ModelConfig
from ptycho_backends.initial_weights import PROBE, layer_channels
from ptycho_backends.protocol import Batch, Prediction, Weights
from ptycho_backends.reference import constants

Order = NDArray[np.int64]


class Reordering:
    """One such change, drawn from `seed`.

    Parameters
    ----------
    config : ModelConfig
    groups : int
        Groups in the batch.
    seed : int
    transposed : bool
        Exchange x and y as well.
    repeats : int
        How often each group comes. A loss is a mean over groups, so that changes it as little; but a sum
        of equal terms, which no order changes, is rounded otherwise.
    """

    def __init__(
        self, config: ModelConfig, groups: int, seed: int, *, transposed: bool = True, repeats: int = 1
    ) -> None:
        generator = np.random.default_rng([seed, 4])
        self.transposed = transposed
        self.groups: Order = generator.permutation(np.tile(np.arange(groups), repeats))
        self.positions: Order = generator.permutation(config.group_size)
        self.layers = _layer_orders(config, self.positions, generator)

    def weights(self, weights: Weights) -> dict[str, NDArray]:
        """The same network with its filters renumbered."""
        changed = {name: np.asarray(value) for name, value in weights.items()}
        for layer, (ins, outs) in self.layers.items():
            kernel = self._turned(changed[f"{layer}/kernel"], 0, 1)
            changed[f"{layer}/kernel"] = np.ascontiguousarray(kernel[:, :, ins][:, :, :, outs])
            changed[f"{layer}/bias"] = changed[f"{layer}/bias"][outs]
        changed[PROBE] = self._turned(changed[PROBE], 0, 1)
        return changed

    def weights_back(self, weights: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Inverse of `weights`; gradients are ordered as weights are."""
        restored = dict(weights)
        for layer, (ins, outs) in self.layers.items():
            kernel = np.empty_like(weights[f"{layer}/kernel"])
            kernel[:, :, ins[:, None], outs] = self._turned(weights[f"{layer}/kernel"], 0, 1)
            bias = np.empty_like(weights[f"{layer}/bias"])
            bias[outs] = weights[f"{layer}/bias"]
            restored[f"{layer}/kernel"], restored[f"{layer}/bias"] = kernel, bias
        restored[PROBE] = self._turned(weights[PROBE], 0, 1)
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
        )

    def prediction(self, prediction: Prediction) -> Prediction:
        """What a prediction for the batch becomes for the reordered one."""
        return Prediction(
            object=self._images(prediction.object, np.arange(1)),
            amplitude=self._images(prediction.amplitude, self.positions),
            intensity=self._images(prediction.intensity, self.positions),
        )

    def _images(self, images: NDArray, channels: Order) -> NDArray:
        return np.ascontiguousarray(self._turned(images[self.groups][..., channels], 1, 2))

    def _turned(self, array: NDArray, first: int, second: int) -> NDArray:
        return np.swapaxes(array, first, second) if self.transposed else array


def _layer_orders(
    config: ModelConfig, positions: Order, generator: np.random.Generator
) -> dict[str, tuple[Order, Order]]:
    """`{layer: (order of its input channels, order of its filters)}`, consistent from layer to layer."""
    channels = layer_channels(config)
    orders: dict[str, tuple[Order, Order]] = {}

    def block(name: str, ins: Order, outs: Order | None = None) -> Order:
        first = generator.permutation(channels[f"{name}/conv0"][1])
        second = generator.permutation(channels[f"{name}/conv1"][1]) if outs is None else outs
        orders[f"{name}/conv0"], orders[f"{name}/conv1"] = (ins, first), (first, second)
        return second

    encoded = positions
    for i in range(len(constants.ENCODER_FILTERS[config.N])):
        encoded = block(f"encoder/block{i}", encoded)
    heads = positions if config.object_big else np.arange(1)
    for decoder in ("amplitude", "phase"):
        last = len(constants.DECODER_FILTERS[config.N]) - 1
        wire = encoded
        for i in range(last):
            wire = block(f"{decoder}/block{i}", wire)
        width = channels[f"{decoder}/block{last}/conv1"][1]
        inner_width = width - constants.BORDER_CHANNELS if config.pad_object else 0
        # the channels set aside for the border keep their place among the others
        inner, outer = generator.permutation(inner_width), generator.permutation(width - inner_width)
        block(f"{decoder}/block{last}", wire, np.concatenate([inner, inner_width + outer]))
        if config.pad_object:
            orders[f"{decoder}/inner_head"] = (inner, heads)
        if f"{decoder}/border_head" in channels:
            orders[f"{decoder}/border_head"] = (block(f"{decoder}/border", outer), heads)
    return orders
