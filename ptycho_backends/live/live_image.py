"""The image of the frames so far: groups, inference by a backend, and the canvas that grows."""

import dataclasses
import logging
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.images.growing_canvas import GrowingCanvas
from ptycho_backends.images.reconstruct import (
    default_stitching_size,
    trust_in_patches,
    wants_phase_agreement,
)
from ptycho_backends.protocol import Backend
from ptycho_backends.reference.physics import crop_centre
from ptycho_backends.scans.extent import require_sane_canvas
from ptycho_backends.scans.grouping import GroupedData, nearest
from ptycho_backends.scans.scan import Scan
from ptycho_backends.training.canvas import with_room_for
from ptycho_backends.values import Reconstruction, TrainedModel

log = logging.getLogger(__name__)

# Frames that neighbours of new ones are chosen from, and their bytes at most; a batch has no more frames.
RECENT_FRAMES, RECENT_BYTES, LEAST_RECENT = 4096, 256 << 20, 512
# On larger canvases, a position so many sides of a pattern away from all others is a stray.
STRAY_SIDES, MOST_PIXELS = 32, 64e6


class LiveImage:
    """Adds frames to an image as they come.

    Each new frame is the seed of one group: itself and, where the model was trained on groups, the nearest of the
    frames so far. Patterns are normalised with the mean energy of all frames so far.

    Parameters
    ----------
    model : TrainedModel
    backend : Backend
    execution : ExecutionConfig
        For one device.
    stitching_size : int, optional
    agree_on_phase : bool, optional
        As in `Backend.infer`.

    Attributes
    ----------
    left_out : list of str
        Frames that are not in the image, each with the reason.
    strays : list of int
        Their numbers.
    """

    def __init__(
        self,
        model: TrainedModel,
        backend: Backend,
        execution: ExecutionConfig,
        stitching_size: int | None = None,
        agree_on_phase: bool | None = None,
    ) -> None:
        network = model.config.model
        self._model, self._backend, self._execution = model, backend, execution
        size = default_stitching_size(network) if stitching_size is None else stitching_size
        if not 0 < size <= network.N or size % 2:
            raise ConfigError(f"stitching_size: got {size}, want an even number in 2 .. {network.N}")
        agree = wants_phase_agreement(network) if agree_on_phase is None else agree_on_phase
        self._size = size
        self.canvas = GrowingCanvas(network.N, size, trust_in_patches(model, size), agree_on_phase=agree)
        self.left_out: list[str] = []
        self.strays: list[int] = []
        self._recent: _Recent | None = None
        self._energy = self._largest = 0.0
        self._count = 0
        self._corners: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self._pixel_size_m: float | None = None

    @property
    def frames(self) -> int:
        """Frames in the image."""
        return len(self.canvas)

    def add(self, scan: Scan) -> int:
        """Predict the frames of `scan` and add their patches; the number of frames that are in the image by this.

        Frames wait where there are too few for a group.

        Raises
        ------
        ConfigError, ScanError
            If the first frames do not fit the model, or their positions are in no known unit.
        """
        if scan.N != self._model.config.model.N:
            wanted = self._model.config.model.N
            raise ConfigError(
                f"data: got patterns of {scan.N} pixels, want {wanted} as the model was trained"
            )
        kept = self._without_strays(scan)
        if kept is None:
            return 0
        self._pixel_size_m = kept.pixel_size_m
        self._energy += float(kept.pattern_energies.sum()) / kept.lit_fraction
        self._largest = max(self._largest, float(kept.pattern_maxima.max()))
        self._count += len(kept)
        groups = self._groups(kept)
        if groups is None:
            return 0
        self._model = with_room_for(self._model, groups)
        # phases are settled for all at once, of the parts that are stitched alone
        central = [
            crop_centre(patches[..., 0], self._size)[..., None] for _, patches in self._patches(groups)
        ]
        patches, centres = np.concatenate(central), groups.group_centres_px
        good = np.isfinite(patches).all(axis=(1, 2, 3))
        for x, y in centres[~good, 0, :, 0]:
            self.left_out.append(f"the frame at x = {x:.2f}, y = {y:.2f}: its patch is not finite")
        if good.any():
            self.canvas.add(patches[good], centres[good])
        return int(good.sum())

    def image(self) -> Reconstruction:
        """The image so far."""
        return self.canvas.image(self._backend.name, self._pixel_size_m)

    def _patches(self, groups: GroupedData) -> Iterator[tuple[slice, NDArray[np.complex64]]]:
        predict = getattr(self._backend, "object_patches", None)
        if predict is not None:
            yield from predict(self._model, groups, self._execution)
            return
        # a backend that fills in the protocol alone
        predicted = self._backend.predict(self._model, groups, execution=self._execution)
        yield slice(0, len(groups)), predicted.object.astype(np.complex64)

    def _groups(self, scan: Scan) -> GroupedData | None:
        """One group for each new frame, of it and its nearest neighbours among the frames so far."""
        size = self._model.config.model.group_size
        if size == 1:
            return self._of_all(scan, np.arange(len(scan))[:, None])
        if self._recent is None:
            self._recent = _Recent(scan)
        first = self._recent.add(scan)
        seeds = np.arange(first, len(self._recent))
        if len(self._recent) < size:
            return None
        if self._recent.ungrouped:
            seeds = np.arange(len(self._recent))
            self._recent.ungrouped = False
        positions = self._recent.positions
        members = np.concatenate([seeds[:, None], nearest(positions, seeds, size - 1)], axis=1)
        used, local = np.unique(members, return_inverse=True)
        return self._of_all(self._recent.scan(used), local.reshape(members.shape))

    def _of_all(self, scan: Scan, members: NDArray[np.int64]) -> GroupedData:
        config = self._model.config
        mean, largest = self._energy / max(self._count, 1), self._largest
        if config.data_scaling == "Max":
            normalisation = 1.0 / largest if largest > 0 else 1.0
        else:
            normalisation = math.sqrt((scan.N / 2) ** 2 / mean) if mean > 0 else 1.0
        groups = GroupedData(scan, members, known_normalisation=normalisation)
        return groups.as_configured(config)

    def _without_strays(self, scan: Scan) -> Scan | None:
        """`scan` without positions far from all others, before a canvas is made that no memory holds."""
        positions = scan.scan_positions_px
        low, high = positions.min(axis=0), positions.max(axis=0)
        if self._corners is not None:
            low, high = np.minimum(low, self._corners[0]), np.maximum(high, self._corners[1])
        if np.prod(high - low + scan.N) <= MOST_PIXELS:
            self._corners = low, high
            return scan
        if self._corners is None:
            require_sane_canvas(positions, scan.N, scan.name)
            self._corners = low, high
            return scan
        low, high = self._corners
        margin = STRAY_SIDES * scan.N
        good = ((positions >= low - margin) & (positions <= high + margin)).all(axis=1)
        for number in scan.scan_index[~good].tolist():  # type: ignore[index]
            self.strays.append(number)
            self.left_out.append(f"frame {number}: its position is far from all others")
        if not good.any():
            return None
        self._corners = (
            np.minimum(low, positions[good].min(axis=0)),
            np.maximum(high, positions[good].max(axis=0)),
        )
        return scan if good.all() else scan.part(np.flatnonzero(good))


class _Recent:
    """The last frames, from which neighbours are chosen."""

    def __init__(self, scan: Scan) -> None:
        each = int(scan.patterns.dtype.itemsize) * scan.N**2
        self._most = max(LEAST_RECENT, min(RECENT_FRAMES, RECENT_BYTES // each))
        self._like = scan
        self._patterns = np.empty((2 * self._most, scan.N, scan.N), scan.patterns.dtype)
        self._positions = np.empty((2 * self._most, 2))
        self._count = 0
        self.ungrouped = True

    def __len__(self) -> int:
        return self._count

    @property
    def positions(self) -> NDArray[np.float64]:
        """(n, 2), `[x, y]` of the frames that are kept."""
        return self._positions[: self._count]

    def add(self, scan: Scan) -> int:
        """Add frames, and forget the oldest; the number of the first new one."""
        if self._count + len(scan) > len(self._patterns):
            keep = max(0, self._most - len(scan))
            for array in (self._patterns, self._positions):
                array[:keep] = array[self._count - keep : self._count].copy()
            self._count = keep
        first, self._count = self._count, self._count + len(scan)
        self._patterns[first : self._count] = scan.patterns
        self._positions[first : self._count] = scan.scan_positions_px
        return first

    def scan(self, used: NDArray[np.int64]) -> Scan:
        x, y = self.positions[used].T
        return dataclasses.replace(
            self._like, xcoords=x, ycoords=y, patterns=self._patterns[used], xcoords_start=None, ycoords_start=None,
            scan_index=None,
        )  # fmt: skip
