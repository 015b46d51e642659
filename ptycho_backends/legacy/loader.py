"""`PtychoDataContainer`: grouped data as network input, under the legacy names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import GroupingError

# Keys of the grouped dictionary that a container needs.
_NEEDED = (
    "X_full", "Y", "coords_offsets", "coords_relative", "coords_start_relative", "coords_nn", "nn_indices",
)  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class PtychoDataContainer:
    """B groups of C positions, gathered; everything is NumPy.

    Attributes
    ----------
    X : (B, N, N, C) float32
        Normalised amplitude; the network is fed `X * params.get('intensity_scale')`.
    local_offsets : (B, 1, 2, C) float32, [x, y]
        `r`, minus each position's offset from its group's centre.
    global_offsets : (B, 1, 2, 1) float64, [x, y]
        `R`, the groups' centres, object pixels.
    coords_nominal, coords_true : (B, 1, 2, C) float32
        `r` of the positions before refinement, and of the positions.
    coords_nn : (B, 1, 2, C) float64
        The positions themselves.
    nn_indices : (B, C) int64
        Numbers of the positions in the scan.
    probeGuess : (N, N) complex64 or None
    labels : callable
        Gathers `Y`, which is large and seldom needed.
    """

    X: NDArray[np.float32]
    local_offsets: NDArray[np.float32]
    global_offsets: NDArray[np.float64]
    coords_nominal: NDArray[np.float32]
    coords_true: NDArray[np.float32]
    coords_nn: NDArray[np.float64]
    nn_indices: NDArray[np.int64]
    probeGuess: NDArray[np.complex64] | None
    labels: Callable[[], NDArray[np.complex64] | None]

    @cached_property
    def Y(self) -> NDArray[np.complex64] | None:
        """(B, N, N, C) complex64 ground truth, None if the scan has no object."""
        return self.labels()

    @property
    def probe(self) -> NDArray[np.complex64] | None:
        """`probeGuess` under the name that the legacy container has for it."""
        return self.probeGuess

    @property
    def Y_I(self) -> NDArray[np.float32] | None:
        """Amplitude of the ground truth; the legacy name means intensity."""
        return None if self.Y is None else np.abs(self.Y)

    @property
    def Y_phi(self) -> NDArray[np.float32] | None:
        """Phase of the ground truth, radians."""
        return None if self.Y is None else np.angle(self.Y)

    def __len__(self) -> int:
        return len(self.X)

    def __repr__(self) -> str:
        groups, N, _, C = self.X.shape
        return f"PtychoDataContainer({groups} groups of {C} patterns of {N} x {N} pixels)"


def load(
    cb: Callable[[], Any],
    probeGuess: NDArray | None,
    which: str | None = None,
    create_split: bool = False,
) -> PtychoDataContainer:
    """Make a container of the dictionary that `cb` returns.

    Parameters
    ----------
    cb : callable
        Returns the dictionary of `RawData.generate_grouped_data`; with `create_split` a pair of it and
        the fraction of the groups, in (0, 1), for training.
    probeGuess : (N, N) complex array or None
        Carried along.
    which : {'train', 'test'}, optional
        With `create_split`: the first groups, or those after them.
    create_split : bool
        Keep only the part `which`.

    Raises
    ------
    GroupingError
        If the dictionary lacks a key, or the requested part does not exist.
    """
    given = cb()
    grouped, fraction = given if create_split else (given, None)
    missing = [key for key in _NEEDED if not isinstance(grouped, Mapping) or key not in grouped]
    if missing:
        raise GroupingError(
            f"grouped data: {', '.join(missing)} missing, want what RawData.generate_grouped_data returns"
        )
    part = None if fraction is None else _part(len(grouped["nn_indices"]), fraction, which)

    def taken(key: str) -> Any:
        # the whole array as it is, since centres know their canvas
        return grouped[key] if part is None or grouped[key] is None else grouped[key][part]

    return PtychoDataContainer(
        X=taken("X_full"),
        local_offsets=taken("coords_relative"),
        global_offsets=taken("coords_offsets"),
        coords_nominal=taken("coords_start_relative"),
        coords_true=taken("coords_relative"),
        coords_nn=taken("coords_nn"),
        nn_indices=taken("nn_indices"),
        probeGuess=probeGuess,
        labels=lambda: taken("Y"),
    )


def _part(count: int, fraction: float, which: str | None) -> slice:
    if which not in ("train", "test"):
        raise GroupingError(f"which: got {which!r}, want 'train' or 'test' with create_split=True")
    if not 0 < fraction < 1:
        raise GroupingError(f"split: got {fraction!r}, want the share of the groups that train, in (0, 1)")
    border = int(count * fraction)
    part = slice(0, border) if which == "train" else slice(border, count)
    if part.start == part.stop:
        raise GroupingError(f"split: {fraction:g} of {count} groups leaves none to {which}")
    return part
