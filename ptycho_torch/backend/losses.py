"""Mirror of `ptycho_backends.reference.losses`."""

from collections.abc import Callable

import torch
from torch import Tensor

from ptycho_backends import constants
from ptycho_backends.config import TrainingConfig
from ptycho_backends.errors import ScanError
from ptycho_backends.training.loss_weights import loss_weights, weighted_sum


def poisson_nll(intensity: Tensor, measured_intensity: Tensor, valid_pixels: Tensor | None = None) -> Tensor:
    """Mirror of `reference.losses.poisson_nll`."""
    floored = intensity.clamp(min=constants.INTENSITY_FLOOR)
    return _mean(intensity - measured_intensity * torch.log(floored), valid_pixels)


def amplitude_mae(
    amplitude: Tensor, measured_amplitude: Tensor, valid_pixels: Tensor | None = None
) -> Tensor:
    """Mirror of `reference.losses.amplitude_mae`."""
    return _mean((amplitude - measured_amplitude).abs(), valid_pixels)


def _mean(values: Tensor, valid_pixels: Tensor | None) -> Tensor:
    if valid_pixels is None:
        return torch.mean(values)
    valid = valid_pixels.to(values.dtype)
    weights = valid / valid.mean(dim=(-2, -1), keepdim=True)
    return torch.mean(values * weights[:, None])


def total_variation(object_image: Tensor) -> Tensor:
    """Mirror of `reference.losses.total_variation`."""
    parts = torch.view_as_real(object_image)
    down = (parts[..., 1:, :, :] - parts[..., :-1, :, :]).square()
    right = (parts[..., 1:, :] - parts[..., :-1, :]).square()
    return (down.sum() + right.sum()) / len(object_image)


def object_mae(object_image: Tensor, truth: Tensor) -> Tensor:
    """Mirror of `reference.losses.object_mae`."""
    amplitude = torch.mean((_amplitude(object_image) - truth.abs()).abs())
    return amplitude + torch.mean((_phase(object_image) - _phase(truth)).abs())


def amplitude_variation(object_image: Tensor) -> Tensor:
    """Mirror of `reference.losses.amplitude_variation`."""
    amplitude = _amplitude(object_image)
    down = amplitude[..., 1:, :] - amplitude[..., :-1, :]
    right = amplitude[..., 1:] - amplitude[..., :-1]
    return torch.mean(down.square()) + torch.mean(right.square())


def phase_variation(object_image: Tensor) -> Tensor:
    """Mirror of `reference.losses.phase_variation`."""
    down = _phase(object_image[..., 1:, :] * object_image[..., :-1, :].conj())
    right = _phase(object_image[..., 1:] * object_image[..., :-1].conj())
    return torch.mean(down.square()) + torch.mean(right.square())


def amplitude_deviation(object_image: Tensor) -> Tensor:
    """Mirror of `reference.losses.amplitude_deviation`."""
    amplitude = _amplitude(object_image)
    return torch.mean((amplitude - amplitude.mean(dim=(-2, -1), keepdim=True)).abs())


def phase_deviation(object_image: Tensor) -> Tensor:
    """Mirror of `reference.losses.phase_deviation`."""
    phase = _phase(object_image)
    # through the angle, whose gradient is zero where the image is
    directions = torch.polar((object_image != 0).to(phase.dtype), phase)
    mean = directions.mean(dim=(-2, -1), keepdim=True)
    return torch.mean(_phase(directions * mean.conj()).abs())


def amplitude_variance(object_image: Tensor) -> Tensor:
    """Mirror of `reference.losses.amplitude_variance`."""
    amplitude = _amplitude(object_image)
    return torch.mean((amplitude - amplitude.mean(dim=(-2, -1), keepdim=True)).square())


def auxiliary_terms(config: TrainingConfig, object_image: Tensor) -> dict[str, tuple[float, Tensor]]:
    """Mirror of `reference.losses.auxiliary_terms`."""
    margin = object_image.shape[-1] // 4
    inner = object_image[..., margin : object_image.shape[-1] - margin, :]
    inner = inner[..., margin : object_image.shape[-1] - margin]
    amplitude = {"Total_Variation": amplitude_variation, "Mean_Deviation": amplitude_deviation}
    phase = {"Total_Variation": phase_variation, "Mean_Deviation": phase_deviation}
    terms: dict[str, tuple[float, Tensor]] = {}
    if config.amp_loss and config.amp_loss_coeff:
        terms["amp_loss"] = config.amp_loss_coeff, amplitude[config.amp_loss](inner)
    if config.phase_loss and config.phase_loss_coeff:
        terms["phase_loss"] = config.phase_loss_coeff, phase[config.phase_loss](inner)
    if config.amplitude_variance_coeff:
        terms["amplitude_variance"] = config.amplitude_variance_coeff, amplitude_variance(inner)
    return terms


def _amplitude(image: Tensor) -> Tensor:
    # the gradient divides by the modulus: where that is not a normal number it would be NaN, and is zero
    modulus = image.detach().abs()
    return torch.where(modulus >= torch.finfo(modulus.dtype).tiny, image, image.detach()).abs()


def _phase(image: Tensor) -> Tensor:
    # the gradient divides by the square of the modulus: where that underflows it would be NaN, and is zero
    square = image.detach().abs().square()
    image = torch.where(square >= torch.finfo(square.dtype).tiny, image, image.detach())
    # the angle of -0 - 0i is minus pi: the sign of a zero must not matter
    return torch.where(image == 0, 0.0, image.angle())


def required(truth: Tensor | None) -> Tensor:
    """Mirror of `reference.losses.required`."""
    if truth is None:
        raise ScanError(
            "objectGuess: got none, but supervised training and the real-space error compare with it"
        )
    return truth


def loss_terms(
    config: TrainingConfig,
    object_patches: Tensor,
    object_image: Tensor,
    amplitude: Tensor,
    measured_amplitude: Tensor,
    patches_truth: Tensor | None,
    object_truth: Tensor | None,
    valid_pixels: Tensor | None = None,
) -> dict[str, Tensor]:
    """Mirror of `reference.losses.loss_terms`."""
    functions: dict[str, Callable[[], Tensor]] = {
        "supervised": lambda: object_mae(
            object_patches,
            required(patches_truth) if config.model.object_big else required(object_truth)[:, None],
        ),
        "nll": lambda: poisson_nll(amplitude.square(), measured_amplitude.square(), valid_pixels),
        "mae": lambda: amplitude_mae(amplitude, measured_amplitude, valid_pixels),
        "tv": lambda: total_variation(object_image),
        "realspace_mae": lambda: object_mae(object_image, required(object_truth)),
    }
    weighted = {name: (weight, functions[name]()) for name, weight in loss_weights(config).items()}
    weighted |= auxiliary_terms(config, object_image)
    total = weighted_sum(weighted.values(), torch.zeros((), device=amplitude.device, dtype=amplitude.dtype))
    return {**{name: value for name, (_, value) in weighted.items()}, "total": total}
