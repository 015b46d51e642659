"""What training minimises (docs/model.md, section 6)."""

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import TrainingConfig
from ptycho_backends.errors import ScanError
from ptycho_backends.reference import constants


def poisson_nll(intensity: NDArray, measured_intensity: NDArray) -> NDArray:
    r"""Poisson negative log-likelihood without its constant, mean over all elements.

    .. math:: \langle \lambda - y \ln \max(\lambda, 10^{-12}) \rangle

    Value and gradient are finite for any input >= 0, zeros included.

    Parameters
    ----------
    intensity, measured_intensity : arrays of one shape
        Predicted :math:`\lambda` and measured :math:`y`, in photons.
    """
    floored = np.maximum(intensity, constants.INTENSITY_FLOOR)
    return np.mean(intensity - measured_intensity * np.log(floored))


def amplitude_mae(amplitude: NDArray, measured_amplitude: NDArray) -> NDArray:
    """Mean absolute error of the diffraction amplitude, mean over all elements."""
    return np.mean(np.abs(amplitude - measured_amplitude))


def total_variation(object_image: NDArray) -> NDArray:
    """Squared forward differences of real and imaginary part, summed over pixels, mean over groups.

    Parameters
    ----------
    object_image : (B, N, N) complex array, [y, x]
    """
    down = np.abs(object_image[..., 1:, :] - object_image[..., :-1, :]) ** 2
    right = np.abs(object_image[..., 1:] - object_image[..., :-1]) ** 2
    return (down.sum() + right.sum()) / len(object_image)


def object_mae(object_image: NDArray, truth: NDArray) -> NDArray:
    """Mean absolute error of the amplitude plus that of the phase in radians; zero has the phase zero.

    Parameters
    ----------
    object_image, truth : complex arrays of one shape
    """
    amplitude = np.mean(np.abs(np.abs(object_image) - np.abs(truth)))
    return amplitude + np.mean(np.abs(_phase(object_image) - _phase(truth)))


def _phase(image: NDArray) -> NDArray:
    # the angle of -0 - 0i is minus pi: which zero it is must not matter
    return np.where(image == 0, 0.0, np.angle(image))


def required(truth: NDArray | None) -> NDArray:
    """`truth`, or a `ScanError` where the loss cannot do without it."""
    if truth is None:
        raise ScanError(
            "objectGuess: got none, but supervised training and the real-space error compare with it"
        )
    return truth


def loss_terms(
    config: TrainingConfig,
    object_patches: NDArray,
    object_image: NDArray,
    amplitude: NDArray,
    measured_amplitude: NDArray,
    patches_truth: NDArray | None,
    object_truth: NDArray | None,
) -> dict[str, NDArray]:
    """Every term of the loss that `config` asks for, unweighted, and their weighted sum as `total`.

    Parameters
    ----------
    config : TrainingConfig
    object_patches : (B, c, N, N) complex array, [y, x]
        What the network predicts, before the canvas; judged by supervised training.
    object_image : (B, N, N) complex array, [y, x]
        The model's `object`; judged by the real-space loss.
    amplitude, measured_amplitude : (B, C, N, N) real arrays, [ky, kx]
        Predicted and measured, both times their scale: roots of photons.
    patches_truth : (B, C, N, N) complex array, optional
        Needed when supervised with `object_big`.
    object_truth : (B, N, N) complex array, optional
        Needed by the real-space error, and when supervised without `object_big`.

    Returns
    -------
    dict
        Among `nll`, `mae`, `tv`, `realspace_mae`, `supervised`, those that have a weight; and `total`.

    References
    ----------
    docs/model.md, section 6.
    """
    terms: dict[str, NDArray] = {}
    if config.model.model_type == "supervised":
        if config.model.object_big:
            truth = required(patches_truth)
        else:
            truth = required(object_truth)[:, None]
        terms["supervised"] = object_mae(object_patches, truth)
        return {**terms, "total": terms["supervised"]}
    total = np.zeros(())
    if config.nll_weight:
        terms["nll"] = poisson_nll(amplitude**2, measured_amplitude**2)
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
