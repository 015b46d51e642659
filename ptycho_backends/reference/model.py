"""The whole model in float64: predictions for a batch, and their loss against the measurement.

Here channels-last NumPy arrays of the public boundary meet `[y, x]`-last images of `physics`.
"""

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.reference import correction, losses, network, physics, unrolled
from ptycho_backends.values import Batch, Prediction, Weights


def in_double(weights: Weights) -> dict[str, NDArray]:
    """`weights` in float64 and complex128."""
    return {
        name: np.asarray(value, np.complex128 if np.iscomplexobj(value) else np.float64)
        for name, value in weights.items()
    }


def channels_first(array: NDArray) -> NDArray:
    """(B, N, N, C) to (B, C, N, N)."""
    return np.moveaxis(array, -1, 1)


def offsets_by_channel(relative_offsets_px: NDArray) -> NDArray:
    """(B, 1, 2, C) to (B, C, 2)."""
    return np.moveaxis(relative_offsets_px[:, 0], -1, 1)


def _outputs(
    config: ModelConfig,
    weights: Weights,
    batch: Batch,
    statistics: network.Statistics | None = None,
    steps_with: Weights | None = None,
) -> tuple[NDArray, NDArray, NDArray]:
    """(patches (B, c, N, N), object (B, N, N), amplitude (B, C, N, N)), all in float64."""
    weights = in_double(weights)
    fed = batch.intensity_scale * batch.diffraction_amplitude.astype(np.float64)
    offsets = offsets_by_channel(batch.relative_offsets_px.astype(np.float64))
    if batch.canvas is not None:
        assert batch.light is not None
        image = correction.corrected_parts(batch.canvas.astype(np.complex128), batch.light, weights)
        patches = np.repeat(image[:, None], config.group_size, axis=1)
        return patches, image, channels_first(fed)
    if config.architecture == "unrolled":
        held = weights if steps_with is None else in_double(steps_with)
        steps = unrolled.before_last_correction(
            channels_first(fed), offsets, held, config, batch.valid_pixels, batch.probe_index
        )
        canvas = unrolled.after_last_correction(steps, weights, config, batch.probe_index)
        views = physics.canvas_views(canvas, offsets, config.N)
        amplitude = physics.views_amplitude(
            views, weights["probe"], held["log_scale"], config, batch.probe_index
        )
        return views, physics.crop_centre(canvas, config.N), amplitude
    patches = channels_first(network.object_patches(fed, weights, config, statistics))
    image, amplitude = physics.predict_diffraction(
        patches, offsets, weights["probe"], weights["log_scale"], config, batch.probe_index
    )
    return patches, image, amplitude


def predict(config: ModelConfig, weights: Weights, batch: Batch) -> Prediction:
    """The three outputs for one batch, computed wholly in float64.

    Parameters
    ----------
    config : ModelConfig
        Validated.
    weights : mapping
        Canonical names; any precision.
    batch : Batch

    Returns
    -------
    Prediction
        complex128 and float64.
    """
    _, image, amplitude = _outputs(config, weights, batch)
    amplitude = np.moveaxis(amplitude, 1, -1)
    return Prediction(object=image[..., None], amplitude=amplitude, intensity=amplitude**2)


def loss(
    config: TrainingConfig,
    weights: Weights,
    batch: Batch,
    *,
    training: bool = True,
    steps_with: Weights | None = None,
) -> dict[str, float]:
    """Every term of the loss and the `total`, computed wholly in float64.

    Parameters
    ----------
    config : TrainingConfig
    weights : mapping
    batch : Batch
    training : bool
        Batch normalisation uses the batch's own mean and variance; else, as for validation, the running
        ones.
    steps_with : mapping, optional
        Weights for all of the network `unrolled` that no gradient goes through: its steps, and `log_scale`. The
        slopes of the loss are the gradient where these are held and `weights` move. Default: `weights`.
    """
    patches, image, amplitude = _outputs(config.model, weights, batch, {} if training else None, steps_with)
    measured = batch.intensity_scale * batch.diffraction_amplitude.astype(np.float64)
    truth, centre = batch.object_patches, batch.object_at_centre
    terms = losses.loss_terms(
        config,
        patches,
        image,
        amplitude,
        channels_first(measured),
        None if truth is None else channels_first(truth.astype(np.complex128)),
        None if centre is None else centre[..., 0].astype(np.complex128),
        batch.valid_pixels,
    )
    return {name: float(value) for name, value in terms.items()}


def batch_statistics(config: ModelConfig, weights: Weights, batch: Batch) -> network.Statistics:
    """Mean and variance of `batch` at each batch normalisation, under the names of the running values."""
    statistics: network.Statistics = {}
    if config.batch_norm:
        _outputs(config, weights, batch, statistics)
    return statistics
