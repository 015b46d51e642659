"""The check after every export of a model: the file computes the numbers of the model that it was made from."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ExportError
from ptycho_backends.values import TrainedModel

TOLERANCE = 1e-5
"""Largest difference allowed, over the largest value of a tensor (at least 1)."""

# Two computations in float32 differ from one another by more than each from the exact result.
ROUNDINGS = 5.0

Arrays = Mapping[str, NDArray]

# Odd on purpose: a number that was fixed during the export is found out.
SAMPLE_GROUPS = 3


def sample_inputs(model: TrainedModel, groups: int = SAMPLE_GROUPS) -> dict[str, NDArray[np.float32]]:
    """Plausible `diffraction` (B, N, N, C) and `offsets` (B, C, 2) for `model`, the same at every call.

    The patterns are those of the model's probe behind smooth objects.
    """
    config = model.config.model
    N, C = config.N, config.group_size
    generator = np.random.default_rng(0)
    waves = generator.normal(size=(groups, C, N, N))
    low = np.exp(-(np.fft.fftfreq(N) ** 2)[:, None] * 200 - (np.fft.fftfreq(N) ** 2) * 200)
    phases = np.fft.ifft2(np.fft.fft2(waves) * low).real * 5
    far = np.fft.fftshift(np.fft.fft2(np.asarray(model.probe) * np.exp(1j * phases)), axes=(-2, -1))
    amplitude = np.moveaxis(np.abs(far), 1, -1)
    amplitude *= np.sqrt((N / 2) ** 2 / np.mean(np.sum(amplitude**2, axis=(1, 2))))
    reach = (config.canvas_size - N) / 2 - 1.5
    offsets = generator.uniform(-1, 1, (groups, C, 2)) * (max(reach, 0.0) if C > 1 else 0.0)
    return {"diffraction": amplitude.astype(np.float32), "offsets": offsets.astype(np.float32)}


def sample_canvases(model: TrainedModel, groups: int = SAMPLE_GROUPS) -> dict[str, NDArray[np.float32]]:
    """Plausible `canvas_real`, `canvas_imag` and `light` (B, N, N) for the correction of 'unrolled'."""
    N = model.config.model.N
    generator = np.random.default_rng(0)
    real, imag, light = generator.uniform(-0.3, 0.3, (3, groups, N, N)).astype(np.float32)
    return {"canvas_real": 1 + real, "canvas_imag": imag, "light": np.abs(light) / np.float32(0.3)}


def require_agreement(label: str, got: Arrays, want: Arrays, exact: Arrays | None = None) -> None:
    """Raise `ExportError` where an output of the written file differs from the model's by more than `TOLERANCE`.

    Parameters
    ----------
    label : str
        Name of the format.
    got, want : mapping of arrays
    exact : mapping of arrays, optional
        Outputs of the model in float64. Where its own rounding exceeds the tolerance, a few times as much is allowed.
    """
    for name, expected in want.items():
        allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
        if exact is not None:
            allowed = max(allowed, ROUNDINGS * float(np.abs(expected - exact[name]).max()))
        difference = float(np.abs(np.asarray(got[name]) - expected).max())
        if not difference <= allowed:
            raise ExportError(
                f"{label}: {name} of the exported file differs by {difference:.3g} from the model's, want at most "
                f"{allowed:.3g}; nothing was written"
            )
