"""An image that grows while its patches come: running sums on a canvas that is enlarged where it has to be."""

import numpy as np
import scipy
from numpy.typing import NDArray

from ptycho_backends.images.phase_agreement import agreed_phases
from ptycho_backends.images.reconstruct import within_scan
from ptycho_backends.images.stitching import Stitcher, require_size, square_around
from ptycho_backends.reference.physics import crop_centre
from ptycho_backends.values import Reconstruction

# A side that has to grow gets so much more than it needs, as a fraction of the canvas and in pixels at least.
SPARE, SPARE_PX = 0.25, 64


class GrowingCanvas:
    """Stitches batches of patches as they come.

    The image is that of `reconstruct` with the same patches, on a grid that the first batch places.

    Parameters
    ----------
    N : int
        Side of a patch.
    size : int
        Side of its central square that is used.
    patch_weights : (M, M) real array, [y, x], optional
        Trust in each pixel of a patch; default 1 everywhere.
    agree_on_phase : bool
        Turn the patches of a batch to one constant phase, and then to that of the image under them. Phases that
        were settled earlier stay, so that errors may add up along the scan (`phase_agreement` settles all at once).

    Raises
    ------
    ShapeError
        If `size` does not fit N.
    """

    def __init__(
        self, N: int, size: int, patch_weights: NDArray | None = None, *, agree_on_phase: bool = False
    ) -> None:
        require_size(size, N)
        self._size, self._weights, self._agree = size, patch_weights, agree_on_phase
        self._stitcher: Stitcher | None = None
        self._centres: list[NDArray[np.float64]] = []

    def __len__(self) -> int:
        return sum(map(len, self._centres))

    def add(self, patches: NDArray[np.complex64], group_centres_px: NDArray[np.float64]) -> None:
        """Add (B, N, N, 1) patches at their (B, 1, 2, 1) centres `[x, y]`."""
        centres = np.asarray(group_centres_px[:, 0, :, 0], np.float64)
        if self._stitcher is None:
            self._stitcher = Stitcher(square_around(group_centres_px, self._size), self._size, self._weights)
        self._make_room(centres)
        if self._agree:
            patches = self._turned(patches, centres)
        self._stitcher.add(patches, group_centres_px)
        self._centres.append(centres)

    def image(self, backend: str = "", pixel_size_m: float | None = None) -> Reconstruction:
        """The image so far, a copy cut to the part that patches cover.

        Raises
        ------
        RuntimeError
            If there is no patch yet.
        """
        if self._stitcher is None:
            raise RuntimeError("GrowingCanvas: no patch yet, so there is no image")
        image, coverage = self._stitcher.snapshot()
        origin, centres = self._stitcher.canvas.origin_px, np.concatenate(self._centres)
        if self._weights is not None:
            image, coverage = within_scan(image, coverage, centres, origin, self._size)
        rows, columns = (np.flatnonzero((coverage > 0).any(axis=axis)) for axis in (1, 0))
        if len(rows):
            part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            image, coverage = image[part], coverage[part]
            origin = origin + np.array([columns[0], rows[0]])
        return Reconstruction(
            object=np.ascontiguousarray(image),
            coverage=np.ascontiguousarray(coverage),
            origin_px=origin,
            group_centres_px=centres,
            backend=backend,
            pixel_size_m=pixel_size_m,
        )

    def _make_room(self, centres: NDArray[np.float64]) -> None:
        assert self._stitcher is not None
        canvas = self._stitcher.canvas
        corners = centres - self._size / 2 - canvas.origin_px
        extent = np.array([canvas.width, canvas.height])
        # the interpolation reaches one pixel further
        low = np.ceil(np.maximum(0, -corners.min(axis=0))).astype(int)
        high = np.ceil(np.maximum(0, corners.max(axis=0) + self._size + 1 - extent)).astype(int)
        spare = np.maximum(SPARE_PX, (SPARE * extent).astype(int))
        low, high = np.where(low > 0, low + spare, 0), np.where(high > 0, high + spare, 0)
        if low.any() or high.any():
            self._stitcher = self._stitcher.grown(int(low[0]), int(low[1]), int(high[0]), int(high[1]))

    def _turned(self, patches: NDArray[np.complex64], centres: NDArray[np.float64]) -> NDArray[np.complex64]:
        """`patches` with the phases on which they agree with one another and with the image."""
        central = crop_centre(patches[..., 0], self._size)
        phases = (
            agreed_phases(central, centres, self._weights) if len(central) > 1 else np.zeros(len(central))
        )
        # patches of a batch that overlap have one phase by now, and are compared with the image together
        product = self._products(central * np.exp(-1j * phases)[:, None, None], centres)
        island = self._islands(centres)
        total = np.bincount(island, product.real) + 1j * np.bincount(island, product.imag)
        phases = phases + np.angle(total)[island]
        return (patches * np.exp(-1j * phases)[:, None, None, None]).astype(np.complex64)

    def _products(self, central: NDArray, centres: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Each patch times the conjugate of the image under it, summed; 0 where there is no image."""
        assert self._stitcher is not None
        canvas = self._stitcher.canvas
        real, imaginary, _ = self._stitcher.sums
        corners = np.rint(centres - self._size / 2 - canvas.origin_px).astype(np.int64)
        steps = np.arange(self._size)
        rows, columns = corners[:, 1, None] + steps, corners[:, 0, None] + steps
        rows, columns = np.clip(rows, 0, canvas.height - 1), np.clip(columns, 0, canvas.width - 1)
        pixels = rows[:, :, None] * canvas.width + columns[:, None, :]
        weighted = central if self._weights is None else central * self._weights
        under = real[pixels] - 1j * imaginary[pixels]
        return np.einsum("byx,byx->b", weighted, under)

    def _islands(self, centres: NDArray[np.float64]) -> NDArray[np.int64]:
        """Number of the island of overlapping patches to which each belongs."""
        pairs = scipy.spatial.cKDTree(centres).query_pairs(self._size, p=np.inf, output_type="ndarray")
        count = len(centres)
        graph = scipy.sparse.coo_array(
            (np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count)
        )
        return np.asarray(scipy.sparse.csgraph.connected_components(graph, directed=False)[1], np.int64)
