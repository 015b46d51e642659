"""The network `unrolled`, and the reverse pass of its last correction: no gradient goes through what comes before."""

import numpy as np

from ptycho_backends.reference import correction, network, physics, unrolled
from ptycho_backends.reference.initial_weights import PROBE, UNET_LEVELS
from ptycho_backends.reference.probe import circular_mask
from toy_ptycho.attention import conv_back


class UnrolledPass:
    """Computes the object on the `canvas` of each group, and keeps the values that the way back needs.

    `measured` (B, C, N, N), `offsets` (B, C, 2).
    """

    def __init__(self, config, weights, measured, offsets, batch):
        self.config, self.weights, self.probe_index = config, weights, batch.probe_index
        self.gradients = {name: np.zeros_like(value) for name, value in weights.items()}
        self._undo = {}
        steps = unrolled.before_last_correction(
            measured, offsets, weights, config, batch.valid_pixels, batch.probe_index
        )
        inner, light = (physics.crop_centre(image, config.N) for image in (steps.canvas, steps.light))
        self._factor = correction.unit_factor(inner, light)
        change = self._unet(correction.features(inner * self._factor, correction.relative_light(light)))
        change = (change[..., 0] + 1j * change[..., 1]) / self._factor
        self._unscaled = steps.canvas + physics.pad_centre(change, config.canvas_size)
        self._modes = unrolled.modes_of_groups(weights, config, batch.probe_index)
        self._power = np.sum(np.abs(self._modes) ** 2, axis=(1, 2, 3))
        self._scale = np.sqrt(steps.energy / self._power)
        self.canvas = self._unscaled * self._scale[:, None, None]

    def _unet(self, image):
        self._height, self._width = image.shape[1:3]
        multiple = 2 ** (UNET_LEVELS - 1)
        below, beside = -self._height % multiple, -self._width % multiple
        image = np.pad(image, [(0, 0), (0, below), (0, beside), (0, 0)])
        kept = []
        for level in range(UNET_LEVELS):
            if level:
                pooled = network.max_pool(image)
                self._undo[level] = image == network.upsample(pooled)
                image = pooled
            image = self._block(f"encoder/block{level}", image)
            kept.append(image)
        for level in reversed(range(UNET_LEVELS - 1)):
            joined = np.concatenate([network.upsample(image), kept[level]], axis=-1)
            image = self._block(f"decoder/block{level}", joined)
        self._undo[correction.HEAD] = image
        return network.conv(image, self.weights, correction.HEAD)[:, : self._height, : self._width]

    def _block(self, block, image):
        for layer in (f"{block}/conv0", f"{block}/conv1"):
            x = network.conv(image, self.weights, layer)
            self._undo[layer] = image, x > 0
            image = np.maximum(x, 0)
        return image

    def back(self, by_canvas):
        """Fill `gradients` from the gradient with respect to the canvas, but for the probe's in the diffraction."""
        by_scale = np.sum((np.conj(self._unscaled) * by_canvas).real, axis=(1, 2))
        by_power = -by_scale * self._scale / (2 * self._power)
        by_modes = 2 * by_power[:, None, None, None] * self._modes
        if self.config.probe_mask:
            by_modes = by_modes * circular_mask(self.config.N)
        by_probe = self.gradients[PROBE]
        if by_probe.ndim < 4:
            by_probe += by_modes.sum(axis=0).reshape(by_probe.shape)
        else:
            chosen = np.zeros(len(by_modes), int) if self.probe_index is None else self.probe_index
            np.add.at(by_probe, chosen, by_modes)
        by_inner = physics.crop_centre(by_canvas * self._scale[:, None, None], self.config.N)
        by_change = by_inner / np.conj(self._factor)
        self._unet_back(np.stack([by_change.real, by_change.imag], axis=-1))

    def _unet_back(self, by_image):
        seen = self._undo[correction.HEAD]
        below, beside = seen.shape[1] - self._height, seen.shape[2] - self._width
        by_image = np.pad(by_image, [(0, 0), (0, below), (0, beside), (0, 0)])
        by_image = conv_back(correction.HEAD, seen, by_image, self.weights, self.gradients)
        by_kept = []
        for level in range(UNET_LEVELS - 1):
            by_joined = self._block_back(f"decoder/block{level}", by_image)
            channels = by_joined.shape[-1] - by_image.shape[-1]
            by_kept.append(by_joined[..., channels:])
            by_image = blocks(by_joined[..., :channels]).sum(axis=(2, 4))
        for level in reversed(range(UNET_LEVELS)):
            if level < UNET_LEVELS - 1:
                by_image = by_image + by_kept[level]
            by_image = self._block_back(f"encoder/block{level}", by_image)
            if level:
                # of equal maxima none is the first: they share
                chosen = self._undo[level]
                share = blocks(chosen.astype(float)).sum(axis=(2, 4))
                by_image = chosen * network.upsample(by_image / share)

    def _block_back(self, block, by_image):
        for layer in (f"{block}/conv1", f"{block}/conv0"):
            image, lit = self._undo[layer]
            by_image = conv_back(layer, image, by_image * lit, self.weights, self.gradients)
        return by_image


def blocks(image):
    """(B, H, W, c) as blocks of two by two pixels, (B, H / 2, 2, W / 2, 2, c)."""
    batch, height, width, channels = image.shape
    return image.reshape(batch, height // 2, 2, width // 2, 2, channels)
