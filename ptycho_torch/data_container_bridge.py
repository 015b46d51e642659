"""`PtychoDataContainerTorch`, under the name that programs written for the legacy port know."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from ptycho_backends.legacy.loader import PtychoDataContainer, load


class PtychoDataContainerTorch:
    """A `PtychoDataContainer` whose arrays are tensors, with the same names, shapes and dtypes.

    Parameters
    ----------
    grouped_data : mapping or PtychoDataContainer
        A result of `generate_grouped_data`, or a container.
    probe : (N, N) complex array or None
        Default: that of the container.

    Raises
    ------
    GroupingError
        If the mapping lacks a key.
    """

    X: torch.Tensor
    local_offsets: torch.Tensor
    global_offsets: torch.Tensor
    coords_nominal: torch.Tensor
    coords_true: torch.Tensor
    coords_nn: torch.Tensor
    nn_indices: torch.Tensor
    Y: torch.Tensor | None
    probeGuess: torch.Tensor | None

    def __init__(
        self, grouped_data: Mapping[str, Any] | PtychoDataContainer, probe: NDArray | None = None
    ) -> None:
        if not isinstance(grouped_data, PtychoDataContainer):
            grouped_data = load(lambda: grouped_data, probe)
        for name in (*(field.name for field in dataclasses.fields(grouped_data)), "Y"):
            value = getattr(grouped_data, name)
            if not callable(value):
                setattr(self, name, None if value is None else torch.as_tensor(value))
        if probe is not None:
            self.probeGuess = torch.as_tensor(probe)

    @property
    def probe(self) -> torch.Tensor | None:
        """`probeGuess` under the name that the legacy container has for it."""
        return self.probeGuess

    @property
    def Y_I(self) -> torch.Tensor | None:
        """Amplitude of the ground truth; the legacy name means intensity."""
        return None if self.Y is None else self.Y.abs()

    @property
    def Y_phi(self) -> torch.Tensor | None:
        """Phase of the ground truth, radians."""
        return None if self.Y is None else self.Y.angle()

    def __len__(self) -> int:
        return len(self.X)

    def __repr__(self) -> str:
        groups, N, _, C = self.X.shape
        return f"PtychoDataContainerTorch({groups} groups of {C} patterns of {N} x {N} pixels)"
