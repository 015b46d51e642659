"""One constant phase for all patches, before they are averaged (docs/model.md, section 7).

Patterns do not determine the constant phase of an exit wave, so the patches of two groups may differ by one although
they show the same object. Averaged as they are, they cancel out each other's slow phases.

Each patch is reduced to the sums of its pixels over the cells of a grid that all patches share, and pairs of patches
are compared in the cells that both cover. The strongest pairs make a tree that gives a first phase to every patch;
least squares over all pairs refine it. Time and memory grow with the number of patches, however dense they are: one
patch of each small square is a hub, and the others are compared with the nearest hubs only.
"""

import tempfile
from collections.abc import Callable, Iterator

import numpy as np
import scipy
from numpy.typing import NDArray

from ptycho_backends import checks
from ptycho_backends.errors import ShapeError
from ptycho_backends.reference.physics import crop_centre

AddUp = Callable[[NDArray[np.float64]], None]
"""All-reduce: replaces a contiguous array by its sum over all processes, in place."""

WAITING_BYTES = 2 << 30
"""Patches that take more wait in a temporary file instead of memory."""

CELL_PX = 4
"""Largest side of a cell in pixels."""

CELLS_ACROSS = 10
"""Cells along the side of a patch, at least; fewer only where it has fewer pixels."""

SQUARES_ACROSS = 4
"""Squares along the side of a patch. One patch of each is a hub, which is compared with every hub that it overlaps."""

HUBS_OF_A_PATCH = 8
"""Nearest hubs that every other patch is compared with."""

ROUNDS = 8
"""Least squares are repeated at most so often, because a phase difference is known but for whole turns."""

RESIDUAL = 1e-5
"""Relative residual at which conjugate gradients end."""

ITERATIONS = 2000
"""Most iterations of conjugate gradients."""

BLOCKS = 4096
"""Most blocks of patches, whose common phases are solved for directly, to speed conjugate gradients up."""

# Numbers that are worked on at once; temporaries stay at tens of MB.
CHUNK = 1 << 20


def agreed_phases(
    patches: NDArray, centres_px: NDArray, weights: NDArray | None = None
) -> NDArray[np.float64]:
    """The constant phase of every patch; `patches * exp(-1j * phase)` agree where they overlap.

    Parameters
    ----------
    patches : (n, M, M) complex array, [y, x]
    centres_px : (n, 2) array, [x, y]
        Position of the middle of each patch, pixels.
    weights : (M, M) real array, [y, x], optional
        Trust in each pixel of a patch; default 1 everywhere.

    Returns
    -------
    (n,) float64 array
        Radians, from -pi to pi. The constant that is common to all patches is free: it is such that the sum of
        `exp(-1j * phase)`, weighted by each patch's intensity, is real and positive. Where patches overlap in islands,
        each island has its own. A dark patch, a patch that is not finite and one that overlaps none have 0.

    Raises
    ------
    ShapeError

    References
    ----------
    docs/model.md, section 7.
    """
    checks.require_shape("patches", patches, (None, None, None), ("groups", "y", "x"))
    if patches.shape[1] != patches.shape[2] or patches.shape[1] == 0:
        raise ShapeError(f"patches: got {patches.shape[1]} x {patches.shape[2]} pixels, want a square")
    agreement = PhaseAgreement(centres_px, patches.shape[-1], weights)
    checks.require_shape("centres_px", centres_px, (len(patches), 2), ("groups", "xy"))
    chunk = max(1, CHUNK // patches[0].size) if len(patches) else 1
    for start in range(0, len(patches), chunk):
        part = slice(start, start + chunk)
        agreement.add(part, patches[part])
    return agreement.phases()


class PhaseAgreement:
    """The phases of `agreed_phases`, from patches that arrive batch by batch and are not kept.

    Parameters
    ----------
    centres_px : (n, 2) array, [x, y]
        Of all patches, pixels.
    size : int
        `M`, side of a patch.
    weights : (M, M) real array, [y, x], optional

    Raises
    ------
    ShapeError
    """

    def __init__(self, centres_px: NDArray, size: int, weights: NDArray | None = None) -> None:
        checks.require_shape("centres_px", centres_px, (None, 2), ("groups", "xy"))
        checks.require_finite("centres_px", centres_px)
        if weights is not None:
            checks.require_shape("weights", weights, (size, size), ("y", "x"))
            checks.require_finite("weights", weights)
        self._weights = None if weights is None else np.asarray(weights, np.float32)
        self._size = size
        self._cell = min(CELL_PX, max(1, size // CELLS_ACROSS))
        corners = np.asarray(centres_px, np.float64) - size / 2
        self._corners = corners - (corners.min(axis=0) if len(corners) else 0)
        self._first = np.floor(self._corners / self._cell).astype(np.int64)
        # a patch may begin and end within a cell
        across = -(-size // self._cell) + 1
        self._sums = np.zeros((len(corners), across, across), np.complex64)

    def add(self, part: slice, patches: NDArray) -> None:
        """Take the (b, M, M) patches whose numbers are `part`."""
        if self._weights is not None:
            patches = patches * self._weights
        down, right = self._shares(part, 1), self._shares(part, 0)
        self._sums[part] = down @ patches @ right.transpose(0, 2, 1)

    def _shares(self, part: slice, axis: int) -> NDArray[np.float32]:
        """(b, C, M) share of each pixel, shifted by a part of a pixel, in each cell along an axis."""
        corner, first = self._corners[part, axis, None, None], self._first[part, axis, None, None]
        across = self._sums.shape[-1]
        edges = (first + np.arange(across + 1)[:, None]) * self._cell - corner
        return np.diff(np.clip(edges - np.arange(self._size), 0, 1), axis=1).astype(np.float32)

    def add_up(self, add_up: AddUp) -> None:
        """Sum over all processes, each of which has had some of the patches."""
        rows = max(1, CHUNK // max(1, self._sums[:1].size))
        for start in range(0, len(self._sums), rows):
            numbers = self._sums[start : start + rows].view(np.float32)
            total = numbers.astype(np.float64)
            add_up(total)
            numbers[...] = total

    def phases(self) -> NDArray[np.float64]:
        """As `agreed_phases` returns them, of the patches so far; the others count as dark."""
        intensities = np.array([np.vdot(each, each).real for each in self._sums], np.float64)
        lit = np.isfinite(intensities) & (intensities > 0)
        i, j = self._pairs(lit)
        product = self._products(i, j)
        used = np.abs(product) > 0
        phases, island = _solved(self._blocks(), i[used], j[used], product[used])
        # the constant of each island
        turn = np.where(lit, intensities, 0) * np.exp(-1j * phases)
        mean = np.bincount(island, turn.real) + 1j * np.bincount(island, turn.imag)
        return np.where(lit, np.angle(np.exp(1j * (phases + np.angle(mean)[island]))), 0.0)

    def _pairs(self, lit: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the pairs to compare, which are in proportion to the patches however dense these are."""
        numbers = np.flatnonzero(lit)
        _, chosen = self._squares(numbers, self._size / SQUARES_ACROSS)
        is_hub = np.zeros(len(numbers), np.bool_)
        is_hub[chosen] = True
        hubs, others = numbers[is_hub], numbers[~is_hub]
        if len(hubs) == 0:
            return hubs, hubs
        tree = scipy.spatial.cKDTree(self._corners[hubs])
        between = np.sort(hubs[tree.query_pairs(self._size, p=np.inf, output_type="ndarray")], axis=1)
        _, near = tree.query(
            self._corners[others], HUBS_OF_A_PATCH, p=np.inf, distance_upper_bound=self._size
        )
        found = near < len(hubs)
        to_hubs = np.stack([np.broadcast_to(others[:, None], near.shape)[found], hubs[near[found]]], axis=1)
        pairs = np.concatenate([between, to_hubs])
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        return pairs[order, 0], pairs[order, 1]

    def _squares(
        self, numbers: NDArray[np.intp], side_px: float
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Number of the square in which each patch of `numbers` lies, and the first patch in each square."""
        square = np.floor(self._corners[numbers] / side_px).astype(np.int64)
        key = square[:, 1] * (square[:, 0].max(initial=0) + 1) + square[:, 0]
        _, first, number = np.unique(key, return_index=True, return_inverse=True)
        return number, first

    def _blocks(self) -> NDArray[np.intp]:
        """Number of the block to which each patch belongs."""
        side = 2.0 * self._size
        while True:
            block, first = self._squares(np.arange(len(self._corners)), side)
            if len(first) <= BLOCKS:
                return block
            side *= 2

    def _products(self, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.complex128]:
        """Sum over the common cells of each pair of the one's values times the other's, conjugated."""
        across = self._sums.shape[-1]
        shift = self._first[j] - self._first[i]
        products = np.zeros(len(i), np.complex128)
        # pairs with the same shift have the same cells in common
        key = (shift[:, 1] + across) * (2 * across + 1) + shift[:, 0] + across
        order = np.argsort(key, kind="stable")
        chunk = max(1, CHUNK // max(1, across**2))
        for same in np.split(order, np.flatnonzero(np.diff(key[order])) + 1):
            for start in range(0, len(same), chunk):
                pair = same[start : start + chunk]
                x, y = shift[pair[0]].tolist()
                here = self._sums[i[pair], max(y, 0) : across + min(y, 0), max(x, 0) : across + min(x, 0)]
                there = self._sums[j[pair], max(-y, 0) : across - max(y, 0), max(-x, 0) : across - max(x, 0)]
                products[pair] = np.einsum("pyx,pyx->p", here, there.conj())
        return products


def _solved(
    block: NDArray[np.intp], i: NDArray[np.int64], j: NDArray[np.int64], product: NDArray[np.complex128]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Phases whose differences `i - j` are those of `product`, and the number of each phase's island."""
    count = len(block)
    weight, difference = np.abs(product), np.angle(product)
    phases, island = _along_the_tree(count, i, j, weight, difference)
    if len(i) == 0:
        return phases, island
    weight = weight / weight.max()
    graph = scipy.sparse.coo_array(
        (np.tile(weight, 2), (np.r_[i, j], np.r_[j, i])), shape=(count, count)
    ).tocsr()
    degree = graph.sum(axis=1)
    laplacian = scipy.sparse.diags_array(degree).tocsr() - graph
    nearly_inverse = _two_levels(laplacian, degree, block)
    turns = None
    for _ in range(ROUNDS):
        before, turns = turns, np.round((phases[i] - phases[j] - difference) / (2 * np.pi))
        if before is not None and (turns == before).all():
            break
        pull = weight * (difference + 2 * np.pi * turns - phases[i] + phases[j])
        target = np.bincount(i, pull, count) - np.bincount(j, pull, count)
        change, _ = scipy.sparse.linalg.cg(
            laplacian, target, rtol=RESIDUAL, maxiter=ITERATIONS, M=nearly_inverse
        )
        phases = phases + change
    return phases, island


def _two_levels(
    laplacian: "scipy.sparse.csr_array", degree: NDArray[np.float64], block: NDArray[np.intp]
) -> "scipy.sparse.linalg.LinearOperator":
    """Preconditioner: patches one by one, and blocks of patches together, so that neither scale takes long."""
    count = len(block)
    inverse = np.divide(1, degree, out=np.ones(count), where=degree > 0)
    members = scipy.sparse.csr_array((np.ones(count), (block, np.arange(count))))
    coarse = members @ laplacian @ members.T
    # islands leave constants free
    coarse = scipy.sparse.linalg.splu(
        (coarse + scipy.sparse.diags_array(1e-6 * (members @ degree) + 1e-12)).tocsc()
    )

    def solve(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        vector = vector.ravel()
        return inverse * vector + members.T @ coarse.solve(members @ vector)

    return scipy.sparse.linalg.LinearOperator((count, count), solve, dtype=np.float64)


def _along_the_tree(
    count: int,
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    weight: NDArray[np.float64],
    difference: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Phases summed along the heaviest tree of each island, and the number of each phase's island."""
    # ranks in place of weights: no two are equal, and that of an edge tells which pair it is
    heaviest = np.argsort(-weight, kind="stable")
    rank = np.empty(len(i))
    rank[heaviest] = np.arange(1, len(i) + 1)
    tree = scipy.sparse.csgraph.minimum_spanning_tree(
        scipy.sparse.csr_matrix((rank, (i, j)), shape=(count, count))
    )
    _, island = scipy.sparse.csgraph.connected_components(tree, directed=False)
    # one more node leads to the first patch of each island, so that one walk visits all of them
    _, first = np.unique(island, return_index=True)
    edges = tree.tocoo()
    rows, columns = np.r_[edges.row, np.full(len(first), count)], np.r_[edges.col, first]
    steps = scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(count + 1, count + 1))
    _, parent = scipy.sparse.csgraph.breadth_first_order(steps, count, directed=False)
    parent = np.where(parent < 0, count, parent)
    pair = heaviest[edges.data.astype(np.int64) - 1]
    phases = np.zeros(count + 1)
    forward = parent[i[pair]] == j[pair]
    phases[np.where(forward, i[pair], j[pair])] = np.where(forward, 1, -1) * difference[pair]
    # each pass doubles the length of the path that is summed
    while (parent != count).any():
        phases += phases[parent]
        parent = parent[parent]
    return phases[:count], island


class WaitingPatches:
    """Patches that wait until all are predicted, and come back with one constant phase.

    Parameters
    ----------
    centres_px : (n, 2) array, [x, y]
        Of all patches of all processes.
    size : int
        `M`, side of the central square that is stitched, and in which patches are compared.
    weights : (M, M) real array, [y, x], optional
    kept : (n, N, N, 1) complex64 array, optional
        Place for whole patches; they have the one phase in the end. Default: room for their central squares, in memory
        up to `WAITING_BYTES`, else in a temporary file, which is gone with this object.
    """

    def __init__(
        self,
        centres_px: NDArray,
        size: int,
        weights: NDArray | None = None,
        kept: NDArray[np.complex64] | None = None,
    ) -> None:
        self._agreement = PhaseAgreement(centres_px, size, weights)
        self._size = size
        self._room = _room((len(centres_px), size, size, 1)) if kept is None else kept
        self._parts: list[slice] = []

    def add(self, part: slice, patches: NDArray[np.complex64]) -> None:
        """Keep the (b, N, N, 1) patches whose numbers are `part`."""
        central = crop_centre(patches[..., 0], self._size)
        self._agreement.add(part, central)
        self._room[part] = patches if self._room.shape[1] == patches.shape[1] else central[..., None]
        self._parts.append(part)

    def turned(self, add_up: AddUp | None = None) -> Iterator[tuple[slice, NDArray[np.complex64]]]:
        """Yield what `add` took, the phases removed; with `add_up`, those that all processes found together."""
        if add_up is not None:
            self._agreement.add_up(add_up)
        turns = np.exp(-1j * self._agreement.phases()).astype(np.complex64)[:, None, None, None]
        for part in self._parts:
            patches = self._room[part]
            patches *= turns[part]
            yield part, patches


def _room(shape: tuple[int, ...]) -> NDArray[np.complex64]:
    """An array in memory, or in a file that the system removes when the array is gone."""
    if 8 * np.prod(shape, dtype=float) <= WAITING_BYTES:
        return np.empty(shape, np.complex64)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.complex64, "w+", shape=shape)
