"""The reverse pass of the reference, written out by hand.

A gradient with respect to a complex array is `dL/dRe + i dL/dIm` throughout.
"""

import numpy as np

from ptycho_backends import constants
from ptycho_backends.reference import losses, network, physics
from ptycho_backends.reference.initial_weights import (
    BOTTLENECK,
    DECODERS,
    LOG_SCALE,
    PROBE,
    border_channels,
    trunk_of,
)
from ptycho_backends.reference.model import channels_first, in_double, offsets_by_channel
from ptycho_backends.reference.probe import circular_mask
from toy_ptycho import attention
from toy_ptycho.unrolled import UnrolledPass, blocks


def activation_slope(name, x):
    """Derivative of `network.activation`."""
    if name == "relu":
        return (x > 0).astype(float)
    sigmoid = network.activation("sigmoid", x)
    if name == "softplus":
        return sigmoid
    if name == "sigmoid":
        return sigmoid * (1 - sigmoid)
    return sigmoid + x * sigmoid * (1 - sigmoid)


class NetworkPass:
    """Computes the object patches as in training, and keeps the values that the way back needs."""

    def __init__(self, config, weights, fed):
        self.config, self.weights = config, weights
        self.gradients = {name: np.zeros_like(value) for name, value in weights.items()}
        self.scaled = fed / np.exp(weights[LOG_SCALE])
        self._undo = {}
        encoded = self.scaled
        for i in range(len(constants.ENCODER_FILTERS[config.N])):
            encoded = self._block(f"encoder/block{i}", encoded, pools=True)
        encoded = self._attend(BOTTLENECK, encoded)
        trunks = {}
        for decoder in DECODERS:
            name = trunk_of(config, decoder)
            if name not in trunks:
                trunks[name] = self._trunk(name, encoded)
        self.amplitude, self.phase = (
            self._heads(decoder, trunks[trunk_of(config, decoder)]) for decoder in DECODERS
        )
        self.patches = channels_first(self.amplitude * np.exp(1j * self.phase))

    # --- there

    def _conv(self, layer, image, name, *, normalises=False):
        """Convolution, batch normalisation and activation."""
        x, normal_back = network.conv(image, self.weights, layer), None
        if normalises:
            x, normal_back = attention.batch_norm(x, self.weights, f"{layer}/norm", self.gradients)
        if name == "phase":
            value, slope = np.pi * np.tanh(x), np.pi / np.cosh(x) ** 2
        else:
            value, slope = network.activation(name, x), activation_slope(name, x)
        self._undo[layer] = (image, slope, normal_back)
        return value

    def _attend(self, block, image):
        image, self._undo[f"{block} attention"] = attention.attend(
            image, self.weights, block, self.config, self.gradients
        )
        return image

    def _block(self, block, image, *, pools):
        for layer in (f"{block}/conv0", f"{block}/conv1"):
            image = self._conv(layer, image, "relu", normalises=self.config.batch_norm)
        image = self._attend(block, image)
        if not pools:
            return network.upsample(image)
        pooled = network.max_pool(image)
        self._undo[block] = image == network.upsample(pooled)
        return pooled

    def _trunk(self, name, features):
        config = self.config
        for i in range(len(constants.DECODER_FILTERS[config.N])):
            features = self._block(f"{name}/block{i}", features, pools=False)
        head_inputs, cut = {}, 0
        if config.pad_object:
            cut = -border_channels(config)
            head_inputs["inner_head"] = features[..., :cut]
        if config.probe_big or not config.pad_object:
            head_inputs["border_head"] = self._block(f"{name}/border", features[..., cut:], pools=False)
        return head_inputs

    def _heads(self, decoder, head_inputs):
        config = self.config
        head = config.amp_activation if decoder == "amplitude" else "phase"
        if not config.pad_object:
            return self._conv(f"{decoder}/border_head", head_inputs["border_head"], head) * self._mask()
        patches = self._conv(f"{decoder}/inner_head", head_inputs["inner_head"], head)
        margin = config.N // 4
        patches = np.pad(patches, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
        if "border_head" in head_inputs:
            border = self._conv(f"{decoder}/border_head", head_inputs["border_head"], "swish")
            patches = patches + border * self._mask()
        return patches

    def _mask(self):
        return network.border_mask(self.config)[..., None]

    # --- and back

    def back(self, by_patches):
        """Fill `gradients` from the gradient with respect to the patches."""
        by_patches = np.moveaxis(by_patches, 1, -1)
        wave = np.exp(1j * self.phase)
        turned = 1j * self.amplitude * wave
        by_trunks = {}
        for decoder, turn in zip(DECODERS, (wave, turned), strict=True):
            by_heads = self._heads_back(decoder, (np.conj(turn) * by_patches).real)
            name = trunk_of(self.config, decoder)
            before = by_trunks.get(name, (0.0, 0.0))
            by_trunks[name] = tuple(one + other for one, other in zip(before, by_heads, strict=True))
        by_encoded = sum(self._trunk_back(name, *by_heads) for name, by_heads in by_trunks.items())
        by_encoded = self._undo[f"{BOTTLENECK} attention"](by_encoded)
        for i in reversed(range(len(constants.ENCODER_FILTERS[self.config.N]))):
            by_encoded = self._block_back(f"encoder/block{i}", by_encoded, pools=True)
        self.gradients[LOG_SCALE] = self.gradients[LOG_SCALE] - (by_encoded * self.scaled).sum()

    def _conv_back(self, layer, by_value):
        image, slope, normal_back = self._undo[layer]
        by_x = by_value * slope
        if normal_back is not None:
            by_x = normal_back(by_x)
        return attention.conv_back(layer, image, by_x, self.weights, self.gradients)

    def _block_back(self, block, by_image, *, pools):
        if pools:
            # of equal maxima none is the first: they share, and a symmetric input treats them alike
            chosen = self._undo[block]
            share = blocks(chosen.astype(float)).sum(axis=(2, 4))
            by_image = chosen * network.upsample(by_image / share)
        else:
            by_image = blocks(by_image).sum(axis=(2, 4))
        by_image = self._undo[f"{block} attention"](by_image)
        return self._conv_back(f"{block}/conv0", self._conv_back(f"{block}/conv1", by_image))

    def _heads_back(self, decoder, by_patches):
        """By the inputs of the inner and the border head; 0 where there is no such head."""
        config = self.config
        by_inner, by_border = 0.0, 0.0
        if config.pad_object:
            inside = slice(config.N // 4, config.N - config.N // 4)
            by_inner = self._conv_back(f"{decoder}/inner_head", by_patches[:, inside, inside])
        if config.probe_big or not config.pad_object:
            by_border = self._conv_back(f"{decoder}/border_head", by_patches * self._mask())
        return by_inner, by_border

    def _trunk_back(self, name, by_inner, by_border):
        config = self.config
        has_border = config.probe_big or not config.pad_object
        by_features = self._block_back(f"{name}/border", by_border, pools=False) if has_border else None
        if config.pad_object:
            if by_features is None:
                by_features = np.zeros((*by_inner.shape[:3], border_channels(config)))
            by_features = np.concatenate([by_inner, by_features], axis=-1)
        for i in reversed(range(len(constants.DECODER_FILTERS[config.N]))):
            by_features = self._block_back(f"{name}/block{i}", by_features, pools=False)
        return by_features


def smoothing_matrix(N, sigma_px):
    """(N, N) matrix of `physics.smooth_exit_wave` along one axis."""
    side, middle = physics.smoothing_weights(sigma_px)
    matrix = middle * np.eye(N) + side * (np.eye(N, k=1) + np.eye(N, k=-1))
    matrix[0, 1] += side
    matrix[-1, -2] += side
    return matrix


def diffraction_back(config, weights, offsets, canvas, by_amplitude, probe_index):
    """Gradients by canvas, probe and log_scale from the one by the diffraction amplitude."""
    views = physics.canvas_views(canvas, offsets, config.N)
    probe = physics.chosen_probe(weights[PROBE], probe_index)
    # one mode as a stack of one, so that all probes are alike: (modes, N, N) or (B, modes, N, N)
    probe = probe if probe.ndim > 2 else probe[None]
    spectrum = np.fft.fftshift(np.fft.fft2(physics.exit_waves(views, probe, config)), axes=(-2, -1))
    modulus, scale = physics.summed_amplitude(np.abs(spectrum)), np.exp(weights[LOG_SCALE])
    by_log_scale = (by_amplitude * modulus * scale / config.N).sum()
    modulus, by_amplitude = modulus[:, :, None], by_amplitude[:, :, None]
    direction = np.divide(spectrum, modulus, out=np.zeros_like(spectrum), where=modulus > 0)
    by_spectrum = np.fft.ifftshift(by_amplitude * scale / config.N * direction, axes=(-2, -1))
    by_wave = np.fft.ifft2(by_spectrum) * config.N**2
    if config.probe_mask:
        by_wave = by_wave * circular_mask(config.N)
    if config.gaussian_smoothing_sigma > 0:
        matrix = smoothing_matrix(config.N, config.gaussian_smoothing_sigma)
        by_wave = matrix.T @ by_wave @ matrix
    by_modes = (np.conj(views)[:, :, None] * by_wave).sum(axis=1)
    by_probe = np.zeros_like(weights[PROBE])
    if by_probe.ndim < 4:
        by_probe += by_modes.sum(axis=0).reshape(by_probe.shape)
    else:
        np.add.at(by_probe, np.zeros(len(views), int) if probe_index is None else probe_index, by_modes)
    lit = np.conj(probe[:, None] if probe.ndim == 4 else probe) * by_wave
    return views_back(config, offsets, lit.sum(axis=2)), by_probe, by_log_scale


def views_back(config, offsets, by_views):
    """Gradient by the canvas from the one by the views."""
    return physics.translate(physics.pad_centre(by_views, config.canvas_size), -offsets).sum(axis=1)


def merge_back(config, offsets, by_canvas):
    """Gradient by the patches from the one by the canvas."""
    if not config.object_big:
        return physics.crop_centre(by_canvas, config.N)[:, None]
    towards = -(offsets - offsets.mean(axis=1, keepdims=True))
    box = physics.pad_centre(physics.central_box(config.N), config.canvas_size)
    overlap = physics.translate(box, towards).sum(axis=1)
    by_total = by_canvas / (overlap + constants.OVERLAP_FLOOR)
    return physics.crop_centre(physics.translate(by_total[:, None], -towards), config.N)


def object_mae_slope(image, truth):
    """Gradient of `losses.object_mae`; zero where the image is."""
    modulus = np.abs(image)
    lit = modulus > 0
    safe = np.where(lit, modulus, 1.0)
    by_modulus = np.sign(modulus - np.abs(truth)) * image / safe
    phases = [np.where(array == 0, 0.0, np.angle(array)) for array in (image, truth)]
    by_phase = np.sign(phases[0] - phases[1]) * 1j * image / safe**2
    return np.where(lit, by_modulus + by_phase, 0) / image.size


def amplitude_slope(config, amplitude, measured, valid_pixels):
    """Gradient of the losses that judge the diffraction amplitude."""
    weights = 1.0
    if valid_pixels is not None:
        weights = (valid_pixels / valid_pixels.mean(axis=(-2, -1), keepdims=True))[:, None]
    slope = np.zeros_like(amplitude)
    if config.nll_weight:
        intensity = amplitude**2
        above = intensity > constants.INTENSITY_FLOOR
        ratio = np.divide(measured**2, intensity, out=np.zeros_like(intensity), where=above)
        slope += config.nll_weight * (1 - ratio) * 2 * amplitude / amplitude.size
    if config.mae_weight:
        slope += config.mae_weight * np.sign(amplitude - measured) / amplitude.size
    return slope * weights


def differences_back(down, right):
    """Gradient by an image from those by its forward differences."""
    by_image = np.zeros((*down.shape[:-2], right.shape[-2], down.shape[-1]), down.dtype)
    by_image[..., 1:, :] += down
    by_image[..., :-1, :] -= down
    by_image[..., 1:] += right
    by_image[..., :-1] -= right
    return by_image


def amplitude_slopes(kind, amplitude):
    """Gradient of an auxiliary loss by the amplitude."""
    deviation = amplitude - amplitude.mean(axis=(-2, -1), keepdims=True)
    if kind == "variance":
        return 2 * deviation / amplitude.size
    if kind == "Mean_Deviation":
        signs = np.sign(deviation)
        return (signs - signs.mean(axis=(-2, -1), keepdims=True)) / amplitude.size
    down, right = np.diff(amplitude, axis=-2), np.diff(amplitude, axis=-1)
    return differences_back(2 * down / down.size, 2 * right / right.size)


def phase_slopes(kind, image):
    """Gradient of an auxiliary loss by the phase."""
    directions = np.where(image == 0, 0, np.exp(1j * np.angle(image)))
    if kind == "Mean_Deviation":
        mean = directions.mean(axis=(-2, -1), keepdims=True)
        turned = directions * np.conj(mean)
        signs = np.sign(turned.imag)
        moved = turned.real / np.maximum(np.abs(mean) ** 2, 1e-300)
        return (signs - signs.mean(axis=(-2, -1), keepdims=True) * moved) / image.size
    down = np.angle(directions[..., 1:, :] * np.conj(directions[..., :-1, :]))
    right = np.angle(directions[..., 1:] * np.conj(directions[..., :-1]))
    return differences_back(2 * down / down.size, 2 * right / right.size)


def auxiliary_slope(config, image):
    """Gradient of the auxiliary losses by the object: the part along it and the part across it."""
    margin = image.shape[-1] // 4
    inner = (slice(None), *(slice(margin, image.shape[-1] - margin),) * 2)
    amplitude = np.abs(image[inner])
    by_amplitude, by_phase = np.zeros_like(amplitude), np.zeros_like(amplitude)
    weights = [(config.amp_loss, config.amp_loss_coeff), ("variance", config.amplitude_variance_coeff)]
    for kind, weight in weights:
        if kind and weight:
            by_amplitude += weight * amplitude_slopes(kind, amplitude)
    if config.phase_loss:
        by_phase += config.phase_loss_coeff * phase_slopes(config.phase_loss, image[inner])
    safe = np.where(amplitude > 0, amplitude, np.inf)
    slope = np.zeros_like(image)
    slope[inner] = (
        (by_amplitude + 1j * by_phase / safe) * image[inner] / np.where(amplitude > 0, amplitude, 1)
    )
    return slope


def image_slope(config, image, truth):
    """Gradient of the losses that judge the object."""
    slope = auxiliary_slope(config, image)
    if config.model.model_type == "supervised":
        return slope
    if config.realspace_weight and config.tv_weight:
        variation = differences_back(np.diff(image, axis=-2), np.diff(image, axis=-1))
        slope += config.realspace_weight * config.tv_weight * 2 * variation / len(image)
    if config.realspace_weight and config.realspace_mae_weight:
        weight = config.realspace_weight * config.realspace_mae_weight
        slope += weight * object_mae_slope(image, losses.required(truth))
    return slope


def gradients(config, weights, batch):
    """Gradient of the total loss with respect to every weight, in float64."""
    model, weights = config.model, in_double(weights)
    measured = batch.intensity_scale * batch.diffraction_amplitude.astype(np.float64)
    offsets = offsets_by_channel(batch.relative_offsets_px.astype(np.float64))
    truth, centre = batch.object_patches, batch.object_at_centre
    centre = None if centre is None else centre[..., 0].astype(np.complex128)
    if model.architecture == "unrolled":
        return gradients_of_unrolled(config, weights, batch, measured, offsets, truth, centre)
    there = NetworkPass(model, weights, measured)
    if model.model_type == "supervised":
        wanted = losses.required(truth if model.object_big else centre)
        wanted = channels_first(wanted.astype(np.complex128)) if model.object_big else wanted[:, None]
        image, _ = physics.predict_diffraction(
            there.patches, offsets, weights[PROBE], weights[LOG_SCALE], model
        )
        by_canvas = physics.pad_centre(image_slope(config, image, centre), model.canvas_size)
        there.back(object_mae_slope(there.patches, wanted) + merge_back(model, offsets, by_canvas))
        return there.gradients
    image, amplitude = physics.predict_diffraction(
        there.patches, offsets, weights[PROBE], weights[LOG_SCALE], model, batch.probe_index
    )
    if model.object_big:
        canvas = physics.merge_patches(there.patches, offsets, model.canvas_size)
    else:
        canvas = physics.pad_centre(there.patches[:, 0], model.canvas_size)
    by_amplitude = amplitude_slope(config, amplitude, channels_first(measured), batch.valid_pixels)
    by_canvas, by_probe, by_log_scale = diffraction_back(
        model, weights, offsets, canvas, by_amplitude, batch.probe_index
    )
    by_canvas = by_canvas + physics.pad_centre(image_slope(config, image, centre), model.canvas_size)
    there.gradients[PROBE] = by_probe
    there.gradients[LOG_SCALE] = np.asarray(by_log_scale)
    there.back(merge_back(model, offsets, by_canvas))
    return there.gradients


def gradients_of_unrolled(config, weights, batch, measured, offsets, truth, centre):
    """`gradients` of the architecture 'unrolled', whose patches are views of the canvas."""
    model, measured = config.model, channels_first(measured)
    there = UnrolledPass(model, weights, measured, offsets, batch)
    views = physics.canvas_views(there.canvas, offsets, model.N)
    image = physics.crop_centre(there.canvas, model.N)
    by_canvas = physics.pad_centre(image_slope(config, image, centre), model.canvas_size)
    if model.model_type == "supervised":
        wanted = channels_first(losses.required(truth).astype(np.complex128))
        there.back(by_canvas + views_back(model, offsets, object_mae_slope(views, wanted)))
        return there.gradients
    amplitude = physics.views_amplitude(views, weights[PROBE], weights[LOG_SCALE], model, batch.probe_index)
    by_amplitude = amplitude_slope(config, amplitude, measured, batch.valid_pixels)
    by_views, by_probe, _ = diffraction_back(
        model, weights, offsets, there.canvas, by_amplitude, batch.probe_index
    )
    there.back(by_canvas + by_views)
    there.gradients[PROBE] += by_probe
    return there.gradients
