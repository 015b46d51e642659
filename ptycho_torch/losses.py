"""Mirror of `ptycho_backends.reference.losses`."""

import torch
from torch import Tensor

from ptycho_backends.config import TrainingConfig
from ptycho_backends.errors import ScanError
from ptycho_backends.reference import constants


def poisson_nll(intensity: Tensor, measured_intensity: Tensor) -> Tensor:
    """Mirror of `reference.losses.poisson_nll`."""
    floored = intensity.clamp(min=constants.INTENSITY_FLOOR)
    return torch.mean(intensity - measured_intensity * torch.log(floored))


def amplitude_mae(amplitude: Tensor, measured_amplitude: Tensor) -> Tensor:
    """Mirror of `reference.losses.amplitude_mae`."""
    return torch.mean((amplitude - measured_amplitude).abs())


def total_variation(object_image: Tensor) -> Tensor:
    """Mirror of `reference.losses.total_variation`."""
    parts = torch.view_as_real(object_image)
    down = (parts[..., 1:, :, :] - parts[..., :-1, :, :]).square()
    right = (parts[..., 1:, :] - parts[..., :-1, :]).square()
    return (down.sum() + right.sum()) / len(object_image)


def object_mae(object_image: Tensor, truth: Tensor) -> Tensor:
    """Mirror of `reference.losses.object_mae`."""
    amplitude = torch.mean((object_image.abs() - truth.abs()).abs())
    return amplitude + torch.mean((_phase(object_image) - _phase(truth)).abs())


def _phase(image: Tensor) -> Tensor:
    # the angle of -0 - 0i is minus pi: which zero it is must not matter
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
) -> dict[str, Tensor]:
    """Mirror of `reference.losses.loss_terms`."""
    terms: dict[str, Tensor] = {}
    if config.model.model_type == "supervised":
        if config.model.object_big:
            truth = required(patches_truth)
        else:
            truth = required(object_truth)[:, None]
        terms["supervised"] = object_mae(object_patches, truth)
        return {**terms, "total": terms["supervised"]}
    total = torch.zeros((), device=amplitude.device, dtype=amplitude.dtype)
    if config.nll_weight:
        terms["nll"] = poisson_nll(amplitude.square(), measured_amplitude.square())
        total = total + config.nll_weight * terms["nll"]
    if config.mae_weight:
        terms["mae"] = amplitude_mae(amplitude, measured_amplitude)
        total = total + config.mae_weight * terms["mae"]
    if config.realspace_weight and config.tv_weight:
        terms["tv"] = total_variation(object_image)
        total = total + config.realspace_weight * config.tv_weight * terms["tv"]
    if config.realspace_weight and config.realspace_mae_weight:
        terms["realspace_mae"] = object_mae(object_image, required(object_truth))
        total = total + config.realspace_weight * config.realspace_mae_weight * terms["realspace_mae"]
    return {**terms, "total": total}
