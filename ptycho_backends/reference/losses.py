"""Losses: the terms and the total that training minimises (docs/model.md, section 6)."""

import numpy as np
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.config import TrainingConfig
from ptycho_backends.errors import ScanError


def poisson_nll(
    intensity: NDArray, measured_intensity: NDArray, valid_pixels: NDArray | None = None
) -> NDArray:
    r"""Poisson negative log-likelihood without its constant, mean over all elements.

    .. math:: \langle \lambda - y \ln \max(\lambda, 10^{-12}) \rangle

    Value and gradient are finite for any input >= 0, zeros included.

    Parameters
    ----------
    intensity, measured_intensity : arrays of one shape
        Predicted :math:`\lambda` and measured :math:`y`, in photons.
    valid_pixels : (B, N, N) bool array, [ky, kx], optional
        Of arrays (B, C, N, N), the pixels that count: the mean is over those of a group, then over groups.
    """
    floored = np.maximum(intensity, constants.INTENSITY_FLOOR)
    return _mean(intensity - measured_intensity * np.log(floored), valid_pixels)


def amplitude_mae(
    amplitude: NDArray, measured_amplitude: NDArray, valid_pixels: NDArray | None = None
) -> NDArray:
    """Mean absolute error of the diffraction amplitude, mean over all elements.

    Parameters
    ----------
    amplitude, measured_amplitude : arrays of one shape
    valid_pixels : (B, N, N) bool array, [ky, kx], optional
        As in `poisson_nll`.
    """
    return _mean(np.abs(amplitude - measured_amplitude), valid_pixels)


def _mean(values: NDArray, valid_pixels: NDArray | None) -> NDArray:
    """Mean of `values`; over the valid pixels of each group, then over groups, where a mask is given."""
    if valid_pixels is None:
        return np.mean(values)
    valid = valid_pixels.astype(values.dtype)
    weights = valid / np.mean(valid, axis=(-2, -1), keepdims=True)
    return np.mean(values * weights[:, None])


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


def amplitude_variation(object_image: NDArray) -> NDArray:
    r"""Mean squared forward difference of the amplitude, downwards plus to the right.

    .. math:: \langle (|O_{y+1,x}| - |O_{yx}|)^2 \rangle + \langle (|O_{y,x+1}| - |O_{yx}|)^2 \rangle

    Squared, so that the gradient is continuous where neighbours are equal.

    Parameters
    ----------
    object_image : (B, N, N) complex array, [y, x]
    """
    amplitude = np.abs(object_image)
    down = amplitude[..., 1:, :] - amplitude[..., :-1, :]
    right = amplitude[..., 1:] - amplitude[..., :-1]
    return np.mean(down**2) + np.mean(right**2)


def phase_variation(object_image: NDArray) -> NDArray:
    """Mean squared forward difference of the phase in radians, downwards plus to the right.

    A difference is that of neighbouring directions, so it lies within half a turn. It is zero if one of the
    two pixels is zero.

    Parameters
    ----------
    object_image : (B, N, N) complex array, [y, x]
    """
    down = _phase(object_image[..., 1:, :] * np.conj(object_image[..., :-1, :]))
    right = _phase(object_image[..., 1:] * np.conj(object_image[..., :-1]))
    return np.mean(down**2) + np.mean(right**2)


def amplitude_deviation(object_image: NDArray) -> NDArray:
    """Mean absolute deviation of the amplitude from its mean over the group's pixels, mean over groups.

    Parameters
    ----------
    object_image : (B, N, N) complex array, [y, x]
    """
    amplitude = np.abs(object_image)
    return np.mean(np.abs(amplitude - np.mean(amplitude, axis=(-2, -1), keepdims=True)))


def phase_deviation(object_image: NDArray) -> NDArray:
    r"""Mean absolute deviation of the phase in radians from its mean direction, mean over groups.

    .. math:: \langle | \arg(O_{yx} \bar m) | \rangle, \quad m = \langle O / |O| \rangle

    with :math:`m` taken over the group's pixels. A deviation lies within half a turn, and a phase common
    to all pixels has no effect. Pixels that are zero have no direction and a deviation of zero.

    Parameters
    ----------
    object_image : (B, N, N) complex array, [y, x]
    """
    directions = (object_image != 0) * np.exp(1j * _phase(object_image))
    mean = np.mean(directions, axis=(-2, -1), keepdims=True)
    return np.mean(np.abs(_phase(directions * np.conj(mean))))


def amplitude_variance(object_image: NDArray) -> NDArray:
    """Variance of the amplitude over the group's pixels, mean over groups.

    Parameters
    ----------
    object_image : (B, N, N) complex array, [y, x]
    """
    amplitude = np.abs(object_image)
    return np.mean((amplitude - np.mean(amplitude, axis=(-2, -1), keepdims=True)) ** 2)


def auxiliary_terms(config: TrainingConfig, object_image: NDArray) -> dict[str, tuple[float, NDArray]]:
    """The auxiliary losses that `config` enables: `{name: (weight, value)}`.

    They judge the central half of the object, `N/2 x N/2` pixels: outside it the canvas is divided by
    little more than `OVERLAP_FLOOR`, and would outweigh everything else a thousandfold.

    Parameters
    ----------
    config : TrainingConfig
    object_image : (B, N, N) complex array, [y, x]

    Returns
    -------
    dict
        Among `amp_loss`, `phase_loss`, `amplitude_variance`.

    References
    ----------
    docs/model.md, section 6.
    """
    margin = object_image.shape[-1] // 4
    inner = object_image[..., margin : object_image.shape[-1] - margin, :]
    inner = inner[..., margin : object_image.shape[-1] - margin]
    amplitude = {"Total_Variation": amplitude_variation, "Mean_Deviation": amplitude_deviation}
    phase = {"Total_Variation": phase_variation, "Mean_Deviation": phase_deviation}
    terms: dict[str, tuple[float, NDArray]] = {}
    if config.amp_loss and config.amp_loss_coeff:
        terms["amp_loss"] = config.amp_loss_coeff, amplitude[config.amp_loss](inner)
    if config.phase_loss and config.phase_loss_coeff:
        terms["phase_loss"] = config.phase_loss_coeff, phase[config.phase_loss](inner)
    if config.amplitude_variance_coeff:
        terms["amplitude_variance"] = config.amplitude_variance_coeff, amplitude_variance(inner)
    return terms


def _phase(image: NDArray) -> NDArray:
    # the angle of -0 - 0i is minus pi: the sign of a zero must not matter
    return np.where(image == 0, 0.0, np.angle(image))


def required(truth: NDArray | None) -> NDArray:
    """Return `truth`; raise `ScanError` if it is None."""
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
    valid_pixels: NDArray | None = None,
) -> dict[str, NDArray]:
    """Every loss term that `config` enables, unweighted, and their weighted sum as `total`.

    Parameters
    ----------
    config : TrainingConfig
    object_patches : (B, c, N, N) complex array, [y, x]
        Output of the network, before the canvas; judged by supervised training.
    object_image : (B, N, N) complex array, [y, x]
        The model's `object`; judged by the real-space and the auxiliary losses.
    amplitude, measured_amplitude : (B, C, N, N) real arrays, [ky, kx]
        Predicted and measured, both times their scale: roots of photons.
    patches_truth : (B, C, N, N) complex array, optional
        Needed when supervised with `object_big`.
    object_truth : (B, N, N) complex array, optional
        Needed by the real-space error, and when supervised without `object_big`.
    valid_pixels : (B, N, N) bool array, [ky, kx], optional
        The pixels at which amplitudes are compared; None for all.

    Returns
    -------
    dict
        Among `nll`, `mae`, `tv`, `realspace_mae`, `supervised`, `amp_loss`, `phase_loss`,
        `amplitude_variance`, those that have a weight; and `total`.

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
        total = terms["supervised"]
    else:
        total = np.zeros(())
        if config.nll_weight:
            terms["nll"] = poisson_nll(amplitude**2, measured_amplitude**2, valid_pixels)
            total = total + config.nll_weight * terms["nll"]
        if config.mae_weight:
            terms["mae"] = amplitude_mae(amplitude, measured_amplitude, valid_pixels)
            total = total + config.mae_weight * terms["mae"]
        if config.realspace_weight and config.tv_weight:
            terms["tv"] = total_variation(object_image)
            total = total + config.realspace_weight * config.tv_weight * terms["tv"]
        if config.realspace_weight and config.realspace_mae_weight:
            terms["realspace_mae"] = object_mae(object_image, required(object_truth))
            total = total + config.realspace_weight * config.realspace_mae_weight * terms["realspace_mae"]
    for name, (weight, value) in auxiliary_terms(config, object_image).items():
        terms[name] = value
        total = total + weight * value
    return {**terms, "total": total}
