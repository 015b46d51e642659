"""The probe in `params.cfg`, under the legacy names. Computations use the probe of the model."""

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.params import params
from ptycho_backends.reference import probe as probes


def get_probe_mask(N: int | None = None) -> NDArray[np.float32]:
    """(N, N, 1) float32, `probe.circular_mask`; default `N`: that of `params.cfg`."""
    return probes.circular_mask(params.get("N") if N is None else N).astype(np.float32)[..., None]


def get_default_probe(N: int | None = None) -> NDArray[np.complex64]:
    """(N, N) complex64, `probe.default_probe` of the size and the scale in `params.cfg`."""
    return probes.default_probe(
        params.get("N") if N is None else N,
        params.get("default_probe_scale"),
    )


def get_probe() -> NDArray[np.complex64]:
    """(N, N, 1) complex64: the probe set last, by a caller or by loading an archive.

    Raises
    ------
    KeyError
        If no probe was set.
    """
    return params.get("probe")


def set_probe_guess(X_train: NDArray | None = None, probe_guess: NDArray | None = None) -> NDArray:
    """Normalise a probe and put it into `params.cfg`.

    Parameters
    ----------
    X_train : array, optional
        Not used; legacy callers pass None.
    probe_guess : (N, N) or (N, N, 1) complex array, [y, x], optional
        None: the default probe.

    Returns
    -------
    (N, N, 1) complex64 array, [y, x]
        `probe.normalise_probe` with the `probe_scale` of `params.cfg`.

    Raises
    ------
    ScanError, ShapeError
        If the guess is dark or of the wrong shape.
    """
    guess = get_default_probe() if probe_guess is None else np.asarray(probe_guess)
    if guess.ndim == 3 and guess.shape[-1] == 1:
        guess = guess[..., 0]
    if guess.ndim == 3:
        raise ScanError(
            f"probe_guess: got {guess.shape[0]} modes, want one; RawData.probeGuess is the strongest"
        )
    probe = probes.normalise_probe(guess, params.get("probe_scale"))[..., None]
    params.cfg["probe"] = probe
    return probe


def set_default_probe() -> NDArray:
    """`set_probe_guess` with the default probe."""
    return set_probe_guess(None, None)
