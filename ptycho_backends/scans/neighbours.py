"""Members of a seed position's groups: its nearest, those within a range, or one from each quadrant.

`grouping.group_scan` is the plain rule that every model knows; Ptychodus offers these choices besides. NumPy
that every backend shares, and no loop over positions.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy
from numpy.typing import NDArray

from ptycho_backends.errors import ConfigError, GroupingError
from ptycho_backends.scans.grouping import GroupedData, nearest
from ptycho_backends.scans.scan import Scan

log = logging.getLogger(__name__)

FUNCTIONS = ("Nearest", "Min_dist", "4_quadrant")
SCAN_PATTERNS = ("Isotropic", "Rectangular")
QUADRANTS = 4

# Of more positions in range than these, the nearest ones are chosen from.
MOST_CANDIDATES = 256
# Random numbers that are drawn at once: 32 MB.
CHUNK_KEYS = 4_000_000
# Draws until a seed's groups all differ; a complete set of 15 subsets takes about a hundred.
MOST_REDRAWS = 400

Columns = NDArray[np.int64]
Pick = Callable[[NDArray[np.int64], int, np.random.Generator], Columns]
"""For rows of kinds of candidates (-1: none), the columns of a group of that size from each."""
Draw = Callable[[NDArray[np.int64]], Columns]
"""For rows of the table of candidates, the columns of one group each."""


@dataclass(frozen=True)
class NeighbourChoice:
    """Rule by which the groups around a seed position are chosen.

    Attributes
    ----------
    group_size : int
        `C`; a group of one is the seed itself, whatever else is chosen.
    function : {'Nearest', 'Min_dist', '4_quadrant'}
        `C` of the `neighbor_count` nearest; `C` of those between `min_distance_px` and `max_distance_px`
        (the seed among them if the former is 0); or one of the `quadrant_count` nearest from each quadrant
        around the seed.
    neighbor_count, quadrant_count : int
    min_distance_px, max_distance_px : float
    groups_per_seed : int
        Different groups around each seed; as many as there are where there are fewer.
    scan_pattern : {'Isotropic', 'Rectangular'}
        'Rectangular': distances are measured on the scan stretched until the steps along x and y are
        equal (to their geometric mean), so that a group reaches as many rows as columns.

    Raises
    ------
    ConfigError
        Lists every value that is not allowed, under the name that Ptychodus has for it.
    """

    group_size: int = 4
    function: str = "Nearest"
    neighbor_count: int = 6
    min_distance_px: float = 0.0
    max_distance_px: float = 3.0
    quadrant_count: int = 30
    groups_per_seed: int = 7
    scan_pattern: str = "Isotropic"

    def __post_init__(self) -> None:
        problems = []
        if self.function not in FUNCTIONS:
            problems.append(f"neighbor_function: got {self.function!r}, want one of {FUNCTIONS}")
        if self.scan_pattern not in SCAN_PATTERNS:
            problems.append(f"scan_pattern: got {self.scan_pattern!r}, want one of {SCAN_PATTERNS}")
        if self.groups_per_seed < 1:
            problems.append(f"n_subsample: got {self.groups_per_seed}, want an integer >= 1")
        if self.group_size > 1:
            problems += self._problems_of_the_function()
        if problems:
            raise ConfigError("; ".join(problems))

    def _problems_of_the_function(self) -> list[str]:
        size = self.group_size
        if self.function == "Nearest" and self.neighbor_count < size:
            return [f"K: got {self.neighbor_count} nearest neighbours, want at least the {size} of a group"]
        if self.function == "Min_dist" and not 0 <= self.min_distance_px < self.max_distance_px:
            return [
                f"min_neighbor_distance, max_neighbor_distance: got {self.min_distance_px:g} and "
                f"{self.max_distance_px:g} pixels, want 0 <= min < max"
            ]
        if self.function == "4_quadrant" and size != QUADRANTS:
            return [f"neighbor_function: '4_quadrant' makes groups of {QUADRANTS}, but C is {size}; set C=4"]
        if self.function == "4_quadrant" and self.quadrant_count < QUADRANTS:
            return [f"K_quadrant: got {self.quadrant_count}, want at least {QUADRANTS}"]
        return []


def seeds_within(
    scan: Scan, x_bounds: tuple[float, float], y_bounds: tuple[float, float]
) -> NDArray[np.int64]:
    """Positions in the part of the scan's bounding box that the bounds name.

    Parameters
    ----------
    scan : Scan
    x_bounds, y_bounds : (low, high)
        Fractions of the box's width and height, `0 <= low < high <= 1`; both ends belong to it.

    Raises
    ------
    ConfigError
        If the bounds are none.
    GroupingError
        If no position lies within them.
    """
    inside = np.ones(len(scan), bool)
    for name, bounds, coordinates in (
        ("x_bounds", x_bounds, scan.xcoords),
        ("y_bounds", y_bounds, scan.ycoords),
    ):
        low, high = bounds
        if not 0 <= low < high <= 1:
            raise ConfigError(f"{name}: got {low:g} .. {high:g}, want 0 <= low < high <= 1")
        start, extent = coordinates.min(), np.ptp(coordinates)
        # a line of positions has no extent across it: all of it is within
        if extent > 0:
            fraction = (coordinates - start) / extent
            inside &= (fraction >= low) & (fraction <= high)
    if not inside.any():
        raise GroupingError(
            f"{scan.name}: x_bounds={tuple(x_bounds)}, y_bounds={tuple(y_bounds)} leave none of its "
            f"{len(scan)} positions; widen them"
        )
    return np.flatnonzero(inside)


def group_around(
    scan: Scan,
    seeds: NDArray[np.integer],
    choice: NeighbourChoice,
    *,
    seed: int | None = None,
    leave_none_out: bool = False,
) -> GroupedData:
    """Form the groups around the positions `seeds`, those of a seed one after the other.

    Parameters
    ----------
    scan : Scan
    seeds : integer array
    choice : NeighbourChoice
    seed : int, optional
        Of the random numbers; the same gives the same groups in every backend.
    leave_none_out : bool
        A seed without partners as `choice` wants them gets its nearest ones instead, and a warning gives
        how many did; otherwise it is dropped.

    Raises
    ------
    GroupingError
        If the scan has fewer positions than a group, or no seed finds partners.
    """
    generator, size = np.random.default_rng(seed), choice.group_size
    around = np.asarray(seeds, np.int64)
    if size == 1:
        return GroupedData(scan, around[:, None])
    if len(scan) < size:
        raise GroupingError(f"{scan.name}: {len(scan)} positions, want at least {size} for groups of {size}")
    positions = scan.scan_positions_px
    if choice.scan_pattern == "Rectangular":
        steps = axis_steps_px(positions)
        positions = positions / steps * math.sqrt(steps.prod())
    members, of_seed = _members(positions, around, choice, generator)
    served = np.unique(of_seed)
    lonely = np.setdiff1d(np.arange(len(around)), served)
    if len(lonely) and leave_none_out:
        log.warning(
            "%s: %d of %d positions have no partners as %s wants them; they get their nearest ones",
            scan.name, len(lonely), len(around), choice.function,
        )  # fmt: skip
        plain = NeighbourChoice(
            size, neighbor_count=max(size, choice.neighbor_count), groups_per_seed=choice.groups_per_seed
        )
        more, of_lonely = _members(positions, around[lonely], plain, generator)
        members, of_seed = np.concatenate([members, more]), np.concatenate([of_seed, lonely[of_lonely]])
        members = members[np.argsort(of_seed, kind="stable")]
    elif len(members) == 0:
        raise GroupingError(f"{scan.name}: {_why_nobody(choice)}, so there are no groups of {size}")
    elif len(lonely):
        log.info(
            "%s: %d of %d seed positions have no partners and are left out",
            scan.name, len(lonely), len(around),
        )  # fmt: skip
    return GroupedData(scan, members)


def _why_nobody(choice: NeighbourChoice) -> str:
    if choice.function == "Min_dist":
        return (
            f"around no position lie {choice.group_size} others between min_neighbor_distance="
            f"{choice.min_distance_px:g} and max_neighbor_distance={choice.max_distance_px:g} pixels"
        )
    return f"no position has one of its K_quadrant={choice.quadrant_count} nearest in each quadrant"


def axis_steps_px(positions_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2,) typical distance of neighbours along x and along y; equal ones where there are no rows.

    The median length, along that axis, of the edges of the Delaunay triangulation that run more along it
    than across it: right for rasters, also when they are jittered.
    """
    try:
        corners = scipy.spatial.Delaunay(positions_px).simplices
    except (scipy.spatial.QhullError, ValueError):
        # a line, or too few positions: nothing to stretch
        return np.ones(2)
    ends = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])
    edges = np.abs(np.diff(positions_px[ends], axis=1)[:, 0])
    along_x = edges[:, 0] >= edges[:, 1]
    if along_x.all() or not along_x.any():
        return np.ones(2)
    return np.array([np.median(edges[along_x, 0]), np.median(edges[~along_x, 1])])


def _members(
    positions: NDArray[np.float64],
    seeds: NDArray[np.int64],
    choice: NeighbourChoice,
    generator: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(B, C) positions of every group, and (B,) number of the seed that each belongs to."""
    if choice.function == "4_quadrant":
        candidates = nearest(positions, seeds, min(choice.quadrant_count, len(positions) - 1))
        kinds = _quadrants(positions[candidates] - positions[seeds][:, None])
        counts = np.stack([(kinds == quadrant).sum(axis=1) for quadrant in range(QUADRANTS)], axis=1)
        possible = counts.prod(axis=1)
        pick = _one_of_each
    else:
        if choice.function == "Nearest":
            candidates = nearest(positions, seeds, choice.neighbor_count)
            valid = np.ones(candidates.shape, bool)
        else:
            candidates, valid = _within_range(
                positions, seeds, choice.min_distance_px, choice.max_distance_px
            )
        kinds = np.where(valid, 0, -1)
        found = valid.sum(axis=1)
        table = np.array([math.comb(n, choice.group_size) for n in range(found.max() + 1)], float)
        possible = np.minimum(table[found], choice.groups_per_seed).astype(np.int64)
        pick = _some
    rounds = min(choice.groups_per_seed, int(possible.max(initial=0)))
    _tell_if_fewer(choice.groups_per_seed, rounds)
    members, of_seed = [np.empty((0, choice.group_size), np.int64)], [np.empty(0, np.int64)]
    chunk = max(1, CHUNK_KEYS // (max(1, rounds) * candidates.shape[1]))
    for start in range(0, len(seeds) if rounds else 0, chunk):
        part = slice(start, start + chunk)
        draw = partial(_drawn, pick, kinds[part], choice.group_size, generator)
        rows, columns = _different(draw, possible[part], rounds)
        members.append(np.take_along_axis(candidates[part][rows], columns, axis=1))
        of_seed.append(rows + start)
    return np.concatenate(members), np.concatenate(of_seed)


def _drawn(
    pick: Pick,
    kinds: NDArray[np.int64],
    size: int,
    generator: np.random.Generator,
    rows: NDArray[np.int64],
) -> Columns:
    return pick(kinds[rows], size, generator)


def _tell_if_fewer(asked: int, rounds: int) -> None:
    if 0 < rounds < asked:
        log.warning("n_subsample: %d groups around each position asked for, %d can be formed", asked, rounds)


def _within_range(
    positions: NDArray[np.float64], seeds: NDArray[np.int64], low: float, high: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(S, k) positions, nearest first, and a mask of those in `[low, high]` of the seed."""
    tree = scipy.spatial.cKDTree(positions)
    too_close = 0
    if low > 0:
        too_close = int(tree.query_ball_point(positions[seeds], low, return_length=True).max())
    reach = int(tree.query_ball_point(positions[seeds], high, return_length=True).max())
    reach = max(1, min(reach, too_close + MOST_CANDIDATES))
    distances, found = tree.query(positions[seeds], k=reach)
    distances, found = np.reshape(distances, (-1, reach)), np.reshape(found, (-1, reach)).astype(np.int64)
    return found, (distances >= low) & (distances <= high)


def _quadrants(offsets: NDArray[np.float64]) -> NDArray[np.int64]:
    """Quadrant, 0 .. 3 in the order of an image's rows, that `offsets` (..., [x, y]) point to."""
    return (offsets[..., 0] >= 0) + 2 * (offsets[..., 1] >= 0)


def _some(kinds: NDArray[np.int64], size: int, generator: np.random.Generator) -> Columns:
    """Of each row `size` columns of kind 0 at random, in ascending order."""
    keys = generator.random(kinds.shape)
    keys[kinds < 0] = np.inf
    size = min(size, kinds.shape[1])
    return np.sort(np.argpartition(keys, size - 1, axis=1)[:, :size], axis=1)


def _one_of_each(kinds: NDArray[np.int64], size: int, generator: np.random.Generator) -> Columns:
    """Of each row one column of each kind at random."""
    keys = generator.random(kinds.shape)
    chosen = [np.where(kinds == kind, keys, np.inf).argmin(axis=1) for kind in range(size)]
    return np.stack(chosen, axis=1)


def _different(draw: Draw, possible: NDArray[np.int64], rounds: int) -> tuple[NDArray[np.int64], Columns]:
    """`min(rounds, possible)` different groups for each row: the row's number, and the columns."""
    count = len(possible)
    drawn = draw(np.repeat(np.arange(count), rounds))
    drawn = drawn.reshape(count, rounds, -1)
    wanted = np.arange(rounds) < possible[:, None]
    for _ in range(MOST_REDRAWS):
        rows, turns = np.nonzero(wanted & _repeats(drawn, wanted))
        if len(rows) == 0:
            break
        drawn[rows, turns] = draw(rows)
    rows, turns = np.nonzero(wanted & ~_repeats(drawn, wanted))
    return rows, drawn[rows, turns]


def _repeats(drawn: Columns, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mask of the groups of a row that were drawn before in that row."""
    factors = np.random.default_rng(0).integers(1, 2**63, drawn.shape[-1], np.uint64) | np.uint64(1)
    with np.errstate(over="ignore"):
        # a sum that stands for the group: two groups share one with a chance of 1 in 10^19
        codes = (drawn.astype(np.uint64) * factors).sum(axis=-1, dtype=np.uint64)
    order = np.argsort(codes, axis=1, kind="stable")
    codes = np.take_along_axis(codes, order, axis=1)
    same = np.zeros(codes.shape, bool)
    same[:, 1:] = codes[:, 1:] == codes[:, :-1]
    repeated = np.zeros(codes.shape, bool)
    np.put_along_axis(repeated, order, same, axis=1)
    return repeated & wanted
